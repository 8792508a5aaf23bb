"""Numbers that figures show: intervals, bins of confidence, confusions. Arrays in, arrays out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd_mlflow.metrics import ECE_BINS

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

Z = 1.959964
"""Of the normal distribution's middle 95 %."""

CONFIDENCE_EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Bins of the ensemble's confidence: finer where most rows are."""


class Bins(NamedTuple):
    """Bins of confidence that hold rows.

    ``confidence``: mean confidence of a bin; ``shares``: of its rows with some property, one line a
    model; ``rows``: how many it holds; ``places``: its number among all bins.
    Shape: shares (models, bins), others (bins,).
    """

    confidence: Floats
    shares: Floats
    rows: Counts
    places: Counts


def wilson(share: Any, rows: Any) -> tuple[Floats, Floats]:
    """95 % interval of a share of so many rows, honest at 0 and 1 too.

    Wilson (1927), J. Am. Stat. Assoc. 22, 209-212.  Shape: any, and so are both bounds.
    """
    p, n = np.asarray(share, dtype=float), np.asarray(rows, dtype=float)
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return np.clip(middle - half, 0, p), np.clip(middle + half, p, 1)


def reliability(probabilities: Floats, labels: Counts) -> Bins:
    """Accuracy by confidence, in the bins of the ECE.  Shape: (n, classes), (n,)."""
    confidence = probabilities.max(axis=1)
    hits = probabilities.argmax(axis=1) == labels
    places = np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    return _binned(confidence, hits[None].astype(float), places)


def agreement_by_confidence(ensemble: Floats, students: list[Counts]) -> Bins:
    """Share of rows on which students predict the ensemble's class, by the ensemble's confidence.

    ``students``: the classes that each kind of student predicts.
    Shape: ensemble (n, classes), each of students (seeds, n).
    """
    confidence, classes = ensemble.max(axis=1), ensemble.argmax(axis=1)
    agreed = np.stack([(predicted == classes).mean(axis=0) for predicted in students])
    places = np.searchsorted(CONFIDENCE_EDGES, confidence, side="right") - 1
    return _binned(confidence, agreed, np.clip(places, 0, len(CONFIDENCE_EDGES) - 2))


def confusion(labels: Counts, predicted: Counts, classes: int) -> Counts:
    """Rows by true and predicted class.  Shape: (n,), (n,) -> (classes, classes)."""
    flat = np.bincount(labels * classes + predicted, minlength=classes**2)
    return flat.reshape(classes, classes).astype(np.int64)


def _binned(confidence: Floats, values: Floats, places: Counts) -> Bins:
    rows = np.bincount(places)
    held = np.flatnonzero(rows)
    sums = [np.bincount(places, weights=each)[held] for each in (confidence, *values)]
    means = np.stack(sums) / rows[held]
    return Bins(means[0], means[1:], rows[held].astype(np.int64), held.astype(np.int64))
