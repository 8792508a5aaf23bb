"""One weight per class, for more than two: what decides which class is predicted.

The class of the greatest probability times weight is. With a weight of 1 each it is the likeliest
one; only the ratios of weights count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from kd_mlflow.evaluation.metrics import Counts, Floats
from kd_mlflow.evaluation.thresholds import NEAR

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


def _recall(caught: Counts, taken: Counts, rows: Counts) -> Floats:
    return caught / np.maximum(rows, 1)


def _f1(caught: Counts, taken: Counts, rows: Counts) -> Floats:
    shares: Floats = 2 * caught / np.maximum(taken + rows, 1)
    return shares


WORTHS: dict[str, Worth] = {"balanced_accuracy": _recall, "f1": _f1}
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
        worth, before = self._worth(weights), -np.inf
        for _ in range(MOST_ROUNDS):
            if worth <= before + EQUAL:
                break
            before = worth
            for place in np.flatnonzero(self.rows):
                worth, weights = self._moved(worth, weights, int(place))
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
