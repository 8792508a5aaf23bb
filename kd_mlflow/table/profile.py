"""What training rows looked like, column by column, in counts: to compare later tables with.

And, by it and the encoding, what a caller must send: for report, card and ``schema.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kd_mlflow.evaluation.drift import ColumnDrift, column_drift, most_moved_first
from kd_mlflow.evaluation.findings import Histogram
from kd_mlflow.evaluation.grouped import share_inflation
from kd_mlflow.evaluation.metrics import Counts
from kd_mlflow.serving import scoring
from kd_mlflow.table.encoding import Encoding, column_errors
from kd_mlflow.table.fitting import Column
from kd_mlflow.table.forms import PLAIN, words

DAY_S = 86_400

LONG, LONGER = 1e4, 1e12
"""Numbers between these are written without an exponent and without decimals."""

BINS = 10
"""Bins between the least and the largest number of a column, of about equal counts."""

HEAVY_SHARE = 0.5 / BINS
"""The least value of a column is a bin of its own where so many rows have it."""

GAP, FIRST_BIN = 0, 1
"""Places among a column's counts: gaps, then its bins in order."""

SCHEMA_FORMAT = 1
"""Raised with the document's keys, for those who read ``schema.json``."""

DATES = "ISO 8601, such as 2024-03-31 or 2024-03-31T12:30:00+02:00; UTC where no zone is given"


@dataclass(frozen=True, kw_only=True)
class ColumnProfile:
    """How often each bin of a column occurred in the training rows, gaps first.

    The bins of a number or a date end at ``edges``, ascending: the first is below all training
    rows, the last above. Dates are days since the column's origin. A truth value's bins are false
    and true; a category's are whatever its column does not list, then the listed ones in order.
    ``counts`` is empty where the training rows are not known any more.
    """

    name: str
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The training rows of one model: how many of each class, and each column's counts."""

    classes: tuple[int, ...]
    columns: tuple[ColumnProfile, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Profile:
        """Rebuild a profile from its JSON document."""
        columns = tuple(
            ColumnProfile(name=c["name"], edges=tuple(c["edges"]), counts=tuple(c["counts"]))
            for c in document["columns"]
        )
        return cls(classes=tuple(document["classes"]), columns=columns)


def fit_profile(features: pd.DataFrame, labels: NDArray[np.int64], encoding: Encoding) -> Profile:
    """Count training rows.  Shape: n rows, labels (n,) as places among the encoding's classes."""
    counts = np.bincount(labels, minlength=len(encoding.classes))
    return Profile(
        classes=tuple(counts.tolist()),
        columns=tuple(_fit(features[column.name], column) for column in encoding.columns),
    )


def unknown_profile(encoding: Encoding) -> Profile:
    """What is left to compare with where a model came without a profile: its categories."""
    return Profile(
        classes=(), columns=tuple(ColumnProfile(name=column.name) for column in encoding.columns)
    )


def column_shifts(
    rows: pd.DataFrame, encoding: Encoding, profile: Profile, groups: Counts | None
) -> tuple[tuple[ColumnDrift, ...], dict[str, Histogram]]:
    """How each column has moved from the training rows, the most shifted first; counts by column.

    ``groups`` number what each row is about, None where each is alone. Raises DataError where a
    column holds what its kind cannot.
    """
    found, histograms = [], {}
    for column, seen in zip(encoding.columns, profile.columns, strict=True):
        places = bin_places(rows[column.name], column, seen.edges)
        names = bin_names(column, seen.edges)
        now = np.bincount(places, minlength=len(names))
        before = np.array(seen.counts or [0] * len(names), dtype=np.int64)
        drift = column_drift(column.name, column.kind, before, now, binned=bool(seen.edges))
        found.append(drift if groups is None else drift.inflated(share_inflation(places, groups)))
        histograms[column.name] = Histogram(names, before, now)
    return most_moved_first(found), histograms


def bin_names(column: Column, edges: tuple[float, ...]) -> list[str]:
    """What each bin of a column holds, gaps first, in words."""
    if column.kind == "category":
        return ["gaps", "others", *column.categories]
    if column.kind == "boolean":
        return ["gaps", "false", "true"]
    if not edges:
        return ["gaps", "any"]
    ends = [value_text(edge, column) for edge in (np.nextafter(edges[0], np.inf), *edges[1:])]
    inner = [low if low == high else f"{low} to {high}" for low, high in pairwise(ends)]
    return ["gaps", f"below {ends[0]}", *inner, f"above {ends[-1]}"]


def value_text(value: float, column: Column) -> str:
    """Write a number, or a date by its days since the column's origin, for people."""
    value += 0.0  # no minus before a zero
    if column.kind != "date":
        return f"{value:,.0f}" if LONG <= abs(value) < LONGER else f"{value:.4g}"
    return str(np.datetime64(column.origin, "s") + np.timedelta64(round(value * DAY_S), "s"))[:10]


def _fit(series: pd.Series, column: Column) -> ColumnProfile:
    edges: tuple[float, ...] = ()
    if column.kind in ("numeric", "date"):
        values = column_values(series, column)
        edges = _edges(values[~np.isnan(values)])
    places = bin_places(series, column, edges)
    counts = np.bincount(places, minlength=len(bin_names(column, edges)))
    return ColumnProfile(name=column.name, edges=edges, counts=tuple(counts.tolist()))


def _edges(present: NDArray[np.float64]) -> tuple[float, ...]:
    """Ends of the bins, the first just below the least value; none for a column of gaps."""
    if not len(present):
        return ()
    levels = np.linspace(0, 1, BINS + 1)
    ends = np.quantile(present, levels, method="inverted_cdf")
    least = ends[0]
    heavy = (present == least).mean() >= HEAVY_SHARE
    inner = np.unique(ends if heavy else ends[ends > least])
    return tuple(float(end) for end in (np.nextafter(least, -np.inf), *inner))


@column_errors()
def bin_places(series: pd.Series, column: Column, edges: tuple[float, ...]) -> Counts:
    """Each value's place among a column's counts, as ``bin_names`` names them.  Shape: (n,).

    Raises DataError where the column holds what its kind cannot.
    """
    if column.kind == "category":
        codes = scoring.encode_column(series, column.to_dict()).astype(np.int64)
        places = np.where(codes == scoring.MISSING, GAP, codes)
        return np.where(codes == scoring.OTHER, FIRST_BIN, places)
    values = column_values(series, column)
    found = values if column.kind == "boolean" else np.searchsorted(np.array(edges), values)
    return np.where(np.isnan(values), GAP, found + FIRST_BIN).astype(np.int64)


def column_values(series: pd.Series, column: Column) -> NDArray[np.float64]:
    """A column as float64, dates as days since its origin; gaps are NaN.  Shape: (n,)."""
    if column.kind == "numeric":
        return scoring.numbers(series, column.to_dict())
    return scoring.encode_column(series, column.to_dict()).astype(np.float64)


@dataclass(frozen=True)
class SentColumn:
    """What one column takes, and what its training rows held."""

    column: Column
    seen: ColumnProfile

    @property
    def gaps(self) -> float | None:
        """The share of training rows without a value, None where it is not known any more."""
        rows = sum(self.seen.counts)
        return self.seen.counts[GAP] / rows if rows else None

    @property
    def ends(self) -> list[float]:
        """The least number and the largest, of dates in days; none where no row had a value."""
        edges = self.seen.edges
        return [float(np.nextafter(edges[0], np.inf)), edges[-1]] if edges else []

    @property
    def texts(self) -> list[str]:
        """The same for people; a date's are in ISO 8601."""
        return [value_text(end, self.column) for end in self.ends]

    @property
    def filled(self) -> str:
        """What the model takes an empty value for."""
        column = self.column
        if column.kind == "category":
            known = scoring.MISSING in column.codes
            return "a category of its own" if known else "no category"
        if column.kind == "boolean":
            middle = "true" if column.median >= 0.5 else "false"
        else:
            middle = value_text(column.median + column.offset, column)
        return f"{middle}, and known to be empty" if column.indicator else middle

    def to_dict(self) -> dict[str, Any]:
        """The column's part of the JSON document: what applies to its kind."""
        column, form, none = self.column, self.column.form, [None, None]
        held: dict[str, dict[str, Any]] = {
            "numeric": {"range_in_training": self.ends or none},
            "date": {"format": DATES, "range_in_training": self.texts or none},
            "boolean": {"values": [False, True]},
            "category": {"categories": list(column.categories), "others": "taken as one category"},
        }
        return {
            "name": column.name,
            "kind": column.kind,
            "required": True,
            "may_be_empty": True,
            "share_empty_in_training": self.gaps,
            "empty_is_taken_for": self.filled,
            **({"texts_taken_for_empty": list(column.gap_texts)} if column.gap_texts else {}),
            **({"texts_are": words(column.kind, form)} if form != PLAIN else {}),
            **held[column.kind],
        }


@dataclass(frozen=True, kw_only=True)
class CallerSchema:
    """All columns in training order, and what is predicted of them."""

    target: str
    classes: tuple[Any, ...]
    columns: tuple[SentColumn, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document."""
        return {
            "format": SCHEMA_FORMAT,
            "predicts": self.target,
            "classes": list(self.classes),
            "texts_for_empty_in_any_column": sorted(scoring.GAP_TEXTS),
            "columns": [column.to_dict() for column in self.columns],
        }


def caller_schema(encoding: Encoding, profile: Profile) -> CallerSchema:
    """Put together what encoding and profile know of the columns."""
    pairs = zip(encoding.columns, profile.columns, strict=True)
    columns = tuple(SentColumn(column, seen) for column, seen in pairs)
    return CallerSchema(target=encoding.target, classes=encoding.classes, columns=columns)
