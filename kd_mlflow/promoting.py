"""The last step: gate a version and move production to it where it passes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kd_mlflow import card, gate, registry
from kd_mlflow.config import DataOptions, PromoteConfig, Source
from kd_mlflow.data import FRAME
from kd_mlflow.dataset import Dataset, TestRows, read_dataset
from kd_mlflow.errors import DataError, RegistryError
from kd_mlflow.registry import Decision
from kd_mlflow.teachers import fingerprint
from kd_mlflow.tracking import TrackedRun, Tracker, data_set_input

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

_log = logging.getLogger(__name__)


def promote_step(
    config: PromoteConfig,
    version: ModelVersion,
    distill_run: Run,
    data: Dataset | str,
    tracker: Tracker,
    parent: TrackedRun | None = None,
) -> Decision:
    """Gate a version; ``data`` is a sentence where its table is not to be had."""
    seen = registry.version_in_production(tracker.client, config.model_name)
    digest = distill_run.data.tags["kd.data_digest"]
    mark = fingerprint(digest, config.as_text())
    with tracker.run("promotion", f"promotion v{version.version}", parent=parent) as run:
        run.log(params=config.as_text(), tags={"kd.fingerprint": mark, "kd.data_digest": digest})
        rows: TestRows | str = data if isinstance(data, str) else data.test_rows()
        if isinstance(data, Dataset):
            run.data_set(data_set_input(data.table, data.split))
        checks = gate.gate(
            distill_run.data.metrics,
            registry.reproduce(version.name, version.version, rows),
            metric=config.gate_metric,
            max_accuracy_gap=config.max_accuracy_gap,
            min_compression=config.min_compression,
        )
        metrics: dict[str, float] = {}
        for check in checks:
            if check.passed is not None:
                metrics |= {f"gate.{check.name}": float(check.passed), **check.figures}
        replaced = _accuracy_in_production(config.model_name, seen, rows)
        if replaced is not None:
            metrics["production_test_accuracy"] = replaced
        run.log(metrics=metrics)
        decision = registry.decide(tracker.client, version, checks, seen=seen)
        verdict = "promoted" if decision.promoted else "rejected"
        comparison = card.against_production(seen, replaced, distill_run.data.metrics)
        registry.describe(tracker.client, version, f"**{verdict.capitalize()}.** {comparison}")
        run.log(
            tags={"kd.promotion": verdict, "kd.model_version": decision.version},
            note=f"Version {decision.version} of **{decision.model_name}** {verdict}: "
            f"{decision.reason}.\n",
        )
    return decision


def _accuracy_in_production(
    model_name: str, version: str | None, rows: TestRows | str
) -> float | None:
    """What production scores on a candidate's test rows; an older model may know other columns."""
    if version is None or isinstance(rows, str):
        return None
    accuracy = registry.reproduce(model_name, version, rows)
    if isinstance(accuracy, str):
        _log.warning(
            "version %s, in production, cannot score these rows (%s); "
            "models of different tasks are kept apart by the option model_name",
            version,
            accuracy,
        )
        return None
    return accuracy


def distill_run_of(tracker: Tracker, version: ModelVersion) -> Run:
    """The run that a version came from.  Raises RegistryError where it is none of ours."""
    run_id = version.tags.get("kd.run_id")
    run = tracker.get(run_id) if run_id else None
    needed = {"registered_test_accuracy", "ensemble_test_accuracy"}
    if run is None or not needed <= run.data.metrics.keys():
        raise RegistryError(
            f"version {version.version} of {version.name!r} has no distill run to judge it by; "
            "only versions that distill registered can be promoted"
        )
    return run


def dataset_of(run: Run, data: Source = "") -> Dataset | str:
    """Read a run's table again, from elsewhere where ``data`` is given, or say why not."""
    params = run.data.params
    if isinstance(data, str) and not data:
        data = params["kd.data"]
    if isinstance(data, str) and data == FRAME:
        return "its table came as a DataFrame: promote from Python, kd.promote(data=frame)"
    try:
        dataset = read_dataset(
            DataOptions(
                data=data,
                target=params["kd.target"],
                val_fraction=float(params["kd.val_fraction"]),
            )
        )
    except DataError as error:
        return f"the test rows cannot be read again: {error}"
    if dataset.table.digest != run.data.tags["kd.data_digest"]:
        name = dataset.table.source
        return f"the table {name} is another one or changed since the version was trained"
    return dataset
