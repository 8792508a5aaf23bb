"""What the steps do to their runs: describe one, follow a training into several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from kd_mlflow.config.groups import WorkerOptions
from kd_mlflow.config.options import Options
from kd_mlflow.distillation.identity import fingerprint
from kd_mlflow.population.history import OnEpoch
from kd_mlflow.population.workers import Workers
from kd_mlflow.report.words import one_line
from kd_mlflow.steps.listener import Listener
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.tracking.curves import CurveWriter
from kd_mlflow.tracking.data_sets import data_set_input
from kd_mlflow.tracking.open_run import TrackedRun

BALANCE = "class_balance.json"
"""Rows per class on each side of the split, beside every ensemble and comparison."""

RECALL = "class_recall.json"
"""Recall of each class by model, beside every comparison; null for a class without a test row."""

PARAM_LENGTH = 6000
"""Characters of a parameter's value (MAX_PARAM_VAL_LENGTH)."""

RUN_NAME_LENGTH = 250
"""Characters of a run's name: MLflow's column, ``SqlRun.name``; a file's name may have 255."""


def run_name(step: str, dataset: Dataset) -> str:
    """Name the run of a step on a table."""
    return one_line(f"{step} {dataset.table.name}", RUN_NAME_LENGTH)


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

    ``note`` is left out where the description needs metrics that are not known yet.
    """
    table = dataset.table
    mark = mark or fingerprint(dataset.identity, config.as_text())
    sides = {f"{name}_rows": len(rows) for name, rows in vars(dataset.split).items()}
    params = {**config.as_text(), "data": table.source, **sides, **own}
    run.log(
        params={name: str(value)[:PARAM_LENGTH] for name, value in params.items()},
        tags={
            "kd.fingerprint": mark,
            **{f"kd.{name}": digest for name, digest in dataset.identity._asdict().items()},
        },
        note=note,
    )
    run.data_set(data_set_input(table, dataset.split))


@contextmanager
def followed(
    runs: Sequence[TrackedRun], listener: Listener, *, label: str, epochs: int
) -> Iterator[OnEpoch]:
    """Follow a training: its curves go to its runs and to the listener."""
    progress = listener.training(label, len(runs), epochs)
    with CurveWriter(runs) as curves, progress as heard:

        def on_epoch(members: slice, epoch: int, values: dict[str, NDArray[np.float64]]) -> None:
            curves.on_epoch(members, epoch, values)
            heard(members, epoch, values)

        yield on_epoch


def workers_of(options: WorkerOptions) -> Workers:
    """The workers that a configuration names."""
    return Workers(count=options.workers, dask_scheduler=options.dask_scheduler)


def numbered(name: str, k: int) -> list[str]:
    """Run names: teacher-01, teacher-02 ..."""
    return [f"{name}-{i:02d}" for i in range(1, k + 1)]
