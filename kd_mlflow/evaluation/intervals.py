"""How sure a number is: intervals of accuracies, of their differences, of shares; a test; in words.

``groups`` number what each row is about, shape (n,), where rows belong together; then chance draws
groups (see ``grouped``), else rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest

from kd_mlflow.evaluation import grouped
from kd_mlflow.evaluation.grouped import CONFIDENCE, Z, group_count
from kd_mlflow.evaluation.metrics import Counts, Floats, Hits

REPLICATES = 2000
"""Bootstrap replicates of an interval."""


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

    def named(self, name: str) -> dict[str, float]:
        """The number and its bounds as metrics."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def knowledge_recovered(
    distilled: Hits, baseline: Hits, ensemble: Hits, *, groups: Counts | None = None
) -> Interval | None:
    """(distilled - baseline) / (ensemble - baseline), bootstrapped over seeds and test rows.

    Distilled and baseline students of one seed are resampled together, and so are all models'
    answers on one row. Returns None where ensemble and baseline tie, that is where the interval of
    their difference reaches 0: the share of a gap that may be none is no number.

    Shape: distilled and baseline (seeds, n), ensemble (n,); true where the answer is right.
    """
    gap = float(ensemble.mean() - baseline.mean())
    models = [distilled, baseline, ensemble[None]]
    d, b, e = _resampled_accuracies(models, groups)
    if gap <= 0 or middle(e - b, groups)[0] <= 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (d - b) / np.where(e > b, e - b, np.nan)
    low, high = middle(shares, groups)
    return Interval(value=float(distilled.mean() - baseline.mean()) / gap, low=low, high=high)


def accuracy_difference(first: Hits, second: Hits, groups: Counts | None = None) -> Interval:
    """Mean accuracy of ``first`` minus ``second``, bootstrapped over seeds and test rows.

    Students of one seed are resampled together; a single model, such as an ensemble, has no seeds
    to resample.  Shape: (seeds or 1, n) each; true where the answer is right.

    >>> better, worse = np.ones((1, 100), dtype=bool), np.arange(100)[None] < 90
    >>> accuracy_difference(better, worse).decided
    True
    """
    a, b = _resampled_accuracies([first, second], groups)
    low, high = middle(a - b, groups)
    return Interval(value=float(first.mean() - second.mean()), low=low, high=high)


def loss_difference(first: Floats, second: Floats, groups: Counts | None = None) -> Interval:
    """Mean loss of ``first`` minus ``second`` on the same rows, with seeds as they are paired.

    The variance of the mean is that over rows, of each row's mean over seeds, plus that over
    seeds.  Shape: (seeds or 1, n) each.

    >>> loss_difference(np.full((1, 100), 0.5), np.full((1, 100), 0.75)).value
    -0.25
    """
    difference = first - second
    by_row, by_seed = difference.mean(axis=0), difference.mean(axis=1)
    value, z = float(by_row.mean()), Z
    of_rows = standard_error(by_row)
    if groups is not None:
        z, of_rows = grouped.deviate(group_count(groups)), grouped.mean_error(by_row, groups)
    error = z * float(np.hypot(of_rows, standard_error(by_seed)))
    return Interval(value=value, low=value - error, high=value + error)


def mcnemar_p(first: Hits, second: Hits, groups: Counts | None = None) -> float:
    """P value of McNemar's exact test that two models err equally often on the rows they differ on.

    McNemar (1947), Psychometrika 12, 153-157; of groups their differences' signs are drawn.
    Shape: (n,) each; true where the answer is right.

    >>> first = np.array([True] * 10)
    >>> mcnemar_p(first, ~first)  # ten rows, all won by the first: 2 / 2**10
    0.001953125
    """
    if groups is not None:
        return grouped.mcnemar_by_groups(first, second, groups)
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


def share_of_rows(share: float, rows: float) -> Interval:
    """A share of so many rows with Wilson's interval."""
    low, high = wilson(share, rows)
    return Interval(value=share, low=float(low), high=float(high))


def mean_share(hits: Hits, groups: Counts | None = None) -> Interval:
    """The share of rows that are right, with Wilson's interval.  Shape: (n,)."""
    return share_of_rows(float(hits.mean()), _single_rows(hits, groups))


def row_worth(hits: Hits, groups: Counts | None) -> float:
    """How much a row says of an accuracy beside one that is in no group: 1, or less in groups."""
    return _single_rows(hits, groups) / len(hits)


def _single_rows(hits: Hits, groups: Counts | None) -> float:
    """How many rows that are in no group would say as much of an accuracy."""
    if groups is None:
        return len(hits)
    error = grouped.mean_error(hits.astype(float), groups)
    return grouped.effective_rows(float(hits.mean()), error, groups)


def middle(values: Floats, groups: Counts | None = None) -> tuple[float, float]:
    """Bounds of the middle 95 % of a bootstrap's values; of few groups of somewhat more."""
    tail = 100 * (1 - CONFIDENCE) / 2
    if groups is not None:
        if (count := group_count(groups)) < 2:
            return -np.inf, np.inf
        tail = 100 * grouped.bootstrap_tail(count)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)


def _resampled_accuracies(models: Sequence[Hits], groups: Counts | None = None) -> list[Floats]:
    """Accuracies of each kind of models under resampled seeds and rows.  Shape: (REPLICATES,).

    Rows on which all models answer alike are interchangeable, so resampling rows is drawing how
    often each such pattern occurs: exact, and independent of the number of rows.
    """
    rng = np.random.default_rng(0)
    stacked = np.vstack(models)
    seeds, n = max(map(len, models)), stacked.shape[1]
    if groups is None:
        packed, counts = np.unique(np.packbits(stacked, axis=0), axis=1, return_counts=True)
        patterns = np.unpackbits(packed, axis=0, count=len(stacked))
        weights = rng.multinomial(n, counts / n, size=REPLICATES) / n
        by_model = weights @ patterns.T.astype(np.float64)
    else:
        by_model = grouped.resampled_shares(stacked, groups, replicates=REPLICATES, rng=rng)
    drawn = rng.integers(seeds, size=(REPLICATES, seeds))
    ends = np.cumsum([len(kind) for kind in models])
    parts = np.split(by_model, ends[:-1], axis=1)
    return [np.take_along_axis(part, drawn % part.shape[1], axis=1).mean(axis=1) for part in parts]


class Measure(NamedTuple):
    """How differences of a metric are written: times ``factor``, and which way is which."""

    factor: float
    decimals: int
    unit: str
    better: str
    worse: str


ACCURACY = Measure(100, 2, " points", "better", "worse")
LOG_LOSS = Measure(1, 4, "", "lower", "higher")


def bounds(gain: Interval, measure: Measure) -> str:
    """Write an interval without signs: words say which way, once where both ends go one way.

    >>> bounds(Interval(value=0.001, low=-0.002, high=0.004), ACCURACY)
    '95 % interval 0.20 points worse to 0.40 better'
    >>> bounds(Interval(value=-0.003, low=-0.004, high=-0.002), ACCURACY)
    '95 % interval 0.20 to 0.40'
    >>> bounds(Interval(value=0.004, low=0.001, high=0.006), LOG_LOSS)
    '95 % interval 0.0010 to 0.0060'
    """
    factor, decimals, unit, better, worse = measure
    low, high = (f"{abs(factor * end):.{decimals}f}" for end in (gain.low, gain.high))
    if not gain.decided:
        return f"95 % interval {low}{unit} {worse} to {high} {better}"
    return "95 % interval " + " to ".join((low, high) if gain.low > 0 else (high, low))


def difference(gain: Interval, measure: Measure, than: str = "") -> str:
    """Write by how much something is better or worse, than what if that is not said already.

    >>> difference(Interval(value=-0.003, low=-0.004, high=-0.002), ACCURACY)
    '0.30 points worse (95 % interval 0.20 to 0.40)'
    """
    size = f"{abs(measure.factor * gain.value):.{measure.decimals}f}{measure.unit}"
    direction = measure.better if gain.value > 0 else measure.worse
    return f"{size} {direction}{than and f' than {than}'} ({bounds(gain, measure)})"


def known_difference(gain: Interval, measure: Measure, nothing: str, than: str = "") -> str:
    """The same where the interval leaves 0 out; where it does not, ``nothing`` and the interval."""
    if gain.decided:
        return difference(gain, measure, than)
    return f"{nothing} ({bounds(gain, measure)})"


def reverse(difference: Interval) -> Interval:
    """The same difference seen from the other side: a gap is a gain of the ensemble; 0 is no -0."""
    return Interval(value=0 - difference.value, low=0 - difference.high, high=0 - difference.low)
