"""Figures of classifiers: accuracy and calibration, fidelity, and how much distillation recovers.

All take arrays and return numbers; nothing here is logged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, log_loss, recall_score, roc_auc_score
from torch import Tensor

Floats = NDArray[np.floating[Any]]
Hits = NDArray[np.bool_]

ECE_BINS = 15
REPLICATES = 2000
"""Bootstrap replicates of an interval."""

CONFIDENCE = 0.95


def agreements(logits: Tensor, classes: Tensor) -> Tensor:
    """Share of rows where each member predicts the given class.  Shape: (k, n, c), (n,) -> (k,)."""
    return (logits.argmax(dim=2) == classes).double().mean(dim=1)


def probability_figures(probabilities: Floats, labels: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy, balanced accuracy, log loss (nats) and ECE; of two classes also the areas.

    ROC AUC and average precision take the second class as the positive one.
    Shape: (n, classes), (n,).
    """
    wide = probabilities.astype(np.float64)
    wide /= wide.sum(axis=1, keepdims=True)
    predicted = wide.argmax(axis=1)
    figures = {
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(
            recall_score(labels, predicted, labels=np.unique(labels), average="macro")
        ),
        "log_loss": float(log_loss(labels, wide, labels=np.arange(wide.shape[1]))),
        "ece": expected_calibration_error(wide, labels),
    }
    if wide.shape[1] == 2 and len(np.unique(labels)) == 2:
        figures["roc_auc"] = float(roc_auc_score(labels, wide[:, 1]))
        figures["average_precision"] = float(average_precision_score(labels, wide[:, 1]))
    return figures


def expected_calibration_error(probabilities: Floats, labels: NDArray[np.int64]) -> float:
    """Mean distance of confidence and accuracy over bins of confidence, weighted by their rows.

    Guo et al. (2017), arXiv 1706.04599, equation 3, with 15 bins.  Shape: (n, classes), (n,).
    """
    confidence = probabilities.max(axis=1)
    hits = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    surplus = np.bincount(bins, weights=confidence - hits, minlength=ECE_BINS)
    return float(np.abs(surplus).sum() / len(labels))


def standard_error(values: Floats) -> float:
    """Standard error of a mean over seeds; 0 for a single value, whose spread is unknown."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def knowledge_recovered(
    distilled: Hits, baseline: Hits, ensemble: Hits, *, seed: int = 0
) -> Interval | None:
    """(distilled - baseline) / (ensemble - baseline), bootstrapped over seeds and test rows.

    Distilled and baseline students of one seed are resampled together, and so are all models'
    answers on one row. Returns None where ensemble and baseline tie, that is where the interval of
    their difference reaches 0: the share of a gap that may be none is no number.

    Shape: distilled and baseline (seeds, n), ensemble (n,); true where the answer is right.
    """
    gap = float(ensemble.mean() - baseline.mean())
    d, b, e = _resampled_accuracies([distilled, baseline, ensemble[None]], seed=seed)
    if gap <= 0 or _middle(e - b)[0] <= 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (d - b) / np.where(e > b, e - b, np.nan)
    low, high = _middle(shares)
    return Interval(value=float(distilled.mean() - baseline.mean()) / gap, low=low, high=high)


def accuracy_difference(first: Hits, second: Hits, *, seed: int = 0) -> Interval:
    """Mean accuracy of ``first`` minus ``second``, bootstrapped over seeds and test rows.

    Students of one seed are resampled together; a single model, such as an ensemble, has no seeds
    to resample.  Shape: (seeds or 1, n) each; true where the answer is right.
    """
    a, b = _resampled_accuracies([first, second], seed=seed)
    low, high = _middle(a - b)
    return Interval(value=float(first.mean() - second.mean()), low=low, high=high)


def mcnemar_p(first: Hits, second: Hits) -> float:
    """P value of McNemar's exact test that two models err equally often on the rows they differ on.

    McNemar (1947), Psychometrika 12, 153-157.  Shape: (n,) each; true where the answer is right.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def _middle(values: Floats) -> tuple[float, float]:
    """Bounds of the middle 95 % of a bootstrap's values."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)


def _resampled_accuracies(groups: Sequence[Hits], *, seed: int) -> list[Floats]:
    """Accuracies of each group under resampled seeds and rows.  Shape of each: (REPLICATES,).

    Rows on which all models answer alike are interchangeable, so resampling rows is drawing how
    often each such pattern occurs: exact, and independent of the number of rows.
    """
    rng = np.random.default_rng(seed)
    stacked = np.vstack(groups)
    seeds, n = max(map(len, groups)), stacked.shape[1]
    packed, counts = np.unique(np.packbits(stacked, axis=0), axis=1, return_counts=True)
    patterns = np.unpackbits(packed, axis=0, count=len(stacked))
    weights = rng.multinomial(n, counts / n, size=REPLICATES) / n
    by_model = weights @ patterns.T.astype(np.float64)
    drawn = rng.integers(seeds, size=(REPLICATES, seeds))
    ends = np.cumsum([len(group) for group in groups])
    parts = np.split(by_model, ends[:-1], axis=1)
    return [np.take_along_axis(part, drawn % part.shape[1], axis=1).mean(axis=1) for part in parts]


def teacher_student_kl(ensemble_logits: Tensor, logits: Tensor) -> float:
    """Mean KL(ensemble || student) at T 1, in nats.  Shape: (n, classes) each."""
    teacher = torch.log_softmax(ensemble_logits.double(), dim=-1)
    student = torch.log_softmax(logits.double(), dim=-1)
    return float((teacher.exp() * (teacher - student)).sum(dim=-1).mean())
