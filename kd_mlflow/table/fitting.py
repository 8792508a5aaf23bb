"""What is learnt of one column from the training rows: its middle and scale, categories, bins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kd_mlflow.serving import scoring
from kd_mlflow.table.forms import PLAIN, Form

BLURRED = 1e-4
"""Numbers that float32 would round by more than this part of their spread are encoded from their
median; others as they are.
"""

IQR_OF_NORMAL = 1.349
"""Interquartile range of a normal distribution in standard deviations."""

HEAVY, CLIP = 50.0, 10.0
"""A column with a value beyond HEAVY robust deviations is cut at CLIP and scaled by one of them."""

OUTSIDE = 10.0
"""Other columns are cut at so many of their training ranges beyond it: no network knows farther."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """What was learnt of one column from the training rows.

    A number is encoded as its distance from ``offset``, a date as days since ``origin``; ``mean``,
    ``scale``, ``median`` and the bounds ``low`` and ``high``, at which values are cut, are in that
    unit. ``gap_texts`` are texts that count as gaps besides the usual ones, ``form`` says how
    others are read. ``edges`` are the bounds of its bins, ascending; a column that has them is
    piecewise linear, its scaled number bent softly (see ``Scaler``). ``codes`` are the category
    codes that occurred; each gets a one-hot input, any other code is all zeros.
    """

    name: str
    kind: str
    mean: float = 0.0
    scale: float = 1.0
    median: float = 0.0
    low: float = 0.0
    high: float = 0.0
    indicator: bool = False
    offset: float = 0.0
    origin: str = ""
    gap_texts: tuple[str, ...] = ()
    form: Form = PLAIN
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As ``scoring`` takes it, and JSON. ``asdict`` takes ten times as long."""
        return {**vars(self), "form": {**vars(self.form)}}


def binned(column: Column, encoded: NDArray[np.float32], bins: int) -> Column:
    """Cut a number or a date into at most so many bins, see ``piecewise_linear``.  Shape: (n,)."""
    present = encoded[~np.isnan(encoded)].astype(np.float64)
    if not bins or column.kind == "category" or not len(present):
        return column
    if not (edges := _capped_quantiles(present, bins)):
        return column
    low, median, high = np.percentile(present, [25, 50, 75])
    scale = float(high - low) / IQR_OF_NORMAL or column.scale
    return replace(column, edges=edges, mean=float(median), scale=scale)


def _capped_quantiles(present: NDArray[np.float64], bins: int) -> tuple[float, ...]:
    """Edges of at most so many bins of nearly equal counts; none for two values or fewer.

    A value counts at most as often as one bin holds: a column that is mostly zero would have most
    of its edges at zero otherwise.
    """
    values, counts = np.unique(present, return_counts=True)
    if len(values) <= 2:
        return ()
    reached = np.cumsum(np.minimum(counts, len(present) / bins))
    levels = np.linspace(0, reached[-1], bins + 1)
    places = np.searchsorted(reached, levels * (1 - np.finfo(float).eps)).clip(0, len(values) - 1)
    return tuple(np.unique(values[places]).tolist())


def fit_column(series: pd.Series, blank: Column, max_categories: int) -> Column:
    """Describe one column, of which ``blank`` says what it holds and how it is read.

    The scale of one that never varies is 0. Raises ColumnError for what its kind cannot hold.
    """
    if blank.kind == "category":
        return _fit_category(series, blank, max_categories)
    blank = replace(blank, scale=0.0)
    if blank.kind == "date":
        stamps = scoring.timestamps(series, blank.form.layout).dropna()
        middle = stamps.sort_values().iloc[len(stamps) // 2] if len(stamps) else pd.Timestamp(0)
        blank = replace(blank, origin=middle.isoformat())
    elif blank.kind == "numeric":
        blank = replace(blank, offset=_offset(scoring.numbers(series, blank.to_dict())))
    values = scoring.encode_column(series, blank.to_dict()).astype(np.float64)
    present = values[~np.isnan(values)]
    if not len(present):
        return blank
    column = replace(blank, median=float(np.median(present)), indicator=len(present) < len(values))
    if tight := _tight_bounds(present):
        low, high, scale = tight
        return replace(column, low=low, high=high, mean=column.median, scale=scale)
    lowest, highest = float(present.min()), float(present.max())
    reach = OUTSIDE * ((highest - lowest) or 1.0)
    return replace(
        column,
        low=lowest - reach,
        high=highest + reach,
        mean=float(present.mean()),
        scale=float(present.std()) if highest > lowest else 0.0,
    )


def _offset(values: NDArray[np.float64]) -> float:
    """The median of numbers that lie too far from 0 for float32 to tell them apart, else 0."""
    present = values[~np.isnan(values)]
    if not len(present):
        return 0.0
    low, median, high = np.percentile(present, [25, 50, 75])
    spread = (high - low) or present.std()
    blur = abs(median) * np.finfo(np.float32).eps
    return float(median) if blur > BLURRED * spread > 0 else 0.0


def _tight_bounds(present: NDArray[np.float64]) -> tuple[float, float, float] | None:
    """Bounds and scale of a column that has far outliers in training; None for any other.

    Deviations are robust: of the median of the distinct values, so that a sentinel such as -999
    counts once, however often it occurs.
    """
    distinct = np.unique(present)
    middle = float(np.median(distinct))
    scale = 1.4826 * float(np.median(np.abs(distinct - middle)))
    if not 0 < HEAVY * scale < max(distinct[-1] - middle, middle - distinct[0]):
        return None
    return middle - CLIP * scale, middle + CLIP * scale, scale


def _fit_category(series: pd.Series, blank: Column, max_categories: int) -> Column:
    """Keep the most frequent categories, ties in alphabetical order; the rest share one code."""
    scoring.encode_column(series, blank.to_dict())
    texts = pd.Series(series.dropna().astype(object).map(scoring.text_of), dtype=object)
    counts = texts.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    categories = tuple(sorted(counts.index[:max_categories]))
    column = replace(blank, categories=categories)
    codes = np.unique(scoring.encode_column(series, column.to_dict()))
    return replace(column, codes=tuple(int(code) for code in codes))
