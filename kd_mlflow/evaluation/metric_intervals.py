"""Every metric of one model's answers with its 95 % interval."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from kd_mlflow.evaluation.bins import confusion
from kd_mlflow.evaluation.intervals import REPLICATES, Interval, Z, middle
from kd_mlflow.evaluation.metrics import ECE_BINS, Floats, confidence_bins
from kd_mlflow.evaluation.scores import RowScores, share_of


def metrics_with_intervals(scores: RowScores) -> dict[str, Interval]:
    """Every metric of ``probability_metrics`` on the rows with labels, with 95 % intervals.

    An unknown label counts as a wrong answer in accuracy and ECE; the others leave its row out.
    Needs one row with a known label.
    """
    labelled, known = scores.labelled, scores.known
    found = {
        "accuracy": share_of(int(labelled.hits.sum()), len(labelled)),
        "balanced_accuracy": _balanced_accuracy(known),
        "log_loss": _mean(known.losses),
        "ece": _calibration_error(labelled),
    }
    if scores.classes == 2 and len(np.unique(known.labels)) == 2:
        found |= _areas(known)
    return found


def _mean(values: Floats) -> Interval:
    value = float(values.mean())
    error = Z * float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.inf
    return Interval(value=value, low=max(0.0, value - error), high=value + error)


def _balanced_accuracy(known: RowScores) -> Interval:
    """Mean recall; its interval is that of recalls drawn from Jeffreys' posterior of each class."""
    counts = confusion(known.labels, known.predicted, known.classes)
    held = counts.sum(axis=1) > 0
    rows, right = counts.sum(axis=1)[held], np.diag(counts)[held]
    value = float((right / rows).mean())
    rng = np.random.default_rng(0)
    drawn = rng.beta(right + 0.5, rows - right + 0.5, size=(REPLICATES, len(rows))).mean(axis=1)
    low, high = middle(drawn)
    return Interval(value=value, low=min(low, value), high=max(high, value))


def _calibration_error(labelled: RowScores) -> Interval:
    """ECE; its interval is the bootstrap's turned round, since noise alone raises every ECE.

    Resampled rows move each bin's surplus of confidence by a normal deviate.
    """
    surplus = labelled.confidence - labelled.hits
    bins, n = confidence_bins(labelled.confidence), len(labelled)
    sums = np.bincount(bins, weights=surplus, minlength=ECE_BINS)
    squares = np.bincount(bins, weights=surplus**2, minlength=ECE_BINS)
    spread = np.sqrt(np.maximum(squares - sums**2 / n, 0))
    value = float(np.abs(sums).sum() / n)
    drawn = np.random.default_rng(0).normal(sums, spread, size=(REPLICATES, ECE_BINS))
    low, high = middle(np.abs(drawn).sum(axis=1) / n)
    return Interval(
        value=value, low=max(0.0, min(value, 2 * value - high)), high=max(value, 2 * value - low)
    )


def _areas(known: RowScores) -> dict[str, Interval]:
    """ROC AUC and average precision of the second of two classes."""
    positive = int((known.labels == 1).sum())
    negative = len(known) - positive
    roc = float(roc_auc_score(known.labels, known.second))
    precision = float(average_precision_score(known.labels, known.second))
    error = _roc_error(roc, positive, negative)
    return {
        "roc_auc": _by_logit(roc, error, min(positive, negative)),
        "average_precision": _by_logit(
            precision, float(np.sqrt(precision * (1 - precision) / positive)), positive
        ),
    }


def _roc_error(area: float, positive: int, negative: int) -> float:
    """Standard error of an area under the ROC curve: Hanley & McNeil (1982), Radiology 143."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area)
    variance += (positive - 1) * (q1 - area**2) + (negative - 1) * (q2 - area**2)
    return float(np.sqrt(max(variance, 0.0) / (positive * negative)))


def _by_logit(area: float, error: float, rows: int) -> Interval:
    """An interval that is symmetric in the logit, so that it stays within 0 and 1.

    Boyd, Eng & Page (2013), "Area under the precision-recall curve". An area of 1 or 0 has no
    logit: it is taken for a share of the rarer class's rows.
    """
    if not 0 < area < 1:
        return share_of(round(area * rows), rows)
    logit, width = np.log(area / (1 - area)), Z * error / (area * (1 - area))
    low, high = 1 / (1 + np.exp(-(logit + np.array([-width, width]))))
    return Interval(value=area, low=float(low), high=float(high))
