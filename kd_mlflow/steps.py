"""What the steps of the line share: listening, describing a run, training into its runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow import metrics
from kd_mlflow.config import DistillConfig, Options, TeachersConfig
from kd_mlflow.dataset import Dataset
from kd_mlflow.losses import DistillationLoss, LabelLoss, hard_loss
from kd_mlflow.models import Population
from kd_mlflow.teachers import fingerprint
from kd_mlflow.tracking import CurveWriter, TrackedRun, data_set_input
from kd_mlflow.training import Evaluate, OnEpoch, Rows, Schedule, fit, ignore_epoch

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
    run: TrackedRun, config: Options, dataset: Dataset, mark: str | None = None, **own: object
) -> None:
    """Log what every run has: configuration, fingerprint, digest, data set."""
    table = dataset.table
    mark = mark or fingerprint(table.digest, config.as_text())
    sides = {f"{name}_rows": len(rows) for name, rows in vars(dataset.split).items()}
    run.params({**config.as_text(), "data": table.source, **sides, **own})
    run.tags({"kd.fingerprint": mark, "kd.data_digest": table.digest})
    run.data_set(data_set_input(table, dataset.split))


def train_population(
    population: Population,
    rows: Rows,
    loss: LabelLoss | DistillationLoss,
    *,
    runs: Sequence[TrackedRun],
    schedule: Schedule,
    seeds: Sequence[int],
    evaluate: Evaluate,
    label: str,
    listener: Listener,
) -> None:
    """Train a population while its curves go to its runs and to the listener."""
    progress = listener.training(label, population.k, schedule.epochs)
    with CurveWriter(runs) as curves, progress as heard:

        def on_epoch(members: slice, epoch: int, values: dict[str, NDArray[np.float64]]) -> None:
            curves.on_epoch(members, epoch, values)
            heard(members, epoch, values)

        fit(
            population,
            rows,
            loss,
            schedule=schedule,
            seeds=seeds,
            evaluate=evaluate,
            on_epoch=on_epoch,
        )


def validation_figures(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Log loss and accuracy of each member.  Shape: (k, n, classes), (n,) -> (k,) each."""
    loss = hard_loss(logits, labels.expand(logits.shape[0], -1))
    return {"val_loss": loss, "val_accuracy": metrics.agreements(logits, labels)}


def schedule_of(
    config: TeachersConfig | DistillConfig, epochs: int, weight_decay: float
) -> Schedule:
    """The schedule that a configuration describes, for its teachers or its students."""
    return Schedule(
        epochs=epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=weight_decay,
        decay=config.schedule,
    )


def member_seeds(seed: int, stream: int, k: int) -> list[int]:
    """Seeds of a population's members; the first ones do not depend on how many follow."""
    drawn = np.random.SeedSequence(entropy=seed, spawn_key=(stream,)).generate_state(k)
    return [int(value) for value in drawn]


def numbered(name: str, k: int) -> list[str]:
    """Run names: teacher-01, teacher-02 ..."""
    return [f"{name}-{i:02d}" for i in range(1, k + 1)]
