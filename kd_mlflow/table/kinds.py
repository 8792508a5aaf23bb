"""What a column holds: numeric, boolean, date or category."""

from __future__ import annotations

import pandas as pd

from kd_mlflow import scoring
from kd_mlflow.errors import DataError

Label = str | int | bool
"""A class as it stands in the table."""


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
    if not present.iloc[:1000].str.match(r"\d{4}-\d{2}-\d{2}").all():
        return False
    return bool(scoring.timestamps(present).notna().all())
