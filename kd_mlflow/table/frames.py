"""What a caller hands over as a table, or a Parquet file holds of pandas', as a plain DataFrame."""

from __future__ import annotations

import logging
import re
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from kd_mlflow.errors import DataError, first_line
from kd_mlflow.table.numerals import EXACT

_log = logging.getLogger(__name__)

UNNAMED_INDEX = re.compile(r"__index_level_\d+__")
"""What pandas calls an index without a name where it stores one among columns."""

NULLABLE = {pa.int64(): pd.Int64Dtype(), pa.uint64(): pd.UInt64Dtype()}
"""Types of whole numbers that float64 would round beside gaps."""


def as_frame(data: Any) -> pd.DataFrame:
    """Take a DataFrame of pandas or whatever hands out Arrow columns: polars, DuckDB, Arrow.

    Columns are named by text and of NumPy's types; an index is left out, which is said where it has
    a name. Raises DataError for what is no table.
    """
    if not isinstance(data, pd.DataFrame):
        data = _from_arrow(_arrow_table(data))
    elif named := [str(name) for name in data.index.names if name is not None]:
        _log.warning(
            "the DataFrame's index is left out: %s; reset_index() makes a column of it",
            ", ".join(named),
        )
    frame: pd.DataFrame = data.set_axis(data.columns.map(str), axis=1).reset_index(drop=True)
    arrow = [isinstance(dtype, pd.ArrowDtype) for dtype in frame.dtypes]
    if not any(arrow) or frame.columns.has_duplicates:
        return frame
    names = frame.columns[arrow]
    columns = pa.table({name: pa.chunked_array(pa.array(frame[name])) for name in names})
    return frame.assign(**{str(k): v for k, v in _from_arrow(columns).items()})


def with_named_index(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Make columns of an index that has names: others who read the file see columns.

    One without a name is left out, with a line where it does not just count the rows.
    """
    if isinstance(frame.index, pd.RangeIndex):
        return frame.reset_index(drop=True)
    unnamed = [level for level, each in enumerate(frame.index.names) if each is None]
    if unnamed:
        _log.warning("%s: left out, an index without a name", name)
    if len(unnamed) == frame.index.nlevels:
        return frame.reset_index(drop=True)
    named: pd.DataFrame = frame.droplevel(unnamed)  # type: ignore[arg-type]  # several levels
    return named.reset_index(allow_duplicates=True)


def _arrow_table(data: Any) -> pa.Table:
    """The Arrow table of an object.  Raises DataError for what is none."""
    try:
        if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__"):
            return pa.table(data)
    except (TypeError, ValueError, pa.ArrowException) as error:
        reason = f" ({first_line(error)})"
    else:
        reason = ""
    raise DataError(
        "data takes a DataFrame of pandas or polars, an Arrow table, the path of a CSV or Parquet "
        f"file or a built-in name; received {type(data).__name__}{reason}"
    )


def _from_arrow(table: pa.Table) -> pd.DataFrame:
    """Arrow's columns as those of a Parquet file; whole numbers stay exact."""
    if left_out := [name for name in table.column_names if UNNAMED_INDEX.fullmatch(name)]:
        _log.warning("left out, an index without a name: %s", ", ".join(left_out))
        table = table.drop_columns(left_out)
    try:
        series = [_column(column).rename(None) for column in table.columns]
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(f"a column cannot be read: {first_line(error)}") from None
    frame = pd.DataFrame(dict(enumerate(series)))
    return frame.set_axis(table.column_names, axis=1)


def _column(column: pa.ChunkedArray) -> pd.Series:
    kind, mapper = column.type, None
    if kind == pa.string_view():
        column = column.cast(pa.large_string())
    elif column.null_count and kind in NULLABLE:
        span = pc.min_max(column).as_py()
        large = span["min"] is not None and max(span["max"], -span["min"]) >= EXACT
        mapper = NULLABLE.get if large else None
    series: pd.Series = column.to_pandas(types_mapper=mapper)
    return series
