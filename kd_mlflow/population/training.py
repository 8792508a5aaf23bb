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
from kd_mlflow.population.losses import Losses
from kd_mlflow.population.network import Population
from kd_mlflow.population.sampling import Batches, Sampling
from kd_mlflow.population.workers import HERE, Pool, Workers

History = dict[str, NDArray[np.float64]]
"""Curves by name.  Shape of each: (epochs, k)."""

CHUNK_PARAMETERS = 300_000
"""Most weights that a worker trains at once: with Adam's two means they stay in its cache."""

THREAD_PARAMETERS = 150_000
"""Fewest weights that are worth a thread: with less, threads wait for Python's lock."""

OnEpoch = Callable[[slice, int, dict[str, NDArray[np.float64]]], None]
"""Receives which members, the epoch (from 1) and each curve's values, shape (members,)."""


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

    >>> schedule = Schedule(epochs=2, batch_size=64, learning_rate=0.1, decay="cosine")
    >>> [round(rate, 3) for rate in schedule.learning_rates(steps_per_epoch=2)]
    [0.1, 0.085, 0.05, 0.015]
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    decay: str = "constant"

    def learning_rates(self, steps_per_epoch: int) -> Iterator[float]:
        """The rate of each step; cosine: Loshchilov & Hutter (2017), arXiv 1608.03983, eq. 5."""
        steps = self.epochs * steps_per_epoch
        for step in range(steps):
            share = (1 + math.cos(math.pi * step / steps)) / 2 if self.decay == "cosine" else 1.0
            yield self.learning_rate * share


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What members are trained on and followed on; both encoded the same way.

    Shape: train (n, d_in), val (m, d_in).
    """

    train: Tensor
    val: Tensor


def ignore_epoch(members: slice, epoch: int, values: dict[str, NDArray[np.float64]]) -> None:
    """The null listener."""


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
        same bit for bit however members are chunked.

        Raises TrainingError when a member's loss is no longer a finite number.
        """
        parts: dict[int, History] = {}
        with workers.pool(self) as pool, _Watch(ignore_epoch if pool.remote else on_epoch) as watch:
            chunks = _chunks(self.population, pool)
            calls = (delayed(_fit_chunk)(self, members, watch) for members in chunks)
            for members, trained, history in pool(calls):
                self.population.copy_members_(members, trained)
                parts[members.start] = history
                if pool.remote:
                    _replay(members, history, on_epoch)
        ordered = [parts[start] for start in sorted(parts)]
        return {name: np.concatenate([p[name] for p in ordered], axis=1) for name in ordered[0]}


class _Watch:
    """Passes each epoch on, and stops all chunks at their next step once its block is left."""

    def __init__(self, on_epoch: OnEpoch) -> None:
        self.on_epoch = on_epoch
        self.over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.over = True


@torch.no_grad()
def _fit_chunk(task: Task, members: slice, watch: _Watch) -> tuple[slice, Population, History]:
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
    curves: list[dict[str, NDArray[np.float64]]] = []
    with _one_intra_op_thread():
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
            curves.append({name: value.double().cpu().numpy() for name, value in metrics.items()})
            _check_finite(curves[-1]["train_loss"], epoch, schedule.learning_rate)
            watch.on_epoch(members, epoch, curves[-1])
    history = {name: np.stack([curve[name] for curve in curves]) for name in curves[0]}
    return members, population.members(slice(None)), history


def _replay(members: slice, history: History, on_epoch: OnEpoch) -> None:
    """Call ``on_epoch`` for each epoch of a chunk that was trained in another process."""
    for epoch in range(1, len(history["train_loss"]) + 1):
        on_epoch(members, epoch, {name: values[epoch - 1] for name, values in history.items()})


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
def _one_intra_op_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
