"""What a candidate must pass before it goes into production: asks, moves nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kd_mlflow.errors import RegistryError, Unavailable

REPRODUCTION_TOLERANCE = 1e-6
"""Accuracies are shares of whole rows: one row more or less is far above this."""


BASELINES = ("baseline", "strong_baseline")
MEASURES = {"gain_over_": "accuracy against the", "log_loss_gain_over_": "log loss against the"}
"""Metrics of a run whose upper bound says that a baseline is better, and what they measure."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question of the gate, its answer in a sentence, and the numbers that were compared.

    ``passed`` is None where the question has no answer; that stops nothing.
    """

    name: str
    passed: bool | None
    reason: str
    metrics: Mapping[str, float]


def gate(
    metrics: Mapping[str, float],
    reproduced: float | Unavailable,
    *,
    metric: str,
    max_accuracy_gap: float,
    min_compression: float,
    allow_worse_than_baseline: bool = False,
) -> tuple[Check, ...]:
    """Ask every check of a distill run's metrics.

    ``reproduced`` is the test accuracy of the version as it lies in the registry.
    Raises RegistryError where the run does not have the metric that is to be compared.
    """
    return (
        _accuracy_check(metrics, metric, max_accuracy_gap),
        _baseline_check(metrics, allow_worse_than_baseline),
        _compression_check(metrics, min_compression),
        _reproduction_check(metrics, reproduced),
    )


def verdict(checks: Sequence[Check]) -> tuple[bool, str]:
    """Whether a candidate is promoted, and why: all checks' reasons, or those of the failed ones.

    >>> check = Check(name="accuracy", passed=False, reason="gap too large", metrics={})
    >>> verdict([check])
    (False, 'gap too large')
    """
    promoted = all(check.passed is not False for check in checks)
    reasons = [check.reason for check in checks if promoted or check.passed is False]
    return promoted, "; ".join(reasons)


def _accuracy_check(metrics: Mapping[str, float], metric: str, max_accuracy_gap: float) -> Check:
    ours, theirs = f"registered_test_{metric}", f"ensemble_test_{metric}"
    if ours not in metrics:
        raise RegistryError(f"gate_metric {metric} needs two classes; this run has no {ours}")
    ensemble, student = metrics[theirs], metrics[ours]
    gap = ensemble - student
    return Check(
        name="accuracy",
        passed=gap <= max_accuracy_gap + REPRODUCTION_TOLERANCE,
        reason=f"{metric.replace('_', ' ')} {student:.4f} against the ensemble's {ensemble:.4f}: "
        f"gap {gap:+.4f}, at most {max_accuracy_gap:g} allowed",
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
        return Check(
            name="baseline",
            passed=None,
            reason="baseline not checked: the run has no interval of a gain over one",
            metrics={},
        )
    worse = [words for name, words in compared.items() if metrics[name] < 0]
    reason = f"measurably worse, by {', '.join(worse)}" if worse else "no baseline is better"
    return Check(
        name="baseline",
        passed=not worse or allowed,
        reason=f"{reason}{', which is allowed' if worse and allowed else ''}",
        metrics={name: metrics[name] for name in compared},
    )


def _compression_check(metrics: Mapping[str, float], min_compression: float) -> Check:
    ratio = metrics.get("compression_ratio")
    if ratio is None:
        return Check(
            name="compression",
            passed=None,
            reason="compression not checked: the teachers' parameters cannot be counted",
            metrics={},
        )
    return Check(
        name="compression",
        passed=ratio >= min_compression,
        reason=f"compression {ratio:.1f}x, at least {min_compression:g}x required",
        metrics={"compression_ratio": ratio, "min_compression": min_compression},
    )


def _reproduction_check(metrics: Mapping[str, float], reproduced: float | Unavailable) -> Check:
    name, logged = "reproduction", metrics["registered_test_accuracy"]
    if isinstance(reproduced, Unavailable):
        return Check(name=name, passed=False, reason=reproduced.reason, metrics={})
    return Check(
        name=name,
        passed=abs(reproduced - logged) <= REPRODUCTION_TOLERANCE,
        reason=f"loaded from the registry it scores {reproduced:.4f}, logged {logged:.4f}",
        metrics={"reproduced_test_accuracy": reproduced},
    )
