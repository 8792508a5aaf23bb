"""How sure a number is whose rows come in groups, such as customers with several visits each.

Rows of one group err together, so chance draws groups, not rows. A metric is taken as a sum over
rows, of what each contributes beyond its mean; summed within groups first, that gives the metric's
variance (Liang & Zeger, 1986, Biometrika 73, 13-22). Few groups widen an interval by Student's t.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import fftconvolve
from scipy.stats import binom, norm, t

from kd_mlflow.evaluation.metrics import Counts, Floats, Hits

CONFIDENCE = 0.95

Z = 1.959964
"""The normal distribution's middle 95 % ends so many standard deviations from its mean."""

MOST_GROUPS = 2000
"""Of more groups some are drawn together: so many say as well how much chance there is."""

MOST_DISCORDANT = 10**6
"""Of more rows on which two models differ the test's distribution is normal to all digits."""


def group_sums(values: Floats, groups: Counts) -> Floats:
    """Sum rows within their groups.  Shape: (n, ...), (n,) -> (groups, ...)."""
    _, place = np.unique(groups, return_inverse=True)
    sums = np.zeros((int(place.max()) + 1, *values.shape[1:]))
    np.add.at(sums, place, values)
    return sums


def group_error(contributions: Floats, groups: Counts) -> float:
    """Standard error of a sum over rows whose contributions have the mean 0.  Shape: (n,) each.

    Infinite where there is one group.

    >>> values = np.array([1.0, 2.0, 4.0])  # each row alone: as of a mean of rows
    >>> found = group_error((values - values.mean()) / 3, np.array([7, 8, 9]))
    >>> np.isclose(found, values.std(ddof=1) / np.sqrt(3))
    np.True_
    """
    sums = group_sums(contributions, groups)
    count = len(sums)
    return float(np.sqrt(count / (count - 1) * (sums**2).sum())) if count > 1 else np.inf


def mean_error(values: Floats, groups: Counts) -> float:
    """Standard error of the mean of rows.  Shape: (n,) each."""
    return group_error((values - values.mean()) / len(values), groups)


def deviate(groups: int) -> float:
    """How many standard errors 95 % are within, by so many groups; infinite for one."""
    return float(t.ppf((1 + CONFIDENCE) / 2, groups - 1)) if groups > 1 else np.inf


def bootstrap_tail(groups: int) -> float:
    """Which share of a bootstrap's values is below its interval, by so many groups, two or more.

    Less than 2.5 %: a bootstrap of few groups is too narrow (Hesterberg, 2015, "What Teachers
    Should Know About the Bootstrap", American Statistician 69, 371-386).
    """
    return float(norm.cdf(-np.sqrt(groups / (groups - 1)) * deviate(groups)))


def group_count(groups: Counts) -> int:
    """How many groups there are."""
    return len(np.unique(groups))


def effective_rows(share: float, error: float, groups: Counts) -> float:
    """How many single rows would say as much of a share as rows in groups do.

    Those of which a share with this standard error is known, fewer by Student's t (Korn & Graubard,
    1998, Survey Methodology 24, 193-201); the number of groups where it does not vary.
    """
    count = group_count(groups)
    if error == 0 or not 0 < share < 1 or count < 2:
        return float(count)
    return min(float(len(groups)), share * (1 - share) / error**2 * (Z / deviate(count)) ** 2)


def share_inflation(places: Counts, groups: Counts) -> float:
    """How many times as much the bins' shares vary as those of rows that are alone, on average.

    What a chi-squared statistic of rows in groups is divided by (Rao & Scott, 1981, Journal of the
    American Statistical Association 76, 221-230); at least 1.  Shape: each row's bin, (n,).
    """
    n, rows = len(places), np.bincount(places)
    bins = np.flatnonzero(rows)
    if len(bins) < 2:
        return 1.0
    ratios = [
        mean_error((places == place).astype(float), groups) ** 2 / (rows[place] / n / n)
        for place in bins
    ]
    return max(1.0, float(np.sum(ratios)) / (len(bins) - 1))


def resampled_shares(
    hits: Hits, groups: Counts, *, replicates: int, rng: np.random.Generator
) -> Floats:
    """Shares of right answers of some models, groups drawn anew.

    Groups with as many rows and right answers are interchangeable, so how often each kind occurs
    is drawn: exact.  Shape: (models, n), (n,) -> (replicates, models).
    """
    _, place = np.unique(groups, return_inverse=True)
    if (count := int(place.max()) + 1) > MOST_GROUPS:
        place, count = rng.permutation(count)[place] % MOST_GROUPS, MOST_GROUPS
    sums = [np.bincount(place, weights=each) for each in (np.ones(len(place)), *hits)]
    kinds, often = np.unique(np.stack(sums, axis=1), axis=0, return_counts=True)
    drawn = rng.multinomial(count, often / count, size=replicates) @ kinds
    return np.asarray(drawn[:, 1:] / drawn[:, :1])


def mcnemar_by_groups(first: Hits, second: Hits, groups: Counts) -> float:
    """P value that two models err equally often on rows of groups, which err together.

    Either model is as likely to be the better one in each group: the signs of the groups'
    differences are drawn at random, exactly. Where each row is alone it is McNemar's test.
    Shape: (n,) each.
    """
    differences = group_sums(first.astype(float) - second, groups).astype(np.int64)
    sizes, often = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    observed = abs(int(differences.sum()))
    if (sizes * often).sum() > MOST_DISCORDANT:
        return float(2 * norm.sf(observed / np.sqrt((sizes**2 * often).sum())))
    chances = np.ones(1)
    for size, times in zip(sizes, often, strict=True):  # of 0, size, 2 size ... steps up
        own = np.zeros(size * times + 1)
        own[::size] = binom.pmf(np.arange(times + 1), times, 0.5)
        chances = fftconvolve(chances, own)
    ends = np.abs(2 * np.arange(len(chances)) - (len(chances) - 1))
    return float(np.clip(chances[ends >= observed].sum(), 0, 1))
