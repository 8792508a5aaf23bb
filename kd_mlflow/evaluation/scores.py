"""What one model's answers on a table are worth, each number with its 95 % interval.

A table may be large: of each row is kept what metrics need, never its probabilities of every class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from kd_mlflow.evaluation.bins import confusion
from kd_mlflow.evaluation.intervals import (
    REPLICATES,
    Interval,
    Z,
    accuracy_difference,
    loss_difference,
    mcnemar_p,
    middle,
    wilson,
)
from kd_mlflow.evaluation.metrics import ECE_BINS, Floats, Hits, confidence_bins

Counts = NDArray[np.int64]

NO_LABEL, UNKNOWN = -1, -2
"""In the place of a class number: a row without a label, and one of a class that is not known."""


@dataclass(frozen=True, kw_only=True)
class RowScores:
    """A model's answers to the rows of a table.

    ``predicted`` and ``labels`` are class numbers, a label may be ``NO_LABEL`` or ``UNKNOWN``;
    ``confidence`` is the highest probability, ``of_label`` that of the label (NaN where there is
    none or it is unknown), ``second`` that of the second of two classes, empty where there are
    more.  Shape of each: (n,).
    """

    classes: int
    predicted: Counts
    confidence: Floats
    labels: Counts
    of_label: Floats
    second: Floats

    @classmethod
    def of(cls, probabilities: Floats, labels: Counts) -> RowScores:
        """Keep what metrics need of some rows.  Shape: (n, classes), (n,)."""
        wide = probabilities.astype(np.float64)
        wide /= wide.sum(axis=1, keepdims=True)
        rows = np.arange(len(wide))
        return cls(
            classes=wide.shape[1],
            predicted=wide.argmax(axis=1),
            confidence=wide.max(axis=1),
            labels=labels,
            of_label=np.where(labels >= 0, wide[rows, np.maximum(labels, 0)], np.nan),
            second=wide[:, 1] if wide.shape[1] == 2 else np.empty(0),
        )

    @classmethod
    def joined(cls, parts: Sequence[RowScores]) -> RowScores:
        """Put the rows of several parts, scored one after the other, together."""
        names = ("predicted", "confidence", "labels", "of_label", "second")
        whole = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(classes=parts[0].classes, **whole)

    @property
    def labelled(self) -> RowScores:
        """The rows that have a label, of a class that is known or not."""
        return self._some(self.labels != NO_LABEL)

    @property
    def known(self) -> RowScores:
        """The rows whose label is one of the model's classes."""
        return self._some(self.labels >= 0)

    @property
    def hits(self) -> Hits:
        """Whether each row's label is predicted; an unknown one never is.  Shape: (n,)."""
        right: Hits = self.predicted == self.labels
        return right

    @property
    def losses(self) -> Floats:
        """Minus the logarithm of the label's probability; 0 counts as the least float64 above it.

        Shape: (n,), nats.
        """
        return -np.log(np.maximum(self.of_label, np.finfo(np.float64).eps))

    def __len__(self) -> int:
        return len(self.predicted)

    def _some(self, rows: Hits) -> RowScores:
        return RowScores(
            classes=self.classes,
            predicted=self.predicted[rows],
            confidence=self.confidence[rows],
            labels=self.labels[rows],
            of_label=self.of_label[rows],
            second=self.second[rows] if len(self.second) else self.second,
        )


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """One class: its rows by label and by prediction, and shares with their intervals.

    ``recall`` is None without a row of the class, ``precision`` where it is never predicted.
    """

    name: str
    rows: int
    predicted: int
    recall: Interval | None
    precision: Interval | None


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A model against another on the same rows; a positive gain is in favour of the first.

    ``accuracy_gain`` and ``loss_gain`` are None where no row has a label that both know.
    """

    agreement: float
    accuracy: float | None = None
    accuracy_gain: Interval | None = None
    loss_gain: Interval | None = None
    mcnemar_p: float | None = None


def expected_accuracy(scores: RowScores) -> Interval:
    """The mean confidence: the share of right answers of a model that is calibrated on these rows.

    The interval is that of the number of right answers, each as likely as the model says.
    """
    share, n = float(scores.confidence.mean()), len(scores)
    spread = float(np.sqrt((scores.confidence * (1 - scores.confidence)).sum()))
    return Interval(
        value=share, low=max(0.0, share - Z * spread / n), high=min(1.0, share + Z * spread / n)
    )


def metrics_with_intervals(scores: RowScores) -> dict[str, Interval]:
    """Every metric of ``probability_metrics`` on the rows with labels, with 95 % intervals.

    An unknown label counts as a wrong answer in accuracy and ECE; the others leave its row out.
    Needs one row with a known label.
    """
    labelled, known = scores.labelled, scores.known
    found = {
        "accuracy": _share(int(labelled.hits.sum()), len(labelled)),
        "balanced_accuracy": _balanced_accuracy(known),
        "log_loss": _mean(known.losses),
        "ece": _calibration_error(labelled),
    }
    if scores.classes == 2 and len(np.unique(known.labels)) == 2:
        found |= _areas(known)
    return found


def class_scores(scores: RowScores, names: Sequence[str]) -> tuple[ClassScores, ...]:
    """Recall and precision of each class, by the rows whose label is known."""
    known = scores.known
    counts = confusion(known.labels, known.predicted, scores.classes)
    rows, predicted, right = counts.sum(axis=1), counts.sum(axis=0), np.diag(counts)
    everywhere = np.bincount(scores.predicted, minlength=scores.classes)
    return tuple(
        ClassScores(
            name=name,
            rows=int(rows[i]),
            predicted=int(everywhere[i]),
            recall=_share(int(right[i]), int(rows[i])) if rows[i] else None,
            precision=_share(int(right[i]), int(predicted[i])) if predicted[i] else None,
        )
        for i, name in enumerate(names)
    )


def paired(first: RowScores, second: RowScores) -> Paired:
    """Compare two models of the same classes on the same rows."""
    agreement = float((first.predicted == second.predicted).mean())
    one, two = first.labelled, second.labelled
    if not len(one):
        return Paired(agreement=agreement)
    losses = first.known.losses[None], second.known.losses[None]
    return Paired(
        agreement=agreement,
        accuracy=float(two.hits.mean()),
        accuracy_gain=accuracy_difference(one.hits[None], two.hits[None]),
        loss_gain=loss_difference(losses[1], losses[0]),
        mcnemar_p=mcnemar_p(one.hits, two.hits),
    )


def _share(right: int, rows: int) -> Interval:
    low, high = wilson(right / rows, rows)
    return Interval(value=right / rows, low=float(low), high=float(high))


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
        return _share(round(area * rows), rows)
    logit, width = np.log(area / (1 - area)), Z * error / (area * (1 - area))
    low, high = 1 / (1 + np.exp(-(logit + np.array([-width, width]))))
    return Interval(value=area, low=float(low), high=float(high))
