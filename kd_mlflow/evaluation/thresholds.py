"""From which probability on the second of two classes is predicted: chosen, tabled.

The second class is the positive one, as in ROC AUC and average precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from kd_mlflow.evaluation.metrics import Counts, Floats

Cutoff: TypeAlias = float | tuple[float, ...]
"""By what a class is predicted: the probability from which on the second of two is, or of more a
weight per class (see ``class_weights``)."""

NONE = "none"
"""The rule of no threshold: the likelier class is predicted."""

WEIGHT = "registered_weight_"
"""How a metric begins that is the weight of a class, which its number follows."""

NEAR = 1e-5
"""Probabilities are one that differ by no more than this share of them: rounding moves them so."""

SHOWN = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))
"""Thresholds that a table shows besides the ones chosen."""

RULE_WORDS = {"balanced_accuracy": "balanced accuracy", "f1": "F1"}
RULES = tuple(RULE_WORDS)
"""What a threshold may be the best for, on rows that nothing was trained on."""


def cutoff_of(document: float | list[float] | None) -> Cutoff | None:
    """A cutoff as it was before it was written as JSON."""
    return tuple(document) if isinstance(document, list) else document


def logged_as(cutoff: Cutoff) -> dict[str, float]:
    """The metrics of a run that say by what its registered student predicts a class."""
    if isinstance(cutoff, float):
        return {"registered_threshold": cutoff}
    return {f"{WEIGHT}{number}": weight for number, weight in enumerate(cutoff)}


def logged_cutoff(metrics: Mapping[str, float], classes: int) -> Cutoff | None:
    """By what a run's metrics say that its student predicts a class; None: the likeliest one."""
    weights = [metrics.get(f"{WEIGHT}{number}") for number in range(classes)]
    known = tuple(weight for weight in weights if weight is not None)
    return known if known and len(known) == classes else metrics.get("registered_threshold")


class Threshold(NamedTuple):
    """What predicting the second class from a probability on is worth.

    ``predicted`` is the share of rows for which it is; a share of no rows is 0.
    """

    threshold: float
    predicted: float
    precision: float
    recall: float
    f1: float
    balanced_accuracy: float


def choose_threshold(rule: str, second: Floats, labels: Counts) -> float | None:
    """The threshold that a rule names: none, the best by one of ``RULES``, or a number.

    Candidates lie in the middle between neighbouring probabilities of these rows, where they are
    so far apart that rounding brings no row to the other side; of equally good ones the nearest to
    0.5 is taken.
    ``second`` are probabilities of the second class.  Shape: second and labels (n,).
    """
    if rule == NONE:
        return None
    if rule not in RULES:
        return float(rule)
    values = np.sort(second)
    apart = np.diff(values) > NEAR * values[1:]
    candidates = ((values[1:] + values[:-1]) / 2)[apart]
    if not len(candidates):
        return 0.5
    worth = np.array([getattr(each, rule) for each in tabled(second, labels, candidates)])
    best = candidates[worth >= worth.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


def worth_knowing(second: Floats, labels: Counts, own: float | None) -> list[tuple[Threshold, str]]:
    """Thresholds that a reader compares, ascending, and what is special about each.

    Those of ``SHOWN``, the best ones, and a model's ``own``.  Shape: second and labels (n,).
    """
    special: dict[float, list[str]] = {level: [] for level in SHOWN}
    for rule in RULES:
        best = choose_threshold(rule, second, labels)
        special.setdefault(best or 0.5, []).append(f"best {RULE_WORDS[rule]}")
    special.setdefault(0.5 if own is None else own, []).append("in use")
    rows = tabled(second, labels, sorted(special))
    return [(row, ", ".join(special[row.threshold])) for row in rows]


def tabled(second: Floats, labels: Counts, thresholds: Sequence[float] | Floats) -> list[Threshold]:
    """What each threshold is worth on the same rows.  Shape: second and labels (n,)."""
    order = np.argsort(second)
    levels = np.asarray(thresholds, dtype=np.float64)
    below = np.searchsorted(second[order], levels, side="left")
    positives = np.concatenate([[0], np.cumsum(labels[order])])
    n, all_positive = len(labels), int(positives[-1])
    caught = all_positive - positives[below]
    taken = n - below
    recall = _share(caught, all_positive)
    precision = _share(caught, taken)
    specificity = _share(below - positives[below], n - all_positive)
    f1 = _share(2 * caught, taken + all_positive)
    columns = (levels, taken / n, precision, recall, f1, (recall + specificity) / 2)
    return [Threshold(*map(float, row)) for row in zip(*columns, strict=True)]


def _share(some: Counts, of: Counts | int) -> Floats:
    """A share, 0 where it is one of nothing."""
    whole = np.broadcast_to(of, np.shape(some))
    return np.where(whole > 0, some / np.maximum(whole, 1), 0.0)
