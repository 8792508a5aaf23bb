"""What a column holds: numeric, boolean, date or category; decided of the whole column."""

from __future__ import annotations

import logging
import re
from typing import NamedTuple

import pandas as pd

from kd_mlflow.errors import DataError
from kd_mlflow.serving import scoring

_log = logging.getLogger(__name__)

Label = str | int | bool
"""A class as it stands in the table."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""A text that is a number."""

DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
"""How a text that is a date starts."""

STRAY_SHARE, STRAY_TEXTS = 0.05, 5
"""Most cells, and most different texts, of a column of numbers or dates that are neither."""

WORDS = {"numeric": "number", "date": "date"}


class Typed(NamedTuple):
    """A column as training takes it: its values, its kind, and texts in it that became gaps."""

    values: pd.Series
    kind: str
    gap_texts: tuple[str, ...] = ()


def typed(series: pd.Series) -> Typed:
    """Decide what a whole column holds; say so in the log where its cells do not all agree.

    A few texts among numbers or dates are gaps; with more, or with numbers that have leading zeros,
    the column is a category. Categories of mixed cells, such as 3 beside "a", become texts.
    Raises DataError as ``kind_of`` does.
    """
    kind = kind_of(series)
    if kind == "numeric" and series.dtype == object:  # decimals
        return Typed(series.map(float, na_action="ignore").astype("float64"), kind)
    if kind != "category" or isinstance(series.dtype, pd.CategoricalDtype):
        return Typed(series, kind)
    texts = series
    if series.dtype == object:
        texts = series.map(scoring.text_of, na_action="ignore").astype(object)
    counts = texts.value_counts()
    for name, says in (("numeric", _is_number), ("date", _is_date)):
        strays = [text for text in counts.index if not says(text)]
        few = len(strays) <= STRAY_TEXTS and counts[strays].sum() <= STRAY_SHARE * counts.sum()
        if strays and few and not any(map(_is_code, counts.index)):
            told = ", ".join(f"{text!r} ({counts[text]})" for text in strays)
            _log.warning("column %r: taken as gaps, no %s: %s", series.name, WORDS[name], told)
            values = texts.where(~texts.isin(strays))
            if name == "numeric":
                values = values.map(float, na_action="ignore").astype("float64")
            return Typed(values, name, tuple(strays))
    _tell_mixed(series.name, counts)
    return Typed(texts, kind)


def kind_of(series: pd.Series) -> str:
    """Name what a column holds: numeric, boolean, date or category.

    Raises DataError for durations, complex numbers and nested values.
    """
    dtype = series.dtype
    if dtype.kind in "mc":
        raise DataError(f"column {series.name!r} holds {dtype}; convert it to plain numbers")
    if dtype.kind == "M":
        return "date"
    if isinstance(dtype, pd.CategoricalDtype):
        return "category"
    inferred = pd.api.types.infer_dtype(series, skipna=True)
    kinds = {
        **dict.fromkeys(("integer", "floating", "mixed-integer-float", "decimal"), "numeric"),
        **dict.fromkeys(("datetime64", "datetime", "date"), "date"),
        "boolean": "boolean",
        "empty": "numeric",
    }
    if inferred in kinds:
        return kinds[inferred]
    if inferred == "string":
        return "date" if _all_dates(series) else "category"
    if not series.dropna().map(pd.api.types.is_hashable).all():
        raise DataError(f"column {series.name!r} holds lists or objects; make values of them")
    if inferred in ("bytes", "timedelta", "timedelta64", "complex", "period", "interval", "time"):
        raise DataError(f"column {series.name!r} holds {inferred} values; convert them to text")
    return "category"


def _all_dates(series: pd.Series) -> bool:
    """Whether every text in a column is a date that starts with year-month-day."""
    present = series.dropna()
    if not present.iloc[:1000].str.match(DATE).all():
        return False
    return bool(scoring.timestamps(present).notna().all())


def _is_number(text: str) -> bool:
    return NUMBER.fullmatch(text.strip()) is not None


def _is_code(text: str) -> bool:
    """Whether a text is digits that a number would not keep, such as 007."""
    return re.match(r"\s*[+-]?0\d", text) is not None


def _is_date(text: str) -> bool:
    if not DATE.match(text):
        return False
    return bool(scoring.timestamps(pd.Series([text], dtype=object)).notna().all())


def _tell_mixed(name: object, counts: pd.Series) -> None:
    """Warn of a category whose cells are numbers for the most part, and name what is not."""
    numbers = counts[[_is_number(text) for text in counts.index]].sum()
    others = [text for text in counts.index if not _is_number(text)]
    if others and 2 * numbers > counts.sum():
        _log.warning(
            "column %r is taken as categories: %d of its cells are no numbers, such as %s",
            name,
            counts.sum() - numbers,
            ", ".join(map(repr, others[:3])),
        )
