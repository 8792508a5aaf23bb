"""By what a class is predicted: chosen, and what it is worth.

Of two classes it is a threshold: from which probability on the second one is predicted, the
positive one, as in ROC AUC and average precision. Of more it is one weight per class: the class of
the greatest probability times weight is predicted. With a weight of 1 each it is the likeliest one;
only the ratios of weights count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd

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

MOST_ROUNDS = 10
"""How often each class's weight is looked at; most searches end after three rounds."""

LARGEST = 1e6
"""No weight that is tried is above it, or below its inverse."""

LEAST = 1e-12
"""Probabilities below it count as it: a class of probability 0 is never predicted."""

EQUAL = 1e-12
"""What two sums of shares may differ by and be equal."""

Worth = Callable[[Counts, Counts, Counts], Floats]
"""What a class is worth: of its rows that are found, rows predicted to be of it, its rows."""


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


WORTHS: dict[str, Worth] = {
    "balanced_accuracy": lambda caught, taken, rows: caught / np.maximum(rows, 1),
    "f1": lambda caught, taken, rows: 2 * caught / np.maximum(taken + rows, 1),
}
"""What weights may be the best for: means over the classes that rows are of."""


class ClassWeight(NamedTuple):
    """A class's weight, and how many of its rows are found as the likeliest class and with it."""

    name: str
    rows: int
    weight: float
    likeliest: int
    found: int


def choose_weights(rule: str, probabilities: Floats, labels: Counts) -> tuple[float, ...]:
    """The weights that are best by one of ``WORTHS`` on these rows, as far as a search finds them.

    One class's weight is moved at a time, to the middle between two neighbouring rows, until
    nothing gains: from weights of 1, and from the inverse of each class's share. Of equally good
    weights the nearest to 1 are taken. They are never worse than the likeliest class. A class
    without rows keeps its 1. Their geometric mean is 1.
    Shape: (n, classes), (n,) -> (classes,).
    """
    search = _Search(np.maximum(probabilities, LEAST), labels, WORTHS[rule])
    rows = search.rows
    inverse = np.where(rows > 0, len(labels) / (np.count_nonzero(rows) * np.maximum(rows, 1)), 1.0)
    found = [search.climb(start) for start in (np.ones(len(rows)), inverse)]
    best = max(worth for worth, _ in found)
    kept = [weights for worth, weights in found if worth >= best - EQUAL]
    logs = [np.log(weights) - np.log(weights).mean() for weights in kept]
    return tuple(np.exp(min(logs, key=lambda log: float(np.abs(log).sum()))).tolist())


def weighed(
    names: list[str], weights: tuple[float, ...], probabilities: Floats, labels: Counts
) -> list[ClassWeight]:
    """What each class's weight makes of its rows.  Shape: (n, classes), (n,)."""
    answers = (each.argmax(axis=1) for each in (probabilities, probabilities * weights))
    found = [labels, *(labels[labels == answer] for answer in answers)]
    rows, *hits = (np.bincount(each, minlength=len(names)).tolist() for each in found)
    return [ClassWeight(*each) for each in zip(names, rows, weights, *hits, strict=True)]


class Decision(NamedTuple):
    """The threshold that was asked for, or of more than two classes the weights; None for neither.

    ``thresholds`` says what others are worth, ``weights`` what they make of each class.
    """

    threshold: Cutoff | None
    thresholds: Sequence[tuple[Threshold, str]] = ()
    weights: Sequence[ClassWeight] = ()


def decide(rule: str, names: list[str], probabilities: Floats, labels: Counts) -> Decision:
    """What a rule makes of some rows, by the names of the classes.  Shape: (n, classes), (n,)."""
    if len(names) == 2:
        second = probabilities[:, 1]
        threshold = choose_threshold(rule, second, labels)
        return Decision(threshold, thresholds=worth_knowing(second, labels, threshold))
    if rule == NONE:
        return Decision(None)
    weights = choose_weights(rule, probabilities, labels)
    return Decision(weights, weights=weighed(names, weights, probabilities, labels))


@dataclass(frozen=True)
class _Search:
    """Rows to choose weights on, and what they are to be best for.  Shape: (n, classes), (n,)."""

    probabilities: Floats
    labels: Counts
    worth: Worth

    @cached_property
    def rows(self) -> Counts:
        """Rows of each class.  Shape: (classes,)."""
        return np.bincount(self.labels, minlength=self.probabilities.shape[1])

    def climb(self, weights: Floats) -> tuple[float, Floats]:
        """Move one weight after the other until no move gains; what they are worth, and they."""
        worth = self._worth(weights)
        for _ in range(MOST_ROUNDS):
            before = worth
            for place in np.flatnonzero(self.rows):
                worth, weights = self._moved(worth, weights, int(place))
            if worth <= before + EQUAL:
                break
        return worth, weights

    def _moved(self, worth: float, weights: Floats, place: int) -> tuple[float, Floats]:
        """The same with the best weight for one class, if that gains."""
        candidates, worths = self._candidates(weights, place)
        best = worths.max(initial=-np.inf)
        if best <= worth + EQUAL:
            return worth, weights
        equal = candidates[worths >= best - EQUAL]
        moved = weights.copy()
        moved[place] = equal[np.abs(np.log(equal)).argmin()]
        return float(best), moved

    def _candidates(self, weights: Floats, place: int) -> tuple[Floats, Floats]:
        """Weights for one class, and what each is worth.

        A row is predicted to be of the class from some weight on; candidates lie between two such
        weights, where rounding brings no row to the other side.
        """
        others = self.probabilities * weights
        others[:, place] = 0
        rivals = others.argmax(axis=1)
        needed = others.max(axis=1) / self.probabilities[:, place]
        order = np.argsort(needed, kind="stable")
        values = needed[order]
        between = np.sqrt(values[1:] * values[:-1])
        apart = np.diff(values) > NEAR * values[1:]
        kept = apart & (between <= LARGEST) & (between >= 1 / LARGEST)
        return between[kept], self._worths(order, rivals[order], place)[1:-1][kept]

    def _worths(self, order: Counts, rivals: Counts, place: int) -> Floats:
        """What it is worth that the first k rows, for each k, go from their rivals to one class.

        Shape: (n,), (n,) -> (n + 1,).
        """
        labels = self.labels[order]
        caught = np.concatenate([[0], np.cumsum(labels == place)])
        own = self.worth(caught, np.arange(len(order) + 1), self.rows[place])
        lost = np.concatenate([[0.0], np.cumsum(self._losses(labels, rivals))])
        total: Floats = own + self._sum(labels, rivals) - lost
        return total / np.count_nonzero(self.rows)

    def _losses(self, labels: Counts, rivals: Counts) -> Floats:
        """What each row's rival loses as the row leaves it, after the rows before.  Shape: (n,)."""
        right, rows = (labels == rivals).astype(np.int64), self.rows[rivals]
        of_rival = pd.Series(right).groupby(rivals)
        left = (of_rival.transform("size") - of_rival.cumcount()).to_numpy()
        caught = (of_rival.transform("sum") - of_rival.cumsum()).to_numpy() + right
        return self.worth(caught, left, rows) - self.worth(caught - right, left - 1, rows)

    def _worth(self, weights: Floats) -> float:
        predicted = (self.probabilities * weights).argmax(axis=1)
        return self._sum(self.labels, predicted) / np.count_nonzero(self.rows)

    def _sum(self, labels: Counts, predicted: Counts) -> float:
        """The sum over classes of what each is worth.  Shape: (n,) each."""
        classes = len(self.rows)
        caught = np.bincount(labels[labels == predicted], minlength=classes)
        taken = np.bincount(predicted, minlength=classes)
        return float(self.worth(caught, taken, self.rows).sum())
