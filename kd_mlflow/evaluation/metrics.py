"""Metrics of one classifier: accuracy, log loss, calibration, recall; counts that figures show."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, log_loss, recall_score, roc_auc_score

Floats = NDArray[np.floating[Any]]
Hits = NDArray[np.bool_]
Counts = NDArray[np.int64]

ECE_BINS = 15
"""Bins of confidence, equally wide, over which the calibration error is a mean."""

ROUNDING = 1e-6
"""How far below an edge a confidence, in bins, may be and still be on it: float32 rounds so."""


def probability_metrics(
    probabilities: Floats, labels: Counts, predicted: Counts | None = None
) -> dict[str, float]:
    """Accuracy, balanced accuracy, log loss (nats) and ECE; of two classes also the areas.

    ROC AUC and average precision take the second class as the positive one. ``predicted`` are the
    classes that are answered, the likeliest ones where none are given.
    Shape: (n, classes), (n,), (n,).

    >>> found = probability_metrics(np.array([[0.8, 0.2], [0.4, 0.6]]), np.array([0, 1]))
    >>> found["accuracy"], round(found["log_loss"], 3), round(found["ece"], 3)
    (1.0, 0.367, 0.3)
    """
    wide = probabilities.astype(np.float64)
    wide /= wide.sum(axis=1, keepdims=True)
    if predicted is None:
        predicted = wide.argmax(axis=1)
    metrics = {
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(
            recall_score(labels, predicted, labels=np.unique(labels), average="macro")
        ),
        "log_loss": float(log_loss(labels, wide, labels=np.arange(wide.shape[1]))),
        "ece": expected_calibration_error(wide, labels, predicted),
    }
    if wide.shape[1] == 2 and len(np.unique(labels)) == 2:
        metrics["roc_auc"] = float(roc_auc_score(labels, wide[:, 1]))
        metrics["average_precision"] = float(average_precision_score(labels, wide[:, 1]))
    return metrics


def majority_metrics(train: Counts, test: Counts) -> dict[str, float]:
    """What it is worth to answer every row with the training rows' shares of the classes.

    Shape: class numbers, (rows,) each.

    >>> majority_metrics(np.array([0, 0, 0, 1]), np.array([0, 1]))["majority_test_accuracy"]
    0.5
    """
    shares = np.bincount(train, minlength=int(max(train.max(), test.max())) + 1) / len(train)
    found = probability_metrics(np.tile(shares, (len(test), 1)), test)
    names = ("accuracy", "balanced_accuracy", "log_loss")
    return {f"majority_test_{name}": found[name] for name in names}


def expected_calibration_error(probabilities: Floats, labels: Counts, predicted: Counts) -> float:
    """Mean distance of confidence and accuracy over bins of confidence, weighted by their rows.

    Guo et al. (2017), arXiv 1706.04599, equation 3, with 15 bins.  Shape: (n, classes), (n,), (n,).
    """
    confidence = probabilities[np.arange(len(labels)), predicted]
    beyond = confidence - (predicted == labels)
    surplus = np.bincount(confidence_bins(confidence), weights=beyond, minlength=ECE_BINS)
    return float(np.abs(surplus).sum() / len(labels))


def confidence_bins(confidence: Floats) -> Counts:
    """The bin of the ECE that each row is in.  Shape: (n,) -> (n,).

    A round probability such as 0.6 lies on an edge, and in the bin above it however it is rounded.

    >>> confidence_bins(np.array([0.8]))
    array([12])
    """
    places = (confidence * ECE_BINS + ROUNDING).astype(np.int64)
    return np.minimum(places, ECE_BINS - 1)


def class_recalls(predicted: Counts, labels: Counts, classes: int) -> NDArray[np.float64]:
    """Share of each class's rows that each member predicts; NaN for a class without a row.

    Shape: predicted (k, n), labels (n,) -> (k, classes).

    >>> class_recalls(np.array([[0, 1, 1]]), np.array([0, 0, 1]), 3)
    array([[0.5, 1. , nan]])
    """
    rows = np.bincount(labels, minlength=classes).astype(np.float64)
    hits = [np.bincount(labels[each == labels], minlength=classes) for each in predicted]
    return np.stack(hits) / np.where(rows, rows, np.nan)


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


def reliability(confidence: Floats, hits: Hits) -> Bins:
    """Accuracy by confidence, in the bins of the ECE.

    By the predicted classes' probabilities and whether they are right.  Shape: (n,) each.
    """
    return _binned(confidence, hits[None].astype(float), confidence_bins(confidence))


def agreement_by_confidence(ensemble: Floats, students: list[Counts], classes: Counts) -> Bins:
    """Share of rows on which students predict the ensemble's class, by its highest probability.

    ``students``: the classes that each kind of student predicts; ``classes`` those that the
    ensemble does.
    Shape: ensemble (n, classes), each of students (seeds, n), classes (n,).
    """
    confidence = ensemble.max(axis=1)
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
