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

from kd_mlflow.errors import TrainingError
from kd_mlflow.models import DropoutStreams, Population

History = dict[str, NDArray[np.float64]]
"""Curves by name.  Shape of each: (epochs, k)."""

CHUNK_PARAMETERS = 250_000
"""Weights that one worker trains at a time; twelve reference teachers are two chunks."""

OnEpoch = Callable[[slice, int, dict[str, NDArray[np.float64]]], None]
"""Receives which members, the epoch (from 1) and each curve's values, shape (members,)."""


class Loss(Protocol):
    """One value a member, by name; ``train_loss`` is what training minimises."""

    def __call__(self, logits: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Shape: logits (k, batch, classes), rows (k, batch) -> (k,) each."""

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


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What members are trained on and followed on; both encoded the same way.

    Shape: train (n, d_in), val (m, d_in).
    """

    train: Tensor
    val: Tensor


def ignore_epoch(members: slice, epoch: int, values: dict[str, NDArray[np.float64]]) -> None:
    """The null listener."""


def fit(
    population: Population,
    rows: Rows,
    loss: Loss,
    *,
    schedule: Schedule,
    seeds: Sequence[int],
    evaluate: Evaluate,
    on_epoch: OnEpoch = ignore_epoch,
) -> History:
    """Train every member in place, each as if alone; return the curves.

    Members are split into chunks, each trained in a thread with one intra-op thread: as fast as
    several intra-op threads on a quiet machine, and nothing stalls on a busy one. The chunks follow
    from the population alone, so figures do not depend on the number of cores.

    Raises TrainingError when a member's loss is no longer a finite number.
    """
    chunks = _chunks(population)
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
    n = len(rows.train)
    scheduler = _scheduler(optimizer, schedule, steps_per_epoch=-(-n // schedule.batch_size))
    shuffles = [
        np.random.Generator(np.random.SFC64(np.random.SeedSequence(entropy=seed, spawn_key=(0,))))
        for seed in seeds
    ]
    streams = DropoutStreams(seeds)
    curves: list[dict[str, NDArray[np.float64]]] = []
    for epoch in range(1, schedule.epochs + 1):
        order = np.stack([shuffle.permutation(n) for shuffle in shuffles])
        sums: dict[str, Tensor] = {}
        for batch in torch.split(
            torch.from_numpy(order).to(rows.train.device), schedule.batch_size, dim=1
        ):
            if stop.is_set():
                raise TrainingError("training was stopped")
            x = rows.train.index_select(0, batch.reshape(-1)).view(*batch.shape, -1)
            losses = loss(population(x, streams), batch)
            optimizer.zero_grad(set_to_none=True)
            losses["train_loss"].sum().backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
            scheduler.step()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach() * batch.shape[1]
        means = {name: total / n for name, total in sums.items()}
        figures = {**means, **evaluate(population.logits(rows.val))}
        curves.append({name: value.double().cpu().numpy() for name, value in figures.items()})
        _check_finite(curves[-1]["train_loss"], epoch, schedule.learning_rate)
        on_epoch(epoch, curves[-1])
    return {name: np.stack([curve[name] for curve in curves]) for name in curves[0]}


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
