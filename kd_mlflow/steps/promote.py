"""The last step: gate a version and move production to it where it passes."""

from __future__ import annotations

from collections.abc import Sequence

from kd_mlflow.config import PromoteConfig
from kd_mlflow.distillation.identity import fingerprint
from kd_mlflow.errors import Unavailable
from kd_mlflow.evaluation.checks import Check
from kd_mlflow.evaluation.gate import verdict
from kd_mlflow.report import notes
from kd_mlflow.steps.judging import candidate_of, identity_of, judge
from kd_mlflow.steps.judging import dataset_of as dataset_of  # what the pipeline reads first
from kd_mlflow.steps.results import Decision
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.tracking import registry
from kd_mlflow.tracking.data_sets import data_set_input
from kd_mlflow.tracking.open_run import TrackedRun
from kd_mlflow.tracking.registry import ModelVersion
from kd_mlflow.tracking.runs import Run, Tracker


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
    identity = identity_of(distill_run)
    marks = {"fingerprint": fingerprint(identity, config.as_text()), **identity._asdict()}
    with tracker.run("promotion", f"promotion v{number}", parent=parent) as run:
        run.log(params=config.as_text(), tags={f"kd.{k}": v for k, v in marks.items()})
        if isinstance(data, Dataset):
            run.data_set(data_set_input(data.table, data.split))
        candidate = candidate_of(config, number, distill_run, data)
        seen = registry.version_in_production(client, model_name)
        checks = judge(config, candidate, seen, tracker)
        run.log(metrics=_compared(checks))
        promoted, reason = verdict(checks)
        registry.record(client, version, promoted=promoted, reason=reason, seen=seen)
        answer = "promoted" if promoted else "rejected"
        note = notes.promotion_note(
            model_name,
            number,
            promoted=promoted,
            reason=reason,
            comparison=notes.against_production(seen, checks, distill_run.data.metrics),
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


def _compared(checks: Sequence[Check]) -> dict[str, float]:
    """Each check's answer and the numbers that it compared."""
    metrics: dict[str, float] = {}
    for check in checks:
        if check.passed is not None:
            metrics |= {f"gate.{check.name}": float(check.passed), **check.metrics}
    return metrics
