"""How far a table has moved from the training rows, column by column: counts in, numbers out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2

from kd_mlflow.evaluation.metrics import Counts

MODERATE, LARGE = 0.1, 0.25
"""A population stability index from which a column has moved, and has moved far, by convention."""

CHANCE = 0.999
"""Of tables without any shift so many have an index below the bound that chance sets."""

HALF = 0.5
"""Added to every count: a bin that is empty in one table alone has a share all the same."""


class BinChange(NamedTuple):
    """The bin whose share changed most: its place among the counts, and its shares."""

    place: int
    before: float
    now: float


@dataclass(frozen=True, kw_only=True)
class ColumnDrift:
    """How one column of a table differs from the training rows; ``_before`` are theirs.

    None is what cannot be known.

    Fields:
        name: the column
        kind: what it holds
        psi: the population stability index
        chance: what the index stays below where nothing moved
        gaps: share of the rows without a value
        gaps_before: the same of the training rows
        unseen: share of the rows with a category that training does not list
        unseen_before: the same of the training rows
        outside: share of the rows beyond the training rows' numbers or dates
        move: the bin that changed most
    """

    name: str
    kind: str
    psi: float | None = None
    chance: float | None = None
    gaps: float
    gaps_before: float | None = None
    unseen: float | None = None
    unseen_before: float | None = None
    outside: float | None = None
    move: BinChange | None = None

    @property
    def shifted(self) -> bool:
        """Whether the column has moved, and by more than chance moves so few rows."""
        return self.above(MODERATE)

    def above(self, limit: float) -> bool:
        """Whether the index is above a limit, and above what chance alone makes of it."""
        if self.psi is None or self.chance is None:
            return False
        return self.psi > limit and self.psi > self.chance

    def inflated(self, times: float) -> ColumnDrift:
        """The same where shares vary so many times as much as those of rows in no group."""
        return self if self.chance is None else replace(self, chance=times * self.chance)


def column_drift(name: str, kind: str, before: Counts, now: Counts, *, binned: bool) -> ColumnDrift:
    """Compare a column's counts, gaps first and then its bins, with the training rows'.

    ``before`` is empty where these are not known. ``binned``: the first and the last bin of numbers
    and dates lie beyond the training rows.  Shape: (1 + bins,) each.
    """
    shares, category = now / now.sum(), kind == "category"
    ends = binned and kind not in ("category", "boolean")
    found = ColumnDrift(
        name=name,
        kind=kind,
        gaps=float(shares[0]),
        unseen=float(shares[1]) if category else None,
        outside=float(shares[1] + shares[-1]) if ends else None,
    )
    if not before.sum():
        return found
    trained = before / before.sum()
    place = int(np.abs(shares - trained).argmax())
    return replace(
        found,
        psi=population_stability_index(before, now),
        chance=chance_bound(before, now),
        gaps_before=float(trained[0]),
        unseen_before=float(trained[1]) if category else None,
        move=BinChange(place, float(trained[place]), float(shares[place])),
    )


def population_stability_index(before: Counts, now: Counts) -> float:
    """Sum over bins of (q - p) ln(q / p), p and q being the bins' shares before and now.

    Half a count is added to every bin that anybody is in, now or before.  Shape: (bins,) each.

    >>> population_stability_index(np.array([50, 50]), np.array([500, 500]))
    0.0
    >>> round(population_stability_index(np.array([500, 500]), np.array([900, 100])), 2)
    0.88
    """
    held = (before + now) > 0
    counts = np.stack([before, now])[:, held] + HALF
    p, q = counts / counts.sum(axis=1, keepdims=True)
    return float(((q - p) * np.log(q / p)).sum())


def chance_bound(before: Counts, now: Counts) -> float:
    """What the index stays below in 999 of 1,000 tables of the training rows' own distribution.

    There it is about (1/n + 1/m) times a chi-squared variable, with one degree of freedom less than
    bins that anybody is in (Yurdakul & Naranjo, 2020, "Statistical properties of the population
    stability index", Journal of Risk Model Validation 14).  Shape: (bins,) each.
    """
    held = int(((before + now) > 0).sum())
    if held < 2:
        return 0.0
    return float((1 / before.sum() + 1 / now.sum()) * chi2.ppf(CHANCE, held - 1))


def most_moved_first(columns: Iterable[ColumnDrift]) -> tuple[ColumnDrift, ...]:
    """Columns by their index, the largest first; those without one by what is new in them."""

    def moved(column: ColumnDrift) -> tuple[bool, float, float]:
        new = (column.unseen or 0.0) + (column.outside or 0.0)
        return column.shifted, column.psi or 0.0, new + column.gaps

    return tuple(sorted(columns, key=moved, reverse=True))
