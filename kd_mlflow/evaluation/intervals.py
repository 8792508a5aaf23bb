"""How sure a number is: intervals of accuracies, of their differences, of a share; a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from kd_mlflow.evaluation.metrics import Floats, Hits

REPLICATES = 2000
"""Bootstrap replicates of an interval."""

CONFIDENCE = 0.95
Z = 1.959964
"""The normal distribution's middle 95 % ends so many standard deviations from its mean."""


def standard_error(values: Floats) -> float:
    """Standard error of a mean over seeds; 0 for a single value, whose spread is unknown.

    >>> standard_error(np.array([1.0, 2.0, 3.0])) == 1 / np.sqrt(3)
    np.True_
    """
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number with its 95 % interval.

    >>> Interval(value=0.01, low=-0.002, high=0.021).decided
    False

    Fields:
        value: the number itself
        low: the lower bound
        high: the upper bound
    """

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
    if gap <= 0 or middle(e - b)[0] <= 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (d - b) / np.where(e > b, e - b, np.nan)
    low, high = middle(shares)
    return Interval(value=float(distilled.mean() - baseline.mean()) / gap, low=low, high=high)


def accuracy_difference(first: Hits, second: Hits, *, seed: int = 0) -> Interval:
    """Mean accuracy of ``first`` minus ``second``, bootstrapped over seeds and test rows.

    Students of one seed are resampled together; a single model, such as an ensemble, has no seeds
    to resample.  Shape: (seeds or 1, n) each; true where the answer is right.

    >>> better, worse = np.ones((1, 100), dtype=bool), np.arange(100)[None] < 90
    >>> accuracy_difference(better, worse).decided
    True
    """
    a, b = _resampled_accuracies([first, second], seed=seed)
    low, high = middle(a - b)
    return Interval(value=float(first.mean() - second.mean()), low=low, high=high)


def loss_difference(first: Floats, second: Floats) -> Interval:
    """Mean loss of ``first`` minus ``second`` on the same rows, with seeds as they are paired.

    The variance of the mean is that over rows, of each row's mean over seeds, plus that over
    seeds.  Shape: (seeds or 1, n) each.

    >>> loss_difference(np.full((1, 100), 0.5), np.full((1, 100), 0.75)).value
    -0.25
    """
    difference = first - second
    by_row, by_seed = difference.mean(axis=0), difference.mean(axis=1)
    error = Z * float(np.hypot(standard_error(by_row), standard_error(by_seed)))
    value = float(by_row.mean())
    return Interval(value=value, low=value - error, high=value + error)


def mcnemar_p(first: Hits, second: Hits) -> float:
    """P value of McNemar's exact test that two models err equally often on the rows they differ on.

    McNemar (1947), Psychometrika 12, 153-157.  Shape: (n,) each; true where the answer is right.

    >>> first = np.array([True] * 10)
    >>> mcnemar_p(first, ~first)  # ten rows, all won by the first: 2 / 2**10
    0.001953125
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def wilson(share: Any, rows: Any) -> tuple[Floats, Floats]:
    """95 % interval of a share of so many rows, honest at 0 and 1 too.

    Wilson (1927), J. Am. Stat. Assoc. 22, 209-212.  Shape: any, and so are both bounds.

    >>> [round(float(bound), 3) for bound in wilson(1.0, 100)]
    [0.963, 1.0]
    """
    p, n = np.asarray(share, dtype=float), np.asarray(rows, dtype=float)
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return np.clip(middle - half, 0, p), np.clip(middle + half, p, 1)


def middle(values: Floats) -> tuple[float, float]:
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
