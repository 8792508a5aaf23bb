"""Figures of classifiers: accuracy and calibration, fidelity, and how much distillation recovers.

All take arrays and return numbers; nothing here is logged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
class Recovery:
    """Share of the baseline-to-ensemble gap that distillation closes, with its 95 % interval."""

    recovered: float
    low: float
    high: float


def knowledge_recovered(
    distilled: Hits, baseline: Hits, ensemble: Hits, *, seed: int = 0
) -> Recovery | None:
    """(distilled - baseline) / (ensemble - baseline), bootstrapped over seeds and test rows.

    Distilled and baseline students of one seed are resampled together, and so are all models'
    answers on one row. Returns None where ensemble and baseline tie, that is where the interval of
    their difference reaches 0: the share of a gap that may be none is no number.

    Shape: distilled and baseline (seeds, n), ensemble (n,); true where the answer is right.
    """
    gap = float(ensemble.mean() - baseline.mean())
    d, b, e = _resampled_accuracies(distilled, baseline, ensemble, np.random.default_rng(seed))
    tail = 100 * (1 - CONFIDENCE) / 2
    if gap <= 0 or np.percentile(e - b, tail) <= 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (d - b) / np.where(e > b, e - b, np.nan)
    low, high = np.nanpercentile(shares, [tail, 100 - tail])
    recovered = float(distilled.mean() - baseline.mean()) / gap
    return Recovery(recovered=recovered, low=float(low), high=float(high))


def _resampled_accuracies(
    distilled: Hits, baseline: Hits, ensemble: Hits, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Accuracies of resampled seeds and rows.  Shape of each: (REPLICATES,).

    Rows on which all models answer alike are interchangeable, so resampling rows is drawing how
    often each such pattern occurs: exact, and independent of the number of rows.
    """
    seeds, n = distilled.shape
    answers = np.packbits(np.vstack([distilled, baseline, ensemble[None]]), axis=0)
    packed, counts = np.unique(answers, axis=1, return_counts=True)
    patterns = np.unpackbits(packed, axis=0, count=2 * seeds + 1)
    weights = rng.multinomial(n, counts / n, size=REPLICATES) / n
    by_model = weights @ patterns.T.astype(np.float64)
    drawn = rng.integers(seeds, size=(REPLICATES, seeds))
    d = np.take_along_axis(by_model[:, :seeds], drawn, axis=1).mean(axis=1)
    b = np.take_along_axis(by_model[:, seeds : 2 * seeds], drawn, axis=1).mean(axis=1)
    return d, b, by_model[:, -1]


def teacher_student_kl(ensemble_logits: Tensor, logits: Tensor) -> float:
    """Mean KL(ensemble || student) at T 1, in nats.  Shape: (n, classes) each."""
    teacher = torch.log_softmax(ensemble_logits.double(), dim=-1)
    student = torch.log_softmax(logits.double(), dim=-1)
    return float((teacher.exp() * (teacher - student)).sum(dim=-1).mean())
