"""The one training loop: every member of a population as if alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice, pairwise

import numpy as np
import torch
from joblib import delayed
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow.errors import TrainingError
from kd_mlflow.population.backprop import Backprop
from kd_mlflow.population.checkpoints import (
    NOWHERE,
    Checkpoints,
    Snapshot,
    equally_far,
    joined,
)
from kd_mlflow.population.epochs import Judge, Means, fill, numbered
from kd_mlflow.population.history import History, OnEpoch, Watch, ignore_epoch, replay, side_by_side
from kd_mlflow.population.losses import Loss
from kd_mlflow.population.network import Population
from kd_mlflow.population.optimizers import ADAM, MOMENTS, optimizer_of
from kd_mlflow.population.processes import Line
from kd_mlflow.population.sampling import Batches, Document, Inputs, Sampling
from kd_mlflow.population.workers import HERE, LARGE, Pool, Size, Workers

WEIGHT = "weight."
"""How a snapshot calls members' weights and biases, before their number."""

CHUNK_PARAMETERS = 300_000
"""Most weights that a worker trains at once: with the optimizer's means they stay in its cache."""

STEP_WORK = 2_000_000
"""Products that take as long as the small operations of a step."""

SENT_BYTES = 2**27
"""Most bytes of rows that are sent to processes, once for each chunk."""

Ears = Watch | Line
"""What a chunk tells of its epochs."""

Evaluate = Callable[[Tensor], dict[str, Tensor]]
"""Validation metrics from logits.  Shape: (k, n, classes) -> (k,) each."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How to train, how long and how fast, with L2 weight decay.

    A member ends after ``patience`` epochs without a lower loss on its held-out rows, if it has
    any; 0: it is trained for all epochs.

    >>> schedule = Schedule(epochs=2, batch_size=64, learning_rate=0.1, decay="cosine")
    >>> [round(rate, 3) for rate in schedule.learning_rates(steps_per_epoch=2)]
    [0.1, 0.085, 0.05, 0.015]
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    decay: str = "constant"
    patience: int = 0
    optimizer: str = ADAM

    def learning_rates(self, steps_per_epoch: int) -> Iterator[float]:
        """The rate of each step; cosine: Loshchilov & Hutter (2017), arXiv 1608.03983, eq. 5."""
        steps = self.epochs * steps_per_epoch
        for step in range(steps):
            share = (1 + math.cos(math.pi * step / steps)) / 2 if self.decay == "cosine" else 1.0
            yield self.learning_rate * share


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What members are trained on and followed on; both encoded the same way.

    ``train`` also has the rows that members hold out.  Shape: train (n, d_in), val (m, d_in).
    """

    train: Inputs
    val: Inputs


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything that one training needs: whom, on what, towards what, how.

    The schedule is one for all members, or one for each; all have as many epochs.
    """

    population: Population
    rows: Rows
    loss: Loss
    schedule: Schedule | tuple[Schedule, ...]
    seeds: Sequence[int]
    sampling: Sampling
    evaluate: Evaluate

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """Each member's."""
        if isinstance(self.schedule, Schedule):
            return (self.schedule,) * self.population.k
        return self.schedule

    @property
    def epochs(self) -> int:
        """Most epochs."""
        return self.schedules[0].epochs

    def fit(
        self,
        workers: Workers = HERE,
        on_epoch: OnEpoch = ignore_epoch,
        checkpoints: Checkpoints = NOWHERE,
    ) -> History:
        """Train every member in place, each as if alone; return the curves.

        Members are split into chunks, trained side by side with one intra-op thread each: as fast
        as several on a quiet machine, and nothing stalls on a busy one. A member's weights are the
        same bit for bit however members are chunked. They are those of its best epoch, the one of
        least ``held_out_loss``, where it holds rows out; its curves are NaN once it has ended.
        Members go on from ``checkpoints`` where these have them, and ``on_epoch`` hears the epochs
        behind them too; of a cluster's work whole chunks are kept.

        Raises TrainingError when a member's loss is no longer a finite number.
        """
        parts: dict[int, History] = {}
        own = checkpoints.owned_by(**self._description())
        found = own.found(self.population.k)
        opened = workers.pool(self, _size(self))
        with opened as pool, Watch(on_epoch) as watch, pool.hearing(watch) as heard:
            here = NOWHERE if pool.remote else own
            calls = (
                delayed(_fit_chunk)(self, some, heard, here, joined(found[some]))
                for chunk in _chunks(self, pool)
                for some in equally_far(chunk, found)
            )
            for members, trained in pool(calls):
                weights = self.population.members(members)
                fill(list(weights.parameters()), WEIGHT, trained.arrays)
                self.population.copy_members_(members, weights)
                parts[members.start] = trained.curves
                if pool.remote:
                    own.write(members, trained)
                    replay(members, trained.curves, on_epoch)
        return side_by_side([parts[start] for start in sorted(parts)])

    def warm(self, workers: Workers) -> None:
        """Start the processes that it will be trained in, if it will; do not wait for them."""
        workers.warm(_size(self))

    def _description(self) -> Document:
        """What a checkpoint of this training must have been made with."""
        return {
            "seeds": self.seeds,
            "sizes": self.population.sizes,
            "dropout": self.population.dropout,
            "epoch_rows": self.sampling.epoch_rows,
            "mixup": self.sampling.mixup,
            "schedules": [*map(asdict, self.schedules)],
        }


@torch.no_grad()
def _fit_chunk(
    task: Task, members: slice, watch: Ears, checkpoints: Checkpoints, found: Snapshot | None
) -> tuple[slice, Snapshot]:
    """Train copies of some members, from where they were found."""
    if found:
        replay(members, found.curves, watch.on_epoch)
        if found.done:
            return members, found
    with _plain_arithmetic():
        chunk = _Chunk(task, members)
        if found:
            chunk.restore(found)
        chunk.train(watch, checkpoints)
    done = chunk.done()
    checkpoints.write(members, done)
    return members, done


class _Chunk:
    """Some members of one schedule in training.

    Each one's gradient is that of its own mean loss.
    """

    def __init__(self, task: Task, members: slice) -> None:
        self._task, self._members = task, members
        self._schedule = task.schedules[members.start]
        sampling, seeds = task.sampling.members(members), task.seeds[members]
        self._population = task.population.members(members)
        self._backprop = Backprop(self._population, seeds=seeds)
        self._optimizer = optimizer_of(self._schedule.optimizer, self._backprop)
        self._batches = Batches(
            task.rows.train, sampling, seeds=seeds, batch_size=self._schedule.batch_size
        )
        alone = [task.loss.members(slice(i, i + 1)) for i in range(members.start, members.stop)]
        self._judge = Judge(
            self._population, alone, task.rows.train, sampling, patience=self._schedule.patience
        )
        self._loss, self._means = task.loss.members(members), Means()
        self._curves: list[dict[str, NDArray[np.float64]]] = []
        self._steps = 0

    def train(self, watch: Ears, checkpoints: Checkpoints) -> None:
        """Train to the last epoch, or until all members have ended."""
        kept = time.monotonic()
        rates = self._schedule.learning_rates(self._batches.per_epoch)
        rates = islice(rates, self._steps_behind, None)
        while len(self._curves) < self._schedule.epochs and not self._judge.ended.all():
            for x, rows, share in self._batches.epoch(self._steps):
                if watch.over or checkpoints.due(kept):
                    checkpoints.write(self._members, self.snapshot())
                    kept = time.monotonic()
                if watch.over:
                    raise TrainingError("training was stopped")
                self._step(x, rows, share, next(rates))
            self._end_epoch(watch)

    @property
    def _steps_behind(self) -> int:
        return len(self._curves) * self._batches.per_epoch + self._steps

    def _step(self, x: Tensor, rows: Tensor, share: Tensor | None, rate: float) -> None:
        losses = self._loss(self._backprop.forward(x), rows, share)
        self._backprop.backward(losses.gradient / rows.shape[1], self._schedule.weight_decay)
        self._optimizer.step(rate)
        self._means.add(losses.values)
        self._steps += 1

    def _end_epoch(self, watch: Ears) -> None:
        logits = self._population.logits(self._task.rows.val)
        metrics = {**self._means.result(), **self._task.evaluate(logits)}
        curve = {name: value.double().cpu().numpy() for name, value in metrics.items()}
        epoch, alive = len(self._curves) + 1, ~self._judge.ended
        if not np.isfinite(curve["train_loss"][alive]).all():
            raise TrainingError(
                f"training diverged: the loss is not a finite number in epoch {epoch}, at steps of "
                f"rate {self._schedule.learning_rate:g}; use a lower learning_rate"
            )
        self._curves.append(self._judge.look(self._population, curve))
        self._means, self._steps = Means(), 0
        watch.on_epoch(self._members, epoch, self._curves[-1])

    def done(self) -> Snapshot:
        """What has come of the training: the weights of each member's best epoch, the curves."""
        best = self._judge.best(self._population)
        weights = numbered(WEIGHT, list(best.parameters()))
        return Snapshot.of(self._history(), weights, ({},) * best.k)

    def snapshot(self) -> Snapshot:
        """All that the next steps depend on."""
        backprop = self._backprop
        moments = {n: backprop.matrices(own) for n, own in self._optimizer.moments().items()}
        streams = zip(self._batches.state, backprop.dropout.state, strict=True)
        arrays = {
            **numbered(WEIGHT, list(self._population.parameters())),
            **{k: v for name, own in moments.items() for k, v in numbered(name, own).items()},
            **self._judge.state,
            **self._means.state,
        }
        documents = tuple({**orders, "dropout": dropout} for orders, dropout in streams)
        return Snapshot.of(self._history(), arrays, documents, self._steps)

    def restore(self, found: Snapshot) -> None:
        """Go back to a snapshot."""
        backprop, arrays = self._backprop, found.arrays
        fill(list(self._population.parameters()), WEIGHT, arrays)
        moments = {name: torch.zeros_like(backprop.parameters.data) for name in MOMENTS}
        for name, flat in moments.items():
            fill(backprop.matrices(flat), name, arrays)
        self._judge.restore(arrays)
        self._means.restore(arrays, batches=found.steps)
        self._batches.restore(found.documents)
        backprop.dropout.state = [document["dropout"] for document in found.documents]
        by_epoch = range(found.epochs)
        self._curves = [{n: v[epoch] for n, v in found.curves.items()} for epoch in by_epoch]
        self._steps = found.steps
        self._optimizer.restore(moments, self._steps_behind)

    def _history(self) -> History:
        names = self._curves[0] if self._curves else ()
        return {n: np.stack([curve[n] for curve in self._curves]) for n in names}


def _alike(task: Task) -> Iterator[tuple[slice, Size]]:
    """Runs of members of one schedule, and how large the training of each is."""
    population, schedules, rows = task.population, task.schedules, task.sampling.epoch_rows
    turns = [i for i in range(1, population.k) if schedules[i] != schedules[i - 1]]
    for start, stop in pairwise((0, *turns, population.k)):
        own = schedules[start]
        step = (stop - start) * population.parameters_per_member * own.batch_size
        steps = own.epochs * (rows // own.batch_size)
        yield slice(start, stop), Size(step=step, whole=steps * (step + STEP_WORK))


def _size(task: Task) -> Size:
    """How large a training is; on a graphics card nothing waits for Python.

    One whose rows are too many to be sent counts for nothing beyond its steps.
    """
    rows = task.rows.train.values
    if rows.device.type != "cpu":
        return LARGE
    runs = [size for _, size in _alike(task)]
    whole = sum(size.whole for size in runs) if rows.nbytes <= SENT_BYTES else 0
    return Size(step=min(size.step for size in runs), whole=whole)


def _chunks(task: Task, pool: Pool) -> Iterator[slice]:
    """Split members of one schedule into runs of nearly equal length, as many for each worker."""
    for run, size in _alike(task):
        workers = pool.count if pool.apart else min(pool.count, size.threads)
        weights = (run.stop - run.start) * task.population.parameters_per_member
        rounds = math.ceil(weights / (workers * CHUNK_PARAMETERS))
        edges = np.linspace(run.start, run.stop, min(run.stop - run.start, workers * rounds) + 1)
        yield from (slice(int(a), int(b)) for a, b in pairwise(edges.round().astype(int)))


@contextmanager
def _plain_arithmetic() -> Iterator[None]:
    """One intra-op thread, and numbers below float32's least normal one count as 0.

    Weight decay and Adam's means bring what is not used down to such numbers, and processors are a
    hundred times slower on them: a student's training took nine times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)
