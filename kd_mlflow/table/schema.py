"""What a caller of a student must send, column by column: for report, card and ``schema.json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_mlflow.serving import scoring
from kd_mlflow.table.encoding import Column, Encoding
from kd_mlflow.table.forms import PLAIN, words
from kd_mlflow.table.profile import GAP, ColumnProfile, Profile, value_text

SCHEMA_FORMAT = 1
"""Raised with the document's keys, for those who read ``schema.json``."""

DATES = "ISO 8601, such as 2024-03-31 or 2024-03-31T12:30:00+02:00; UTC where no zone is given"


@dataclass(frozen=True, kw_only=True)
class SentColumn:
    """What one column takes, and what its training rows held.

    ``least`` and ``largest`` are texts for people, ``low`` and ``high`` the values themselves: a
    number's as it is sent, a date's in ISO 8601; None where no training row had a value. ``gaps``
    is the share of training rows without a value, None where it is not known any more. ``filled``
    says what the model takes an empty value for where training had none.
    """

    name: str
    kind: str
    gaps: float | None
    filled: str
    low: float | str | None = None
    high: float | str | None = None
    least: str = ""
    largest: str = ""
    categories: tuple[str, ...] = ()
    gap_texts: tuple[str, ...] = ()
    form: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The column's part of the JSON document: what applies to its kind."""
        held: dict[str, dict[str, Any]] = {
            "numeric": {"range_in_training": [self.low, self.high]},
            "date": {"format": DATES, "range_in_training": [self.low, self.high]},
            "boolean": {"values": [False, True]},
            "category": {"categories": list(self.categories), "others": "taken as one category"},
        }
        return {
            "name": self.name,
            "kind": self.kind,
            "required": True,
            "may_be_empty": True,
            "share_empty_in_training": self.gaps,
            "empty_is_taken_for": self.filled,
            **({"texts_taken_for_empty": list(self.gap_texts)} if self.gap_texts else {}),
            **({"texts_are": self.form} if self.form else {}),
            **held[self.kind],
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
    return CallerSchema(
        target=encoding.target,
        classes=encoding.classes,
        columns=tuple(_sent(column, seen) for column, seen in pairs),
    )


def _sent(column: Column, seen: ColumnProfile) -> SentColumn:
    rows = sum(seen.counts)
    low: float | str | None = None
    high: float | str | None = None
    least = largest = ""
    if seen.edges:
        ends = float(np.nextafter(seen.edges[0], np.inf)), seen.edges[-1]
        least, largest = (value_text(end, column) for end in ends)
        low, high = (least, largest) if column.kind == "date" else ends
    return SentColumn(
        name=column.name,
        kind=column.kind,
        gaps=seen.counts[GAP] / rows if rows else None,
        filled=_filled(column),
        low=low,
        high=high,
        least=least,
        largest=largest,
        categories=column.categories,
        gap_texts=column.gap_texts,
        form=words(column.kind, column.form) if column.form != PLAIN else "",
    )


def _filled(column: Column) -> str:
    """What an empty value is to the model."""
    if column.kind == "category":
        known = scoring.MISSING in column.codes
        return "a category of its own" if known else "no category"
    if column.kind == "boolean":
        middle = "true" if column.median >= 0.5 else "false"
    else:
        middle = value_text(column.median + column.offset, column)
    return f"{middle}, and known to be empty" if column.indicator else middle
