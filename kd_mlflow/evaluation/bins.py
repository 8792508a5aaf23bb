"""Counts that figures show: bins of confidence, confusions. Arrays in, arrays out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kd_mlflow.evaluation.metrics import Counts, Floats, Hits, by_confidence, confidence_bins

CONFIDENCE_EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Bins of the ensemble's confidence: finer where most rows are."""


class Bins(NamedTuple):
    """Bins of confidence that hold rows.

    ``confidence[b]``: mean confidence of bin b; ``shares[m, b]``: share of the rows of bin b where
    model m is right, or agrees; ``rows[b]``: how many rows it holds; ``places[b]``: its number
    among all bins; ``worth``: how much a row says of a share beside one that is in no group.
    Shape: shares (models, bins), others (bins,).
    """

    confidence: Floats
    shares: Floats
    rows: Counts
    places: Counts
    worth: float = 1.0


def reliability(probabilities: Floats, labels: Counts, predicted: Counts | None = None) -> Bins:
    """Accuracy by confidence, in the bins of the ECE.  Shape: (n, classes), (n,), (n,).

    ``predicted`` are the classes that are answered, the likeliest ones where none are given.
    """
    confidence, hits, _ = by_confidence(probabilities, labels, predicted)
    return reliability_of(confidence, hits)


def reliability_of(confidence: Floats, hits: Hits) -> Bins:
    """The same of the predicted classes' probabilities and whether they are right.  Shape: (n,)."""
    return _binned(confidence, hits[None].astype(float), confidence_bins(confidence))


def agreement_by_confidence(
    ensemble: Floats, students: list[Counts], classes: Counts | None = None
) -> Bins:
    """Share of rows on which students predict the ensemble's class, by its highest probability.

    ``students``: the classes that each kind of student predicts; ``classes`` those that the
    ensemble does, its likeliest ones where none are given.
    Shape: ensemble (n, classes), each of students (seeds, n), classes (n,).
    """
    confidence = ensemble.max(axis=1)
    if classes is None:
        classes = ensemble.argmax(axis=1)
    agreed = np.stack([(predicted == classes).mean(axis=0) for predicted in students])
    places = np.searchsorted(CONFIDENCE_EDGES, confidence, side="right") - 1
    return _binned(confidence, agreed, np.clip(places, 0, len(CONFIDENCE_EDGES) - 2))


def confusion(labels: Counts, predicted: Counts, classes: int) -> Counts:
    """Rows by true and predicted class.  Shape: (n,), (n,) -> (classes, classes).

    >>> confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), 2)
    array([[1, 0],
           [1, 1]])
    """
    flat = np.bincount(labels * classes + predicted, minlength=classes**2)
    return flat.reshape(classes, classes).astype(np.int64)


def _binned(confidence: Floats, values: Floats, places: Counts) -> Bins:
    rows = np.bincount(places)
    held = np.flatnonzero(rows)
    sums = [np.bincount(places, weights=each)[held] for each in (confidence, *values)]
    means = np.stack(sums) / rows[held]
    return Bins(means[0], means[1:], rows[held].astype(np.int64), held.astype(np.int64))
