"""What the steps of the line share: listening, describing a run, training into its runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kd_mlflow.curve_writer import CurveWriter
from kd_mlflow.dataset import Dataset
from kd_mlflow.options import Options
from kd_mlflow.teachers import fingerprint
from kd_mlflow.tracking import TrackedRun, data_set_input
from kd_mlflow.training import History, OnEpoch, Task, ignore_epoch
from kd_mlflow.workers import Workers

BALANCE = "class_balance.json"
"""Rows a class on each side of the split, beside every ensemble and comparison."""


class Listener(Protocol):
    """Hears how the work goes on."""

    def say(self, text: str) -> None:
        """Take one line."""

    def training(self, label: str, members: int, epochs: int) -> AbstractContextManager[OnEpoch]:
        """Follow a training; the block gets a function that takes each epoch's figures."""


class Silence:
    """The null listener."""

    def say(self, text: str) -> None:
        """Drop the line."""

    def training(self, label: str, members: int, epochs: int) -> AbstractContextManager[OnEpoch]:
        """Follow nothing."""
        return nullcontext(ignore_epoch)


def describe_run(
    run: TrackedRun,
    config: Options,
    dataset: Dataset,
    mark: str | None = None,
    *,
    note: str = "",
    **own: object,
) -> None:
    """Log what every run has: configuration, fingerprint, digest, data set; parameters of its own.

    A run that is described once its figures are known has no ``note`` yet.
    """
    table = dataset.table
    mark = mark or fingerprint(table.digest, config.as_text())
    sides = {f"{name}_rows": len(rows) for name, rows in vars(dataset.split).items()}
    run.log(
        params={**config.as_text(), "data": table.source, **sides, **own},
        tags={"kd.fingerprint": mark, "kd.data_digest": table.digest},
        note=note,
    )
    run.data_set(data_set_input(table, dataset.split))


def train(
    task: Task, runs: Sequence[TrackedRun], workers: Workers, *, label: str, listener: Listener
) -> History:
    """Train a population while its curves go to its runs and to the listener; return them."""
    progress = listener.training(label, task.population.k, task.schedule.epochs)
    with CurveWriter(runs) as curves, progress as heard:

        def on_epoch(members: slice, epoch: int, values: dict[str, NDArray[np.float64]]) -> None:
            curves.on_epoch(members, epoch, values)
            heard(members, epoch, values)

        return task.fit(workers, on_epoch)


def member_seeds(seed: int, stream: int, k: int) -> list[int]:
    """Seeds of a population's members; the first ones do not depend on how many follow."""
    drawn = np.random.SeedSequence(entropy=seed, spawn_key=(stream,)).generate_state(k)
    return [int(value) for value in drawn]


def numbered(name: str, k: int) -> list[str]:
    """Run names: teacher-01, teacher-02 ..."""
    return [f"{name}-{i:02d}" for i in range(1, k + 1)]
