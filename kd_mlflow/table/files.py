"""Tables as they come, as plain DataFrames: CSV and Parquet files, what is in memory."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from kd_mlflow.config.groups import Source
from kd_mlflow.errors import DataError, first_line
from kd_mlflow.table.numerals import exact

_log = logging.getLogger(__name__)

CSV, PARQUET = (".csv", ".tsv", ".txt"), (".parquet", ".pq")

ONE_COPY = {"self_destruct": True, "split_blocks": True}
"""Arrow gives each column away as it is converted, so a table is never twice in memory."""

UNNAMED_INDEX = re.compile(r"__index_level_\d+__")
"""What pandas calls an index without a name where it stores one among columns."""


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
    """Make columns, named by text, of an index that has names: who reads the file sees columns.

    One without a name is left out, with a line where it does not just count the rows.
    """
    if not isinstance(frame.index, pd.RangeIndex):
        unnamed = [level for level, each in enumerate(frame.index.names) if each is None]
        if unnamed:
            _log.warning("%s: left out, an index without a name", name)
        if len(unnamed) < frame.index.nlevels:
            frame = frame.droplevel(unnamed)  # type: ignore[arg-type]  # several levels
            frame = frame.reset_index(allow_duplicates=True)
    return frame.reset_index(drop=True).set_axis(frame.columns.map(str), axis=1)


def _arrow_table(data: Any) -> pa.Table:
    """The Arrow table of an object.  Raises DataError for what is none."""
    reason = ""
    if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__"):
        try:
            return pa.table(data)
        except (TypeError, ValueError, pa.ArrowException) as error:
            reason = f" ({first_line(error)})"
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
        columns = (
            c.cast(pa.large_string()) if c.type == pa.string_view() else c for c in table.columns
        )
        series = [exact(column).rename(None) for column in columns]
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(f"a column cannot be read: {first_line(error)}") from None
    frame = pd.DataFrame(dict(enumerate(series)))
    return frame.set_axis(table.column_names, axis=1)


def is_csv(data: Source) -> bool:
    """Whether a table is read from text, so that a separator and a decimal mark say something."""
    return isinstance(data, str | Path) and str(data).lower().removesuffix(".gz").endswith(CSV)


def refuse_csv_options(what: str, separator: str, decimal: str) -> None:
    """Raise DataError where an option for CSV files comes with another table."""
    for name, value in (("separator", separator), ("decimal", decimal)):
        if value:
            raise DataError(
                f"{name} is for CSV files; received {value!r} with {what}: leave it out"
            )


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a Parquet file whatever its columns are.  Raises DataError for any other."""
    try:
        frame: pd.DataFrame = pd.read_parquet(
            path, engine="pyarrow", pre_buffer=False, to_pandas_kwargs=ONE_COPY
        )
        pa.default_memory_pool().release_unused()
    except Exception as error:  # pyarrow raises many kinds for a file that is none of its own
        raise DataError(f"not a Parquet file: {path} ({first_line(error)})") from None
    return with_named_index(frame, path.name)


def check_columns(frame: pd.DataFrame, name: str, target: str) -> None:
    """Raise DataError for a table without rows or its target, if any, or of doubled columns."""
    columns = ", ".join(map(repr, frame.columns))
    if target and target not in frame.columns:
        raise DataError(f"target {target!r} is not a column of {name}; it has: {columns}")
    if frame.columns.has_duplicates:
        raise DataError(f"duplicate columns in {name}: {columns}")
    if not len(frame):
        raise DataError(f"{name} has a header and no rows")
