"""The one training loop: every member of a population as if alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow.config import TrainingOptions
from kd_mlflow.errors import TrainingError
from kd_mlflow.models import DropoutStreams, Population
from kd_mlflow.sampling import MixupWeights, Sampling, row_orders

History = dict[str, NDArray[np.float64]]
"""Curves by name.  Shape of each: (epochs, k)."""

CHUNK_PARAMETERS = 250_000
"""Weights that one worker trains at a time; twelve reference teachers are two chunks."""

OnEpoch = Callable[[slice, int, dict[str, NDArray[np.float64]]], None]
"""Receives which members, the epoch (from 1) and each curve's values, shape (members,)."""


class Loss(Protocol):
    """One value a member and row, by name; training minimises the mean of ``train_loss``.

    NaN in any other value means that it does not exist for that row; curves leave it out.
    """

    def __call__(self, logits: Tensor, rows: Tensor, weight: Tensor | None) -> dict[str, Tensor]:
        """Shape: logits (k, batch, classes), rows and weight (k, batch) -> (k, batch) each."""

    def members(self, rows: slice) -> Self:
        """The loss of some members."""


Evaluate = Callable[[Tensor], dict[str, Tensor]]
"""Validation figures from logits.  Shape: (k, n, classes) -> (k,) each."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train: Adam with L2 weight decay."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    decay: str = "constant"

    @classmethod
    def of(cls, options: TrainingOptions, *, epochs: int, weight_decay: float) -> Schedule:
        """The schedule of resolved options, for teachers or students."""
        return cls(
            epochs=epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            weight_decay=weight_decay,
            decay=options.schedule,
        )


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

    def fit(self, on_epoch: OnEpoch = ignore_epoch) -> History:
        """Train the population in place; return the curves."""
        return fit(
            self.population,
            self.rows,
            self.loss,
            schedule=self.schedule,
            seeds=self.seeds,
            evaluate=self.evaluate,
            sampling=self.sampling,
            on_epoch=on_epoch,
        )


def fit(
    population: Population,
    rows: Rows,
    loss: Loss,
    *,
    schedule: Schedule,
    seeds: Sequence[int],
    evaluate: Evaluate,
    sampling: Sampling | None = None,
    on_epoch: OnEpoch = ignore_epoch,
) -> History:
    """Train every member in place, each as if alone; return the curves.

    Without a ``sampling`` every member sees every row once an epoch.

    Members are split into chunks, each trained in a thread with one intra-op thread: as fast as
    several intra-op threads on a quiet machine, and nothing stalls on a busy one. The chunks follow
    from the population alone, so figures do not depend on the number of cores.

    Raises TrainingError when a member's loss is no longer a finite number.
    """
    chunks = _chunks(population)
    draws = sampling or Sampling.whole(len(rows.train), population.k)
    stop = threading.Event()

    def train_chunk(members: slice) -> History:
        torch.set_num_threads(1)
        part = population.members(members)
        history = _fit_chunk(
            part,
            rows,
            loss.members(members),
            schedule=schedule,
            seeds=seeds[members],
            evaluate=evaluate,
            sampling=draws.members(members),
            on_epoch=lambda epoch, values: on_epoch(members, epoch, values),
            stop=stop,
        )
        population.copy_members_(members, part)
        return history

    workers = min(usable_cores(), len(chunks))
    with _intra_op_threads(1), ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(train_chunk, members) for members in chunks]
        try:
            parts = [future.result() for future in futures]
        finally:  # an error or an interrupt ends the other chunks at their next step
            stop.set()
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


def _fit_chunk(
    population: Population,
    rows: Rows,
    loss: Loss,
    *,
    schedule: Schedule,
    seeds: Sequence[int],
    evaluate: Evaluate,
    sampling: Sampling,
    on_epoch: Callable[[int, dict[str, NDArray[np.float64]]], None],
    stop: threading.Event,
) -> History:
    """Minimise the sum of the members' losses: summed, not averaged, so none scales another."""
    optimizer = torch.optim.Adam(
        population.parameters(),
        lr=schedule.learning_rate,
        weight_decay=schedule.weight_decay,
        fused=True,
    )
    steps_per_epoch = -(-sampling.epoch_rows // schedule.batch_size)
    scheduler = _scheduler(optimizer, schedule, steps_per_epoch=steps_per_epoch)
    orders = [
        row_orders(seed, pool, sampling.epoch_rows)
        for seed, pool in zip(seeds, sampling.pools, strict=True)
    ]
    weights = MixupWeights(seeds, sampling)
    streams = DropoutStreams(seeds)
    curves: list[dict[str, NDArray[np.float64]]] = []
    for epoch in range(1, schedule.epochs + 1):
        order = torch.from_numpy(np.stack([next(rows) for rows in orders])).to(rows.train.device)
        weight = weights.draw(order.device)
        means = _Means()
        for start in range(0, sampling.epoch_rows, schedule.batch_size):
            if stop.is_set():
                raise TrainingError("training was stopped")
            batch = order[:, start : start + schedule.batch_size]
            x = rows.train.index_select(0, batch.reshape(-1)).view(*batch.shape, -1)
            share = None if weight is None else weight[:, start : start + schedule.batch_size]
            if share is not None:
                x = torch.lerp(x.roll(1, dims=1), x, share[..., None])
            losses = loss(population(x, streams), batch, share)
            optimizer.zero_grad(set_to_none=True)
            losses["train_loss"].mean(dim=1).sum().backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
            scheduler.step()
            means.add(losses)
        figures = {**means.result(), **evaluate(population.logits(rows.val))}
        curves.append({name: value.double().cpu().numpy() for name, value in figures.items()})
        _check_finite(curves[-1]["train_loss"], epoch, schedule.learning_rate)
        on_epoch(epoch, curves[-1])
    return {name: np.stack([curve[name] for curve in curves]) for name in curves[0]}


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


def _scheduler(
    optimizer: torch.optim.Optimizer, schedule: Schedule, *, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if schedule.decay == "cosine":
        steps = schedule.epochs * steps_per_epoch
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _check_finite(train_loss: NDArray[np.float64], epoch: int, learning_rate: float) -> None:
    if not np.isfinite(train_loss).all():
        raise TrainingError(
            f"training diverged: the loss is not a finite number in epoch {epoch}; "
            f"use a learning_rate below {learning_rate:g}"
        )


def _chunks(population: Population) -> list[slice]:
    """Split members into two runs of nearly equal length, or more where they are large."""
    size = population.k * population.parameters_per_member
    count = min(population.k, max(2, size // CHUNK_PARAMETERS))
    edges = np.linspace(0, population.k, count + 1).round().astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _intra_op_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
