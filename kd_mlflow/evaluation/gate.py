"""What a candidate must pass before it goes into production: numbers in, verdicts out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from kd_mlflow.errors import RegistryError
from kd_mlflow.evaluation.case import Asked, Case, Examined
from kd_mlflow.evaluation.checks import Check, GateLimits, failed, unasked
from kd_mlflow.evaluation.intervals import LOG_LOSS, Interval, difference, reverse
from kd_mlflow.evaluation.reproduction import reproduction_check
from kd_mlflow.evaluation.succession import Incumbent, production_check, task_check
from kd_mlflow.evaluation.thresholds import by_rule

TOLERANCE = 1e-6
"""Accuracies are shares of whole rows: one row more or less is far above this."""

BASELINES = {
    "baseline": "baseline",
    "strong_baseline": "strong baseline",
    "boosting": "boosted trees",
    "majority": "classes' shares alone",
}
"""What may be better than a student without any teacher, by name and in words."""

MEASURES = {"gain_over_": "accuracy", "log_loss_gain_over_": "log loss"}
"""Metrics of a run whose upper bound says that a baseline is better, and what they measure."""

IN_POINTS = ("accuracy", "balanced_accuracy")
"""Metrics whose differences are said in points of a hundred."""

BULK = "bulk_ratio"

RATIOS = {"compression_ratio": "", "latency_ratio": " in time", BULK: " in bulk"}
"""What a student may have less of than its ensemble: a tree's thresholds are no weights. The times
are of one row, and of each of a thousand; the last is said where the others are not enough.
"""


def gate(findings: Examined, incumbent: Incumbent | None, limits: GateLimits) -> tuple[Check, ...]:
    """Ask every check of a candidate; ``incumbent`` is None where nothing is in production.

    What its artifact was measured to be worth counts, not what its run says of that.
    Raises RegistryError where the run does not have the metric that is to be compared.
    """
    case = Case(findings=findings, incumbent=incumbent, limits=limits)
    answers = ((asked, asked.answer(case)) for asked in CHECKS)
    return tuple(replace(check, question=asked.question) for asked, check in answers if check)


def verdict(checks: Sequence[Check]) -> tuple[bool, str]:
    """Whether a candidate passes, and why: all checks' reasons, or those of the failed ones.

    >>> check = Check(name="accuracy", passed=False, reason="gap too large", metrics={})
    >>> verdict([check])
    (False, 'gap too large')
    """
    passed = all(check.passed is not False for check in checks)
    reasons = [check.reason for check in checks if passed or check.passed is False]
    return passed, "; ".join(reasons)


def _accuracy_check(case: Case) -> Check:
    metrics, metric, allowed = case.metrics, case.limits.gate_metric, case.limits.max_accuracy_gap
    ours, theirs = f"registered_test_{metric}", f"ensemble_test_{metric}"
    if ours not in metrics:
        raise RegistryError(f"gate_metric {metric} needs two classes; this run has no {ours}")
    ensemble, student = metrics[theirs], metrics[ours]
    gap = student - ensemble if metric == "log_loss" else ensemble - student
    size, most = f"{abs(gap):.4f}", f"{allowed:g}"
    if metric in IN_POINTS:
        size, most = f"{100 * abs(gap):.2f} points", f"{100 * allowed:g}"
    constant = case.findings.constant
    always = "" if constant is None else f"; it answers {constant!r} for every test row"
    return Check(
        name="accuracy",
        passed=gap <= allowed + TOLERANCE,
        reason=f"{metric.replace('_', ' ')} {student:.4f} against the ensemble's {ensemble:.4f}: "
        f"{size} {'below' if student <= ensemble else 'above'}, at most {most} allowed{always}",
        threshold=allowed,
        metrics={theirs: ensemble, ours: student, "accuracy_gap": gap, "max_accuracy_gap": allowed},
    )


def _log_loss_check(case: Case) -> Check | None:
    """Whether students lose more log loss than is allowed, beyond noise."""
    metrics, classes = case.metrics, case.findings.task.classes
    if not case.limits.max_log_loss_gap:
        return None
    if "log_loss_gap_low" not in metrics or not classes:
        return unasked("log_loss", "the run has no interval of the gap, or no classes")
    gap, low, high = (metrics[f"log_loss_gap{bound}"] for bound in ("", "_low", "_high"))
    allowed = case.limits.max_log_loss_gap * math.log(len(classes))
    lost = Interval(value=gap, low=low, high=high)
    said = difference(reverse(lost), LOG_LOSS, than="the ensemble's")
    reached = ", which the interval reaches" if low <= allowed < gap else ""
    return Check(
        name="log_loss",
        passed=low <= allowed,
        reason=f"log loss {said}, {allowed:.4f} allowed{reached}",
        threshold=allowed,
        metrics=lost.named("log_loss_gap"),
    )


def _baseline_check(case: Case) -> Check:
    """Whether plain training on the labels beats distillation beyond noise."""
    metrics, allowed = case.metrics, case.limits.allow_worse_than_baseline
    ruled = by_rule(metrics)
    compared = {
        f"{measure}{kind}_high": f"{words} against the {who}"
        for kind, who in BASELINES.items()
        for measure, words in MEASURES.items()
        if f"{measure}{kind}_high" in metrics and not (ruled and words == "accuracy")
    }
    if not compared:
        return unasked("baseline", "the run has no interval of a gain over one")
    worse = [words for name, words in compared.items() if metrics[name] < 0]
    reason = (
        f"measurably worse, by {', '.join(worse)}" if worse else "no baseline is measurably better"
    )
    low, high = (metrics.get(f"log_loss_gain_over_majority_{side}", 1) for side in ("low", "high"))
    if low <= 0 <= high:
        nor = "and not" if worse else "nor is it"
        reason += f", {nor} measurably better than the classes' shares alone"
    if ruled:
        reason += "; accuracy is not compared beside a decision threshold"
    return Check(
        name="baseline",
        passed=not worse or allowed,
        reason=f"{reason}{', which is allowed' if worse and allowed else ''}",
        threshold=0.0,
        metrics={name: metrics[name] for name in compared},
    )


def _compression_check(case: Case) -> Check:
    """Whether a student has so many fewer numbers, or answers one row or many so much faster."""
    known = {name: case.metrics[name] for name in RATIOS if name in case.metrics}
    least = case.limits.min_compression
    enough = [name for name, ratio in known.items() if ratio >= least]
    if not enough and "compression_ratio" not in known:
        return unasked("compression", "the teachers' parameters cannot be counted")
    told = known if enough in ([], [BULK]) else known.keys() - {BULK}
    said = ", ".join(f"{known[name]:.1f}x{words}" for name, words in RATIOS.items() if name in told)
    return Check(
        name="compression",
        passed=bool(enough),
        reason=f"compression {said}, at least {least:g}x required",
        threshold=least,
        metrics={**known, "min_compression": least},
    )


def _ece_check(case: Case) -> Check | None:
    if not (most := case.limits.max_ece):
        return None
    ece = case.metrics["registered_test_ece"]
    return Check(
        name="max_ece",
        passed=ece <= most,
        reason=f"expected calibration error {ece:.4f}, at most {most:g} allowed",
        threshold=most,
        metrics={"registered_test_ece": ece},
    )


def _latency_check(case: Case) -> Check | None:
    if not (most := case.limits.max_latency_ms):
        return None
    if (latency_ms := case.findings.latency_ms) is None:
        return failed("max_latency_ms", "latency not measured: the model does not score")
    return Check(
        name="max_latency_ms",
        passed=latency_ms <= most,
        reason=f"one row takes {latency_ms:.2f} ms (median), at most {most:g} ms allowed",
        threshold=most,
        metrics={"latency_ms": latency_ms},
    )


def _recall_check(case: Case) -> Check | None:
    if not (least := case.limits.min_class_recall):
        return None
    if (recall := case.findings.least_recall) is None:
        return failed("min_class_recall", "recall not measured: the model does not score")
    return Check(
        name="min_class_recall",
        passed=recall >= least,
        reason=f"least recall of a class {recall:.4f}, at least {least:g} required",
        threshold=least,
        metrics={"least_class_recall": recall},
    )


CHECKS: tuple[Asked, ...] = (
    Asked("accuracy", "Is it nearly as good as its ensemble?", _accuracy_check),
    Asked("log_loss", "Is little of its ensemble's log loss lost?", _log_loss_check),
    Asked(
        "baseline", "Is no baseline, trained without teachers, measurably better?", _baseline_check
    ),
    Asked(
        "compression", "Is it so much smaller, or faster, than its ensemble?", _compression_check
    ),
    Asked(
        "reproduction",
        "Does the registered artifact, in a clean process, answer as was logged?",
        lambda case: reproduction_check(case.findings.logged, case.findings.reproduced),
    ),
    Asked(
        "task",
        "Does it predict what production predicts, from columns that callers send already?",
        lambda case: task_check(
            case.findings.task, case.incumbent, case.limits.allow_schema_change
        ),
    ),
    Asked(
        "production",
        "Is it good enough beside production, on the same rows?",
        lambda case: production_check(case.incumbent, case.limits),
    ),
    Asked("max_ece", "Are its probabilities calibrated?", _ece_check),
    Asked("max_latency_ms", "Does it answer one row in time?", _latency_check),
    Asked("min_class_recall", "Does it find enough rows of every class?", _recall_check),
)
"""Every check, in the order in which decisions show them: each new one has its line here."""
