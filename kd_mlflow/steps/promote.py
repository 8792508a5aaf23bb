"""The last step: gate a version and move production to it where it passes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

from kd_mlflow.config import DataOptions, PromoteConfig, Source
from kd_mlflow.distillation.identity import fingerprint
from kd_mlflow.errors import DataError, Unavailable
from kd_mlflow.evaluation.gate import Check, gate, verdict
from kd_mlflow.report import notes
from kd_mlflow.steps.results import Decision
from kd_mlflow.table.dataset import Dataset, Identity, TestRows, read_dataset
from kd_mlflow.table.files import is_csv
from kd_mlflow.table.loading import FRAME
from kd_mlflow.tracking import registry
from kd_mlflow.tracking.data_sets import data_set_input
from kd_mlflow.tracking.open_run import TrackedRun
from kd_mlflow.tracking.registry import ModelVersion
from kd_mlflow.tracking.runs import Run, Tracker

_log = logging.getLogger(__name__)


def promote_step(
    config: PromoteConfig,
    version: ModelVersion,
    distill_run: Run,
    data: Dataset | Unavailable,
    tracker: Tracker,
    parent: TrackedRun | None = None,
) -> Decision:
    """Gate a version on the test rows of ``data``, the dataset that it was trained on."""
    client, model_name, number = tracker.client, config.model_name, str(version.version)
    seen = registry.version_in_production(client, model_name)
    logged, identity = distill_run.data.metrics, identity_of(distill_run)
    marks = {"fingerprint": fingerprint(identity, config.as_text()), **identity._asdict()}
    with tracker.run("promotion", f"promotion v{number}", parent=parent) as run:
        run.log(params=config.as_text(), tags={f"kd.{k}": v for k, v in marks.items()})
        if isinstance(data, Dataset):
            run.data_set(data_set_input(data.table, data.split))
        rows = data if isinstance(data, Unavailable) else data.test_rows()
        reproduced = (
            rows if isinstance(rows, Unavailable) else registry.reproduce(model_name, number, rows)
        )
        checks = gate(
            logged,
            reproduced,
            metric=config.gate_metric,
            max_accuracy_gap=config.max_accuracy_gap,
            min_compression=config.min_compression,
            allow_worse_than_baseline=config.allow_worse_than_baseline,
        )
        production = _accuracy_in_production(model_name, seen, rows)
        run.log(metrics=_compared(checks, production))
        promoted, reason = verdict(checks)
        registry.record(client, version, promoted=promoted, reason=reason, seen=seen)
        answer = "promoted" if promoted else "rejected"
        comparison = notes.against_production(seen, production, logged)
        note = notes.promotion_note(
            model_name, number, promoted=promoted, reason=reason, comparison=comparison
        )
        run.log(tags={"kd.promotion": answer, "kd.model_version": number}, note=note)
    return Decision(
        model_name=model_name,
        version=number,
        promoted=promoted,
        reason=reason,
        checks=checks,
        replaced=seen if promoted else None,
        note=note,
    )


def _compared(checks: Sequence[Check], production: float | None) -> dict[str, float]:
    """Each check's answer and the numbers it compared; production's accuracy where it is known."""
    metrics: dict[str, float] = {}
    for check in checks:
        if check.passed is not None:
            metrics |= {f"gate.{check.name}": float(check.passed), **check.metrics}
    return metrics if production is None else metrics | {"production_test_accuracy": production}


def _accuracy_in_production(
    model_name: str, version: str | None, rows: TestRows | Unavailable
) -> float | None:
    """What production scores on a candidate's test rows; an older model may know other columns."""
    if version is None or isinstance(rows, Unavailable):
        return None
    accuracy = registry.reproduce(model_name, version, rows)
    if isinstance(accuracy, Unavailable):
        _log.warning(
            "version %s, in production, cannot score these rows (%s); "
            "models of different tasks are kept apart by the option model_name",
            version,
            accuracy.reason,
        )
        return None
    return accuracy


def dataset_of(run: Run, data: Source = "") -> Dataset | Unavailable:
    """Read a run's table again, from elsewhere where ``data`` is given; or why it cannot be had."""
    params = run.data.params
    if isinstance(data, str) and not data:
        data = params["kd.data"]
    if isinstance(data, str) and data == FRAME:
        return Unavailable(
            "its table came as a DataFrame: promote from Python, kd.promote(data=frame)"
        )
    try:
        dataset = read_dataset(data_options(run, data))
    except DataError as error:
        return Unavailable(f"the test rows cannot be read again: {error}")
    if dataset.identity != identity_of(run):
        return Unavailable(
            f"the table {dataset.table.source} is another one, or it or its split changed since "
            "the version was trained"
        )
    return dataset


def identity_of(run: Run) -> Identity:
    """The dataset that a run was trained on; the split of an early run is not known."""
    tags = run.data.tags
    return Identity(tags["kd.data_digest"], tags.get("kd.split", ""))


def data_options(run: Run, data: Source) -> DataOptions:
    """How to read a run's table from ``data``.

    An option that the run knew nothing of has its default; one of CSV files where ``data`` is none.
    """
    given = {
        field.name: DataOptions.read(field.name, run.data.params[f"kd.{field.name}"])
        for field in dataclasses.fields(DataOptions)
        if f"kd.{field.name}" in run.data.params
    }
    csv = {} if is_csv(data) else {"separator": "", "decimal": ""}
    return DataOptions(**given | csv | {"data": data})
