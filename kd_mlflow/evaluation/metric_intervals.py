"""Every metric of one model's answers with its 95 % interval."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

from kd_mlflow.evaluation import grouped
from kd_mlflow.evaluation.intervals import (
    REPLICATES,
    Interval,
    mean_share,
    middle,
    share_of_rows,
    standard_error,
)
from kd_mlflow.evaluation.metrics import ECE_BINS, Counts, Floats, Hits, confidence_bins, confusion
from kd_mlflow.evaluation.scores import RowScores


def metrics_with_intervals(scores: RowScores) -> dict[str, Interval]:
    """Every metric of ``probability_metrics`` on the rows with labels, with 95 % intervals.

    Where the rows have groups, chance draws these. An unknown label counts as a wrong answer in
    accuracy and ECE; the others leave its row out.
    Needs one row with a known label.
    """
    labelled, known = scores.labelled, scores.known
    found = {
        "accuracy": mean_share(labelled.hits, labelled.groups),
        "balanced_accuracy": _balanced_accuracy(known),
        "log_loss": _mean(known.losses, known.groups),
        "ece": _calibration_error(labelled),
    }
    if scores.classes == 2 and len(np.unique(known.labels)) == 2:
        found |= _areas(known)
    return found


def _mean(values: Floats, groups: Counts | None) -> Interval:
    value, error = float(values.mean()), np.inf
    if groups is not None:
        error = grouped.deviate(grouped.group_count(groups)) * grouped.mean_error(values, groups)
    elif len(values) > 1:
        error = grouped.Z * standard_error(values)
    return Interval(value=value, low=max(0.0, value - error), high=value + error)


def _balanced_accuracy(known: RowScores) -> Interval:
    """Mean recall; its interval is that of recalls drawn from Jeffreys' posterior of each class.

    It is moved to what was seen where it misses that: those of many classes of few rows, which lie
    nearer to a half.
    """
    counts = confusion(known.labels, known.predicted, known.classes)
    held = counts.sum(axis=1) > 0
    rows, right = counts.sum(axis=1)[held], np.diag(counts)[held]
    value = float((right / rows).mean())
    if known.groups is not None:
        of = np.cumsum(held)[known.labels] - 1  # each row's place among the classes that have rows
        beyond = (known.hits - (right / rows)[of]) / (len(rows) * rows[of])
        error = grouped.group_error(beyond, known.groups)
        return share_of_rows(value, grouped.effective_rows(value, error, known.groups))
    rng = np.random.default_rng(0)
    drawn = rng.beta(right + 0.5, rows - right + 0.5, size=(REPLICATES, len(rows))).mean(axis=1)
    low, high = middle(drawn)
    if not low <= value <= high:
        low, high = np.clip(middle(drawn - drawn.mean() + value), 0, 1)
    return Interval(value=value, low=float(low), high=float(high))


def _calibration_error(labelled: RowScores) -> Interval:
    """ECE; its interval is the bootstrap's turned round, since noise alone raises every ECE.

    Resampled rows move each bin's surplus of confidence by a normal deviate. Of groups, whose noise
    is larger, the upper end is not lowered by it: noise may not have raised this ECE.
    """
    surplus = labelled.confidence - labelled.hits
    bins, n = confidence_bins(labelled.confidence), len(labelled)
    sums = np.bincount(bins, weights=surplus, minlength=ECE_BINS)
    squares = np.bincount(bins, weights=surplus**2, minlength=ECE_BINS)
    spread = np.sqrt(np.maximum(squares - sums**2 / n, 0))
    value, rng = float(np.abs(sums).sum() / n), np.random.default_rng(0)
    if labelled.groups is None:
        drawn = rng.normal(sums, spread, size=(REPLICATES, ECE_BINS))
    elif grouped.group_count(labelled.groups) < 2:
        return Interval(value=value, low=0.0, high=1.0)
    else:
        drawn = sums + _deviations(surplus, bins, labelled.groups, rng)
    found = np.abs(drawn).sum(axis=1) / n
    low, high = middle(found)
    most = value if labelled.groups is None else max(value, float(found.mean()))
    return Interval(
        value=value, low=max(0.0, min(value, 2 * value - high)), high=max(value, value + most - low)
    )


def _deviations(surplus: Floats, bins: Counts, groups: Counts, rng: np.random.Generator) -> Floats:
    """How far each bin's surplus is off where groups are drawn anew.  Shape: (REPLICATES, bins)."""
    by_bin = np.zeros((len(surplus), ECE_BINS))
    by_bin[np.arange(len(surplus)), bins] = surplus
    sums = grouped.group_sums(by_bin - by_bin.mean(axis=0), groups)
    count = len(sums)
    _, spread, axes = np.linalg.svd(sums, full_matrices=False)
    spread *= np.sqrt(count / (count - 1)) * grouped.deviate(count) / grouped.Z
    return np.asarray(rng.normal(size=(REPLICATES, len(spread))) @ (spread[:, None] * axes))


def _areas(known: RowScores) -> dict[str, Interval]:
    """ROC AUC and average precision of the second of two classes."""
    of, groups = known.labels == 1, known.groups
    roc = float(roc_auc_score(known.labels, known.second))
    precision = float(average_precision_score(known.labels, known.second))
    if groups is None:
        z, positive, negative = grouped.Z, int(of.sum()), int((~of).sum())
        roc_error = _roc_error(roc, positive, negative)
        precision_error = float(np.sqrt(precision * (1 - precision) / positive))
    else:
        z = grouped.deviate(grouped.group_count(groups))
        positive, negative = grouped.group_count(groups[of]), grouped.group_count(groups[~of])
        roc_error = grouped.group_error(_roc_contributions(known.second, of), groups)
        precision_error = grouped.group_error(_precision_contributions(known.second, of), groups)
    return {
        "roc_auc": _by_logit(roc, roc_error, min(positive, negative), z),
        "average_precision": _by_logit(precision, precision_error, positive, z),
    }


def _roc_contributions(second: Floats, positive: Hits) -> Floats:
    """What each row adds to the area under the ROC curve beyond its mean.

    DeLong et al. (1988), Biometrics 44, 837-845; Obuchowski (1997), Biometrics 53, 567-578.
    Shape: (n,) each.
    """
    below = rankdata(second)  # rows of the other class with less, ties by half
    for own in (positive, ~positive):
        below[own] -= rankdata(second[own])
    rows, others = positive.sum(), (~positive).sum()
    share = np.where(positive, below / others, 1 - below / rows)
    area = share[positive].mean()
    return np.asarray((share - area) / np.where(positive, rows, others))


def _precision_contributions(second: Floats, positive: Hits) -> Floats:
    """What each row adds to average precision beyond its mean: the derivative by its weight.

    A positive row has its own precision, and raises that of each positive row that is not above
    it; a negative one lowers that.  Shape: (n,) each.
    """
    values, place = np.unique(second, return_inverse=True)
    ours = np.bincount(place, weights=positive, minlength=len(values))
    theirs = np.bincount(place, weights=~positive, minlength=len(values))
    right, wrong = (np.cumsum(each[::-1])[::-1] for each in (ours, theirs))
    rises, falls = (np.cumsum(ours * each / (right + wrong) ** 2) for each in (wrong, right))
    precision = right / (right + wrong)
    mean = (ours * precision).sum() / positive.sum()
    beyond = np.where(positive, precision[place] - mean + rises[place], -falls[place])
    return np.asarray(beyond / positive.sum())


def _roc_error(area: float, positive: int, negative: int) -> float:
    """Standard error of an area under the ROC curve: Hanley & McNeil (1982), Radiology 143."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area)
    variance += (positive - 1) * (q1 - area**2) + (negative - 1) * (q2 - area**2)
    return float(np.sqrt(max(variance, 0.0) / (positive * negative)))


def _by_logit(area: float, error: float, rows: int, z: float) -> Interval:
    """An interval that is symmetric in the logit, so that it stays within 0 and 1.

    Boyd, Eng & Page (2013), "Area under the precision-recall curve". An area of 1 or 0 has no
    logit: it is taken for a share of the rarer class's rows. ``z`` standard errors hold 95 %.
    """
    if not 0 < area < 1:
        return share_of_rows(round(area), rows)
    logit, width = np.log(area / (1 - area)), z * error / (area * (1 - area))
    low, high = 1 / (1 + np.exp(-(logit + np.array([-width, width]))))
    return Interval(value=area, low=float(low), high=float(high))
