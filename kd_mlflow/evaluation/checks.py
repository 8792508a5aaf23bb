"""The gate's questions about a candidate by itself: each is asked of numbers, each is a Check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kd_mlflow.errors import RegistryError, Unavailable
from kd_mlflow.evaluation.metrics import Floats, class_recalls, probability_metrics

ROUNDING = 1e-6
"""Accuracies are shares of whole rows: one row more or less is far above this."""

TOLERANCES = {
    "accuracy": ROUNDING,
    "balanced_accuracy": ROUNDING,
    "log_loss": 1e-4,
    "roc_auc": 1e-4,
    "average_precision": 1e-4,
}
"""By how much a metric of the loaded model may differ from the logged one: float32 rounds."""

LESS_IS_BETTER = ("log_loss",)

BASELINES = ("baseline", "strong_baseline")
MEASURES = {"gain_over_": "accuracy against the", "log_loss_gain_over_": "log loss against the"}
"""Metrics of a run whose upper bound says that a baseline is better, and what they measure."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question of the gate, its answer in a sentence, and the numbers that were compared.

    ``passed`` is None where the question has no answer; that stops nothing. ``threshold`` is the
    bound that the numbers were held to, None where there is none.
    """

    name: str
    passed: bool | None
    reason: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    threshold: float | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the candidate, pulled from the registry, says of its test rows.

    Shape: probabilities (n, classes), labels (n,). ``latency_ms`` is the median time of one row in
    this process, None where it was not measured.
    """

    probabilities: Floats
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    latency_ms: float | None = None


def accuracy_check(metrics: Mapping[str, float], metric: str, max_gap: float) -> Check:
    """Whether the student is within ``max_gap`` of the ensemble, in a metric of the test rows.

    Raises RegistryError where the run does not have the metric.
    """
    ours, theirs = f"registered_test_{metric}", f"ensemble_test_{metric}"
    if ours not in metrics:
        raise RegistryError(f"gate_metric {metric} needs two classes; this run has no {ours}")
    ensemble, student = metrics[theirs], metrics[ours]
    gap = student - ensemble if metric in LESS_IS_BETTER else ensemble - student
    return Check(
        name="accuracy",
        passed=gap <= max_gap + ROUNDING,
        reason=f"{metric.replace('_', ' ')} {student:.4f} against the ensemble's {ensemble:.4f}: "
        f"gap {gap:+.4f}, at most {max_gap:g} allowed",
        metrics={
            theirs: ensemble,
            ours: student,
            "accuracy_gap": gap,
            "max_accuracy_gap": max_gap,
        },
        threshold=max_gap,
    )


def baseline_check(metrics: Mapping[str, float], allowed: bool) -> Check:
    """Whether plain training on the labels beats distillation beyond noise."""
    compared = {
        f"{measure}{kind}_high": f"{words} {kind.replace('_', ' ')}"
        for kind in BASELINES
        for measure, words in MEASURES.items()
        if f"{measure}{kind}_high" in metrics
    }
    if not compared:
        reason = "baseline not checked: the run has no interval of a gain over one"
        return Check(name="baseline", passed=None, reason=reason)
    worse = [words for name, words in compared.items() if metrics[name] < 0]
    reason = f"measurably worse, by {', '.join(worse)}" if worse else "no baseline is better"
    return Check(
        name="baseline",
        passed=not worse or allowed,
        reason=f"{reason}{', which is allowed' if worse and allowed else ''}",
        metrics={name: metrics[name] for name in compared},
        threshold=0.0,
    )


def compression_check(metrics: Mapping[str, float], min_compression: float) -> Check:
    """Whether the student is so many times smaller than its ensemble."""
    ratio = metrics.get("compression_ratio")
    if ratio is None:
        reason = "compression not checked: the teachers' parameters cannot be counted"
        return Check(name="compression", passed=None, reason=reason)
    return Check(
        name="compression",
        passed=ratio >= min_compression,
        reason=f"compression {ratio:.1f}x, at least {min_compression:g}x required",
        metrics={"compression_ratio": ratio, "min_compression": min_compression},
        threshold=min_compression,
    )


def reproduction_check(metrics: Mapping[str, float], answer: Answer | Unavailable) -> Check:
    """Whether the version as it lies in the registry reaches the metrics that were logged."""
    if isinstance(answer, Unavailable):
        return Check(name="reproduction", passed=False, reason=answer.reason)
    found = probability_metrics(answer.probabilities, answer.labels)
    pairs = {
        name: (found[name], metrics[f"registered_test_{name}"])
        for name in TOLERANCES
        if name in found and f"registered_test_{name}" in metrics
    }
    off = [n for n, (ours, logged) in pairs.items() if abs(ours - logged) > TOLERANCES[n]]
    named = off or [name for name in ("accuracy", "log_loss") if name in pairs]
    numbers = ", ".join(
        f"{name.replace('_', ' ')} {pairs[name][0]:.4f} (logged {pairs[name][1]:.4f})"
        for name in named
    )
    return Check(
        name="reproduction",
        passed=not off,
        reason=f"loaded from the registry it scores {numbers}",
        metrics={f"reproduced_test_{name}": ours for name, (ours, _) in pairs.items()},
        threshold=ROUNDING,
    )


def calibration_check(answer: Answer | Unavailable, max_ece: float) -> Check:
    """Whether the expected calibration error is small enough."""
    if isinstance(answer, Unavailable):
        return Check(name="ece", passed=None, reason="calibration not checked: no answer")
    ece = probability_metrics(answer.probabilities, answer.labels)["ece"]
    return Check(
        name="ece",
        passed=ece <= max_ece,
        reason=f"expected calibration error {ece:.4f}, at most {max_ece:g} allowed",
        metrics={"candidate_test_ece": ece, "max_ece": max_ece},
        threshold=max_ece,
    )


def latency_check(answer: Answer | Unavailable, max_ms: float) -> Check:
    """Whether one row is scored fast enough, in this process, without a server."""
    if isinstance(answer, Unavailable) or answer.latency_ms is None:
        return Check(name="latency", passed=None, reason="latency not checked: not measured")
    taken = answer.latency_ms
    return Check(
        name="latency",
        passed=taken <= max_ms,
        reason=f"one row takes {taken:.2f} ms (median), at most {max_ms:g} ms allowed",
        metrics={"latency_ms": taken, "max_latency_ms": max_ms},
        threshold=max_ms,
    )


def recall_check(answer: Answer | Unavailable, least: float) -> Check:
    """Whether each class that has test rows is found often enough."""
    if isinstance(answer, Unavailable):
        return Check(name="class_recall", passed=None, reason="recall not checked: no answer")
    predicted = answer.probabilities.argmax(axis=1)[None]
    recalls = class_recalls(predicted, answer.labels, len(answer.classes))[0]
    worst = int(np.nanargmin(recalls))
    lowest = float(recalls[worst])
    return Check(
        name="class_recall",
        passed=lowest >= least,
        reason=f"least recall {lowest:.4f}, of class {answer.classes[worst]!r}, "
        f"at least {least:g} required",
        metrics={"least_class_recall": lowest, "min_class_recall": least},
        threshold=least,
    )
