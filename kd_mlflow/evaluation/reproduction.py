"""Whether a registered model still says what was logged of it: the gate's check ``reproduction``.

Processors round the last digits of a probability in ways of their own. So answers are compared row
by row within a tolerance, and never metrics that rank rows: whether two nearly equal probabilities
change places says nothing of a model, and moves an area under a curve all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kd_mlflow.errors import Unavailable
from kd_mlflow.evaluation.checks import Check, failed
from kd_mlflow.evaluation.intervals import Interval
from kd_mlflow.evaluation.metrics import Counts, Floats, Hits, confidence_bins, probability_metrics
from kd_mlflow.evaluation.thresholds import Cutoff

TOLERANCE = 1e-5
"""How far a probability may be from the one that was logged; rounding moves it by about 1e-7."""

ACCURACY_TOLERANCE, METRIC_TOLERANCE = 1e-6, 1e-4
"""Of metrics of early versions, beyond what probabilities within ``TOLERANCE`` make of them."""


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """How far a model's answers to some rows are from those that were logged of it, as metrics.

    ``other_probabilities`` and ``other_classes`` count the rows where no rounding explains it.
    """

    rows: int
    max_difference: float
    other_probabilities: int
    other_classes: int


Reproduced = Repetition | Mapping[str, Interval] | Unavailable
"""Answers beside those that were logged; of early versions, which logged none, their metrics."""


def repetition(
    logged: Floats, answers: Floats, predicted: Counts, threshold: Cutoff | None
) -> Repetition:
    """Compare a model's answers with the probabilities that were logged, row by row.

    ``threshold`` is by what a class is predicted, None: the likeliest one. Where the logged
    probabilities are within the tolerance of deciding otherwise, either class is right.
    Shape: logged and answers (n, classes), predicted (n,).
    """
    apart = np.abs(answers - logged).max(axis=1)
    return Repetition(
        rows=len(logged),
        max_difference=float(apart.max()),
        other_probabilities=int((~(apart <= TOLERANCE)).sum()),
        other_classes=int((~(_shortfall(logged, predicted, threshold) <= TOLERANCE)).sum()),
    )


def metric_ranges(
    probabilities: Floats, labels: Counts, predicted: Counts, threshold: Cutoff | None
) -> dict[str, Interval]:
    """Every metric of ``probability_metrics``, and how far rounding may move it.

    The bounds hold for any probabilities within ``TOLERANCE`` of these.
    Shape: (n, classes), labels and predicted (n,).
    """
    found = probability_metrics(probabilities, labels, predicted)
    rows, n = np.bincount(labels), len(labels)
    unsure = _unsure(probabilities, threshold)
    own = probabilities[np.arange(n), predicted]
    on_edge = confidence_bins(own - TOLERANCE) != confidence_bins(own + TOLERANCE)
    slack = {
        "accuracy": unsure.mean(),
        "balanced_accuracy": (unsure / rows[labels]).sum() / np.count_nonzero(rows),
        "log_loss": 0.0,
        "ece": 2 * (unsure | on_edge).mean(),
    }
    bounds = {name: (found[name] - by, found[name] + by) for name, by in slack.items()}
    if "roc_auc" in found:
        bounds |= _area_bounds(probabilities[:, 1], labels)
    return {
        name: Interval(value=found[name], low=low, high=high)
        for name, (low, high) in bounds.items()
    }


def reproduction_check(logged: Mapping[str, float], reproduced: Reproduced) -> Check:
    """Whether the artifact gives what was logged; ``logged`` are the metrics of its run."""
    if isinstance(reproduced, Unavailable):
        return failed("reproduction", reproduced.reason)
    if isinstance(reproduced, Repetition):
        return _answers_check(reproduced)
    return _metrics_check(logged, reproduced)


def _answers_check(found: Repetition) -> Check:
    off = found.other_probabilities or found.other_classes
    said = (
        f"of {found.rows:,} test rows {found.other_probabilities:,} get other probabilities than "
        f"were logged and {found.other_classes:,} another class, {TOLERANCE:g} being allowed"
        if off
        else f"each of {found.rows:,} test rows gets the probabilities that were logged, within "
        f"{TOLERANCE:g}"
    )
    return Check(
        name="reproduction",
        passed=not off,
        reason=f"in a clean process {said} (largest difference {found.max_difference:.1g})",
        threshold=TOLERANCE,
        metrics={f"reproduced_{name}": value for name, value in vars(found).items()},
    )


def _metrics_check(logged: Mapping[str, float], ranges: Mapping[str, Interval]) -> Check:
    """The check of a version that was registered when no answers were kept."""
    every = {name: logged.get(f"registered_test_{name}") for name in ranges}
    known = {name: value for name, value in every.items() if value is not None}
    off = []
    for name, value in known.items():
        allowed = ACCURACY_TOLERANCE if "accuracy" in name else METRIC_TOLERANCE
        if not ranges[name].low - allowed <= value <= ranges[name].high + allowed:
            off.append(name)
    compared = ", ".join(
        f"{name.replace('_', ' ')} {ranges[name].value:.4f}, logged {known[name]:.4f}"
        for name in off or ["accuracy"]
    )
    which = "" if off else f", and so with all {len(known)} test metrics"
    return Check(
        name="reproduction",
        passed=not off,
        reason=f"in a clean process the registered model has {compared}{which}",
        threshold=METRIC_TOLERANCE,
        metrics={f"reproduced_test_{name}": ranges[name].value for name in known},
    )


def _shortfall(probabilities: Floats, predicted: Counts, threshold: Cutoff | None) -> Floats:
    """By how much each prediction falls short of being the right one, 0 where it is.

    Shape: (n, classes), (n,) -> (n,).
    """
    if isinstance(threshold, float):
        above = probabilities[:, 1] - threshold
        return np.maximum(np.where(predicted == 1, -above, above), 0)
    return np.asarray(_lags(probabilities, predicted, threshold).max(axis=1))


def _unsure(probabilities: Floats, threshold: Cutoff | None) -> Hits:
    """Rows whose class two sets of such probabilities may not agree on.  Shape: (n,)."""
    if isinstance(threshold, float):
        return np.asarray(np.abs(probabilities[:, 1] - threshold) <= TOLERANCE)
    weighted = probabilities if threshold is None else probabilities * threshold
    lags = _lags(probabilities, weighted.argmax(axis=1), threshold)
    return np.asarray(np.sort(lags, axis=1)[:, -2] >= -2 * TOLERANCE)


def _lags(probabilities: Floats, predicted: Counts, weights: tuple[float, ...] | None) -> Floats:
    """By how much the predicted class is behind each other one, between weights of mean 1.

    Without weights these are differences of probabilities.
    Shape: (n, classes), (n,) -> (n, classes).
    """
    scale = np.ones(probabilities.shape[1]) if weights is None else np.array(weights)
    weighted = probabilities * scale
    own = weighted[np.arange(len(predicted)), predicted]
    return np.asarray(2 * (weighted - own[:, None]) / (scale + scale[predicted][:, None]))


def _area_bounds(second: Floats, labels: Counts) -> dict[str, tuple[float, float]]:
    """The least and the most that areas may be, by what may lie above each row of the second class.

    ROC AUC is a mean over these rows of the others' share below them, average precision one of
    their own share of what is not below them. Probabilities up to twice the tolerance apart may
    change places or be equal.  Shape: (n,) each.
    """
    own, others = np.sort(second[labels == 1]), np.sort(second[labels == 0])
    surely, perhaps = own + 2 * TOLERANCE, own - 2 * TOLERANCE
    above, near_above = (len(others) - others.searchsorted(level) for level in (surely, perhaps))
    at_least = 1 + len(own) - own.searchsorted(surely)
    at_most = len(own) - own.searchsorted(perhaps)
    low, high = at_least / (at_least + near_above), at_most / (at_most + above)
    return {
        "roc_auc": (1 - near_above.mean() / len(others), 1 - above.mean() / len(others)),
        "average_precision": (low.mean(), high.mean()),
    }
