"""The one training loop: every member of a population as if alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, Self

import numpy as np
import torch
from joblib import delayed
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow.errors import TrainingError
from kd_mlflow.population.backprop import Backprop
from kd_mlflow.population.history import (
    HELD_OUT,
    History,
    OnEpoch,
    Watch,
    ignore_epoch,
    replay,
    side_by_side,
)
from kd_mlflow.population.losses import Losses
from kd_mlflow.population.network import EVALUATION_ROWS, Population
from kd_mlflow.population.sampling import Batches, Inputs, Sampling
from kd_mlflow.population.workers import HERE, Pool, Workers

CHUNK_PARAMETERS = 300_000
"""Most weights that a worker trains at once: with Adam's two means they stay in its cache."""

THREAD_PARAMETERS = 150_000
"""Fewest weights that are worth a thread: with less, threads wait for Python's lock."""


class Loss(Protocol):
    """Gives one value per member and row, by name; training minimises the mean of ``train_loss``.

    NaN in any other value means that it does not exist for that row; curves leave it out.
    """

    def __call__(self, logits: Tensor, rows: Tensor, weight: Tensor | None) -> Losses:
        """Shape: logits (k, batch, classes), rows and weight (k, batch)."""

    def members(self, members: slice) -> Self:
        """The loss of some members."""


Evaluate = Callable[[Tensor], dict[str, Tensor]]
"""Validation metrics from logits.  Shape: (k, n, classes) -> (k,) each."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train: Adam with L2 weight decay.

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
    """Everything that one training needs: whom, on what, towards what, how."""

    population: Population
    rows: Rows
    loss: Loss
    schedule: Schedule
    seeds: Sequence[int]
    sampling: Sampling
    evaluate: Evaluate

    def fit(self, workers: Workers = HERE, on_epoch: OnEpoch = ignore_epoch) -> History:
        """Train every member in place, each as if alone; return the curves.

        Members are split into chunks, trained side by side with one intra-op thread each: as fast
        as several on a quiet machine, and nothing stalls on a busy one. A member's weights are the
        same bit for bit however members are chunked. They are those of its best epoch, the one of
        least ``held_out_loss``, where it holds rows out; its curves are NaN once it has ended.

        Raises TrainingError when a member's loss is no longer a finite number.
        """
        parts: dict[int, History] = {}
        with workers.pool(self) as pool, Watch(ignore_epoch if pool.remote else on_epoch) as watch:
            chunks = _chunks(self.population, pool)
            calls = (delayed(_fit_chunk)(self, members, watch) for members in chunks)
            for members, trained, history in pool(calls):
                self.population.copy_members_(members, trained)
                parts[members.start] = history
                if pool.remote:
                    replay(members, history, on_epoch)
        return side_by_side([parts[start] for start in sorted(parts)])


@torch.no_grad()
def _fit_chunk(task: Task, members: slice, watch: Watch) -> tuple[slice, Population, History]:
    """Train copies of some members; each one's gradient is that of its own mean loss."""
    rows, schedule, loss = task.rows, task.schedule, task.loss.members(members)
    population, seeds = task.population.members(members), task.seeds[members]
    backprop = Backprop(population, seeds=seeds)
    optimizer = torch.optim.Adam(
        [backprop.parameters], weight_decay=schedule.weight_decay, fused=True
    )
    batches = Batches(
        rows.train, task.sampling.members(members), seeds=seeds, batch_size=schedule.batch_size
    )
    rates = schedule.learning_rates(batches.per_epoch)
    judge = _Judge(task, members, population)
    curves: list[dict[str, NDArray[np.float64]]] = []
    with _plain_arithmetic():
        for epoch in range(1, schedule.epochs + 1):
            means = _Means()
            for x, batch, share in batches.epoch():
                if watch.over:
                    raise TrainingError("training was stopped")
                losses = loss(backprop.forward(x), batch, share)
                backprop.backward(losses.gradient / batch.shape[1])
                optimizer.param_groups[0]["lr"] = next(rates)
                optimizer.step()
                means.add(losses.values)
            metrics = {**means.result(), **task.evaluate(population.logits(rows.val))}
            curve = {name: value.double().cpu().numpy() for name, value in metrics.items()}
            _check_finite(curve["train_loss"][~judge.ended], epoch, schedule.learning_rate)
            curves.append(judge.look(population, curve))
            watch.on_epoch(members, epoch, curves[-1])
            if judge.ended.all():
                break
    history = {name: np.stack([curve[name] for curve in curves]) for name in curves[0]}
    return members, judge.best(population), history


class _Judge:
    """Scores members on the rows that they hold out, keeps their best weights, ends them."""

    def __init__(self, task: Task, members: slice, population: Population) -> None:
        self._held_out = task.sampling.members(members).held_out
        self._table, self._patience = task.rows.train, task.schedule.patience
        self._losses = [
            task.loss.members(slice(i, i + 1)) for i in range(members.start, members.stop)
        ]
        self._kept = population.members(slice(None)) if self._held_out else None
        self._least = np.full(population.k, np.inf)
        self._waited = np.zeros(population.k, dtype=np.int64)
        self.ended = np.zeros(population.k, dtype=np.bool_)

    def look(
        self, population: Population, curve: dict[str, NDArray[np.float64]]
    ) -> dict[str, NDArray[np.float64]]:
        """Judge an epoch; give its curves with ``held_out_loss``, NaN for who had ended before."""
        if self._kept is None:
            return curve
        found = np.full(population.k, np.nan)
        over = self.ended.copy()
        for i in np.flatnonzero(~over):
            found[i] = self._loss_of(population, int(i))
            better = found[i] < self._least[i]
            self._waited[i] = 0 if better else self._waited[i] + 1
            if better:
                self._least[i] = found[i]
                one = slice(int(i), int(i) + 1)
                self._kept.copy_members_(one, population.members(one))
        if self._patience:
            self.ended |= self._waited >= self._patience
        alive = {name: np.where(over, np.nan, values) for name, values in curve.items()}
        return {**alive, HELD_OUT: found}

    def best(self, population: Population) -> Population:
        """Each member with the weights of its best epoch."""
        return population.members(slice(None)) if self._kept is None else self._kept

    def _loss_of(self, population: Population, i: int) -> float:
        """Mean loss of one member on its rows, scored alone: the same bits whoever is beside it."""
        member, loss, total = population.members(slice(i, i + 1)), self._losses[i], 0.0
        rows = torch.from_numpy(self._held_out[i])[None].to(self._table.values.device)
        for some in torch.split(rows, EVALUATION_ROWS, dim=1):
            losses = loss(member(self._table.take(some)), some, None).values["train_loss"]
            total += float(losses.double().sum())
        return total / rows.shape[1]


class _Means:
    """Means over an epoch's rows of every value that a loss gives, without those that are NaN."""

    AT_ONCE = 256

    def __init__(self) -> None:
        self._waiting: list[dict[str, Tensor]] = []
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, losses: dict[str, Tensor]) -> None:
        """Take a batch's values.  Shape of each: (k, batch)."""
        self._waiting.append({name: value.detach() for name, value in losses.items()})
        if len(self._waiting) == self.AT_ONCE:
            self._reduce()

    def result(self) -> dict[str, Tensor]:
        """Mean values so far; NaN where there was none.  Shape of each: (k,)."""
        self._reduce()
        return {name: total / self._counts[name] for name, total in self._sums.items()}

    def _reduce(self) -> None:
        for name in self._waiting[0] if self._waiting else ():
            values = torch.cat([losses[name] for losses in self._waiting], dim=1)
            whole = name == "train_loss"  # exists for every row: NaN there means divergence
            known = torch.ones_like(values) if whole else (~values.isnan()).to(values.dtype)
            total = (values if whole else values.nan_to_num(0.0)).sum(dim=1)
            self._sums[name] = self._sums.get(name, 0) + total
            self._counts[name] = self._counts.get(name, 0) + known.sum(dim=1)
        self._waiting = []


def _check_finite(train_loss: NDArray[np.float64], epoch: int, learning_rate: float) -> None:
    if not np.isfinite(train_loss).all():
        raise TrainingError(
            f"training diverged: the loss is not a finite number in epoch {epoch}; "
            f"use a learning_rate below {learning_rate:g}"
        )


def _chunks(population: Population, pool: Pool) -> list[slice]:
    """Split members into runs of nearly equal length, as many for each worker."""
    size = population.k * population.parameters_per_member
    workers = pool.count if pool.remote else min(pool.count, max(1, size // THREAD_PARAMETERS))
    rounds = math.ceil(size / (workers * CHUNK_PARAMETERS))
    edges = np.linspace(0, population.k, min(population.k, workers * rounds) + 1)
    return [slice(int(a), int(b)) for a, b in pairwise(edges.round().astype(int))]


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
