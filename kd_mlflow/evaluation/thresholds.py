"""By what a class is predicted: chosen, and what it is worth.

Of two classes it is a threshold: from which probability on the second one is predicted, the
positive one, as in ROC AUC and average precision. Of more it is one weight per class: the class of
the greatest probability times weight is predicted. With a weight of 1 each it is the likeliest one;
only the ratios of weights count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from sklearn.metrics import f1_score, recall_score

from kd_mlflow.evaluation.metrics import Counts, Floats

Cutoff: TypeAlias = float | tuple[float, ...]
"""By what a class is predicted: the probability from which on the second of two is, or of more a
weight per class."""

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

EQUAL = 1e-12
"""What two sums of shares may differ by and be equal."""


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


def by_rule(metrics: Mapping[str, float]) -> bool:
    """Whether a run's student predicts by a threshold or weights: not for the most right answers.

    >>> by_rule({"registered_threshold": 0.2}), by_rule({"registered_test_accuracy": 0.9})
    (True, False)
    """
    return "registered_threshold" in metrics or f"{WEIGHT}0" in metrics


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
    best = candidates[worth >= worth.max() - EQUAL]
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
    recall = caught / max(all_positive, 1)  # a share of nothing is 0
    precision = caught / np.maximum(taken, 1)
    specificity = (below - positives[below]) / max(n - all_positive, 1)
    f1 = 2 * caught / np.maximum(taken + all_positive, 1)
    columns = (levels, taken / n, precision, recall, f1, (recall + specificity) / 2)
    return [Threshold(*map(float, row)) for row in zip(*columns, strict=True)]


WORTHS = {"balanced_accuracy": recall_score, "f1": f1_score}
"""What weights may be the best for: means over the classes that rows are of."""

EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Powers of the inverse shares that weights may be: from the likeliest class to what is best for
balanced accuracy where probabilities are right (Elkan 2001, "The Foundations of Cost-Sensitive
Learning", IJCAI). A weight of its own for each class would learn the few rows it is chosen on.
"""


class ClassWeight(NamedTuple):
    """A class's weight, and how many of its rows are found as the likeliest class and with it."""

    name: str
    rows: int
    weight: float
    likeliest: int
    found: int


def choose_weights(
    rule: str, probabilities: Floats, labels: Counts, shares: Floats
) -> tuple[float, ...]:
    """The power of the inverse of the classes' shares that is best by one of ``WORTHS`` here.

    Of equally good ones the nearest to weights of 1. Their geometric mean is 1.
    Shape: probabilities (n, classes), labels (n,), shares (classes,) -> (classes,).
    """
    worths, known = [], np.unique(labels)
    for exponent in EXPONENTS:
        predicted = (probabilities * shares**-exponent).argmax(axis=1)
        averaged = {"labels": known, "average": "macro", "zero_division": 0}
        worths.append(WORTHS[rule](labels, predicted, **averaged))
    logs = -EXPONENTS[int(np.argmax(worths))] * np.log(shares)
    return tuple(np.exp(logs - logs.mean()).tolist())


def found_by_class(
    names: list[str], weights: tuple[float, ...], probabilities: Floats, labels: Counts
) -> list[ClassWeight]:
    """What each class's weight makes of its rows.  Shape: (n, classes), (n,)."""
    answers = (each.argmax(axis=1) for each in (probabilities, probabilities * weights))
    found = [labels, *(labels[labels == answer] for answer in answers)]
    rows, *hits = (np.bincount(each, minlength=len(names)).tolist() for each in found)
    return [ClassWeight(*each) for each in zip(names, rows, weights, *hits, strict=True)]


class DecisionRule(NamedTuple):
    """The threshold that was asked for, or of more than two classes the weights; None for neither.

    ``thresholds`` says what others are worth, ``weights`` what they make of each class.
    """

    threshold: Cutoff | None
    thresholds: Sequence[tuple[Threshold, str]] = ()
    weights: Sequence[ClassWeight] = ()


def decide(
    rule: str, rows: Mapping[str, int], probabilities: Floats, labels: Counts
) -> DecisionRule:
    """What a rule makes of the validation rows; ``rows`` are the training rows of each class.

    Shape: probabilities (n, classes), labels (n,).
    """
    names = list(rows)
    if len(names) == 2:
        second = probabilities[:, 1]
        threshold = choose_threshold(rule, second, labels)
        return DecisionRule(threshold, thresholds=worth_knowing(second, labels, threshold))
    if rule == NONE:
        return DecisionRule(None)
    counts = np.array(list(rows.values()), dtype=np.float64)
    weights = choose_weights(rule, probabilities, labels, counts / counts.sum())
    return DecisionRule(weights, weights=found_by_class(names, weights, probabilities, labels))
