"""What a candidate must pass before it goes into production: numbers in, verdicts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kd_mlflow.errors import RegistryError
from kd_mlflow.evaluation.checks import Check, Limits, failed, unasked
from kd_mlflow.evaluation.reproduction import Reproduced, reproduction_check
from kd_mlflow.evaluation.succession import Incumbent, Task, production_check, task_check

TOLERANCE = 1e-6
"""Accuracies are shares of whole rows: one row more or less is far above this."""

BASELINES = ("baseline", "strong_baseline")
MEASURES = {"gain_over_": "accuracy against the", "log_loss_gain_over_": "log loss against the"}
"""Metrics of a run whose upper bound says that a baseline is better, and what they measure."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that the gate knows of a candidate.

    ``logged`` are the metrics of its distill run, ``measured`` those of its artifact, by the names
    of ``probability_metrics`` and empty where it does not score; ``latency_ms`` is the median time
    of one row.
    """

    logged: Mapping[str, float]
    reproduced: Reproduced
    task: Task
    measured: Mapping[str, float] = field(default_factory=dict)
    latency_ms: float | None = None
    least_recall: float | None = None


def gate(findings: Findings, incumbent: Incumbent | None, limits: Limits) -> tuple[Check, ...]:
    """Ask every check of a candidate; ``incumbent`` is None where nothing is in production.

    What its artifact was measured to be worth counts, not what its run says of that.
    Raises RegistryError where the run does not have the metric that is to be compared.
    """
    measured = {f"registered_test_{name}": value for name, value in findings.measured.items()}
    known = {**findings.logged, **measured}
    optional = (
        _ece_check(known, limits.max_ece),
        _latency_check(findings.latency_ms, limits.max_latency_ms),
        _recall_check(findings.least_recall, limits.min_class_recall),
    )
    return (
        _accuracy_check(known, limits.gate_metric, limits.max_accuracy_gap),
        _baseline_check(known, limits.allow_worse_than_baseline),
        _compression_check(known, limits.min_compression),
        reproduction_check(findings.logged, findings.reproduced),
        task_check(findings.task, incumbent, limits.allow_schema_change),
        production_check(incumbent, limits),
        *(check for check in optional if check),
    )


def verdict(checks: Sequence[Check]) -> tuple[bool, str]:
    """Whether a candidate passes, and why: all checks' reasons, or those of the failed ones.

    >>> check = Check(name="accuracy", passed=False, reason="gap too large", metrics={})
    >>> verdict([check])
    (False, 'gap too large')
    """
    passed = all(check.passed is not False for check in checks)
    reasons = [check.reason for check in checks if passed or check.passed is False]
    return passed, "; ".join(reasons)


def _accuracy_check(metrics: Mapping[str, float], metric: str, max_accuracy_gap: float) -> Check:
    ours, theirs = f"registered_test_{metric}", f"ensemble_test_{metric}"
    if ours not in metrics:
        raise RegistryError(f"gate_metric {metric} needs two classes; this run has no {ours}")
    ensemble, student = metrics[theirs], metrics[ours]
    gap = student - ensemble if metric == "log_loss" else ensemble - student
    return Check(
        name="accuracy",
        passed=gap <= max_accuracy_gap + TOLERANCE,
        reason=f"{metric.replace('_', ' ')} {student:.4f} against the ensemble's {ensemble:.4f}: "
        f"gap {gap:+.4f}, at most {max_accuracy_gap:g} allowed",
        threshold=max_accuracy_gap,
        metrics={
            theirs: ensemble,
            ours: student,
            "accuracy_gap": gap,
            "max_accuracy_gap": max_accuracy_gap,
        },
    )


def _baseline_check(metrics: Mapping[str, float], allowed: bool) -> Check:
    """Whether plain training on the labels beats distillation beyond noise."""
    compared = {
        f"{measure}{kind}_high": f"{words} {kind.replace('_', ' ')}"
        for kind in BASELINES
        for measure, words in MEASURES.items()
        if f"{measure}{kind}_high" in metrics
    }
    if not compared:
        return unasked("baseline", "the run has no interval of a gain over one")
    worse = [words for name, words in compared.items() if metrics[name] < 0]
    reason = f"measurably worse, by {', '.join(worse)}" if worse else "no baseline is better"
    return Check(
        name="baseline",
        passed=not worse or allowed,
        reason=f"{reason}{', which is allowed' if worse and allowed else ''}",
        threshold=0.0,
        metrics={name: metrics[name] for name in compared},
    )


def _compression_check(metrics: Mapping[str, float], min_compression: float) -> Check:
    ratio = metrics.get("compression_ratio")
    if ratio is None:
        return unasked("compression", "the teachers' parameters cannot be counted")
    return Check(
        name="compression",
        passed=ratio >= min_compression,
        reason=f"compression {ratio:.1f}x, at least {min_compression:g}x required",
        threshold=min_compression,
        metrics={"compression_ratio": ratio, "min_compression": min_compression},
    )


def _ece_check(metrics: Mapping[str, float], most: float) -> Check | None:
    if not most:
        return None
    ece = metrics["registered_test_ece"]
    return Check(
        name="max_ece",
        passed=ece <= most,
        reason=f"expected calibration error {ece:.4f}, at most {most:g} allowed",
        threshold=most,
        metrics={"registered_test_ece": ece},
    )


def _latency_check(latency_ms: float | None, most: float) -> Check | None:
    if not most:
        return None
    if latency_ms is None:
        return failed("max_latency_ms", "latency not measured: the model does not score")
    return Check(
        name="max_latency_ms",
        passed=latency_ms <= most,
        reason=f"one row takes {latency_ms:.2f} ms (median), at most {most:g} ms allowed",
        threshold=most,
        metrics={"latency_ms": latency_ms},
    )


def _recall_check(recall: float | None, least: float) -> Check | None:
    if not least:
        return None
    if recall is None:
        return failed("min_class_recall", "recall not measured: the model does not score")
    return Check(
        name="min_class_recall",
        passed=recall >= least,
        reason=f"least recall of a class {recall:.4f}, at least {least:g} required",
        threshold=least,
        metrics={"least_class_recall": recall},
    )
