"""Example rows made of what is known of each column: they show a table without showing its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import MAXYEAR, datetime
from typing import Any

import numpy as np
import pandas as pd

from kd_mlflow.serving.scoring import MISSING
from kd_mlflow.table.fitting import Column

EXAMPLE_ROWS = 2
"""A single example row would freeze the exported graph's batch size at 1."""

CANDIDATES = 32
"""Rows made, in search of some that are no row of the table."""

STEPS = range(CANDIDATES)

DEVIATIONS = (0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0)
"""Where numbers are made: so many of their deviations from the median."""

DIGITS = 4
"""Significant digits of a made number that need not be whole."""


def made_rows(features: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """Make example rows with a table's columns and types, which any model of the table scores.

    The first has medians, the most frequent categories and no gap; the second has other values, and
    one gap where the table has gaps. Neither is a row of the table, unless the table has so few
    combinations of values that it holds all that are made.
    """
    gaps = [column.name for column in columns if column.indicator or MISSING in column.codes]
    rng = np.random.default_rng(0)
    made = pd.DataFrame({c.name: _values(features[c.name], c, gaps, rng) for c in columns})
    new = (place for place in range(CANDIDATES) if not _holds(features, made.iloc[[place]]))
    chosen = [place for place, _ in zip(new, range(EXAMPLE_ROWS), strict=False)]
    spare = [place for place in range(CANDIDATES) if place not in chosen]
    return made.iloc[(chosen + spare)[:EXAMPLE_ROWS]].reset_index(drop=True)


def _values(
    series: pd.Series, column: Column, gaps: Sequence[str], rng: np.random.Generator
) -> pd.Series:
    """One value per candidate, in the column's own type; candidates take turns with the gaps.

    From the third one on each column goes its own way, so that combinations differ.
    """
    present = series.dropna()
    makers: dict[str, Callable[[pd.Series, Column], list[Any]]] = {
        "numeric": _numbers,
        "boolean": lambda present, column: [step % 2 == 0 for step in STEPS],
        "category": _categories,
        "date": _dates,
    }
    made = [None] * CANDIDATES if present.empty else makers[column.kind](present, column)
    own_way = rng.integers(CANDIDATES, size=CANDIDATES)
    values = [*made[:EXAMPLE_ROWS], *(made[place] for place in own_way[EXAMPLE_ROWS:])]
    for step in range(1, CANDIDATES):
        if gaps and gaps[(step - 1) % len(gaps)] == column.name:
            values[step] = None
    return pd.Series(values, dtype=series.dtype)


def _numbers(present: pd.Series, column: Column) -> list[Any]:
    """The median and numbers around it, within the column's own range."""
    numbers = pd.to_numeric(present).to_numpy(np.float64, na_value=np.nan)
    whole, low, high = bool((numbers % 1 == 0).all()), present.min(), present.max()
    kind = int if whole else float
    middle = column.offset + column.median
    steps = [middle + column.scale * DEVIATIONS[i % len(DEVIATIONS)] for i in STEPS]
    rounded = [round(value) if whole else float(f"{value:.{DIGITS}g}") for value in steps]
    return [min(max(kind(value), kind(low)), kind(high)) for value in rounded]


def _categories(present: pd.Series, column: Column) -> list[Any]:
    """The most frequent categories in turn, as they stand in the table."""
    counts = present.value_counts()
    found = counts.index[counts > 0].tolist()[:CANDIDATES]
    return [found[step % len(found)] for step in STEPS]


def _dates(present: pd.Series, column: Column) -> list[Any]:
    """Days from the median day on, written as the column writes its first."""
    start = (pd.Timestamp(column.origin) + pd.Timedelta(days=column.median)).normalize()
    way = -1 if start.year == MAXYEAR else 1  # no year has five digits
    days = [start + pd.Timedelta(days=way * step) for step in STEPS]
    sample = present.iloc[0]
    if isinstance(sample, str):
        return [str(day.date()) if len(sample) <= 10 else day.isoformat() for day in days]
    if not isinstance(sample, datetime):
        return [day.date() for day in days]
    return [
        day.tz_localize("UTC").tz_convert(sample.tzinfo) if sample.tzinfo else day for day in days
    ]


def _holds(features: pd.DataFrame, row: pd.DataFrame) -> bool:
    """Whether a row is in a table; gaps are equal to gaps."""
    rows = np.arange(len(features))
    for name in row.columns:
        here, value = features[name].iloc[rows], row[name].iloc[0]
        same = here.isna() if pd.isna(value) else here == value
        rows = rows[same.to_numpy(np.bool_, na_value=False)]
        if not len(rows):
            break
    return len(rows) > 0
