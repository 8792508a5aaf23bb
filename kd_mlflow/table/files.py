"""CSV and Parquet files as tables, as they are."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection
from pathlib import Path

import pandas as pd
import pyarrow

from kd_mlflow.config.groups import Source
from kd_mlflow.errors import DataError, first_line
from kd_mlflow.table.delimited import read_delimited
from kd_mlflow.table.frames import with_named_index

CSV, PARQUET = (".csv", ".tsv", ".txt"), (".parquet", ".pq")

ONE_COPY = {"self_destruct": True, "split_blocks": True}
"""Arrow gives each column away as it is converted, so a table is never twice in memory."""


def existing_file(data: str, *, built_in: tuple[str, ...]) -> Path:
    """Find a file.  Raises DataError where there is none, with the nearest built-in name."""
    path = Path(data).expanduser()
    if os.path.isdir(path):
        raise DataError(f"data is a directory: {path}; name a CSV or Parquet file in it")
    if not os.path.exists(path):  # pathlib raises for what is too long to be a path
        names = ", ".join(built_in)
        if near := difflib.get_close_matches(data, built_in, n=1, cutoff=0.5):
            raise DataError(f"no built-in table or file {data!r}; did you mean {near[0]!r}?")
        raise DataError(
            f"no such file: {os.path.abspath(path)}; data takes the path of a CSV or Parquet file "
            f"(with `mlflow run`, an absolute one) or a built-in name: {names}"
        )
    if path.stat().st_size == 0:
        raise DataError(f"the file is empty: {path}")
    return path


def is_csv(data: Source) -> bool:
    """Whether a table is read from text, so that a separator and a decimal mark say something."""
    if not isinstance(data, str | Path):
        return False
    suffixes = [each.lower() for each in Path(data).suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return bool(suffixes) and suffixes[-1] in CSV


def refuse_csv_options(what: str, separator: str, decimal: str) -> None:
    """Raise DataError where an option for CSV files comes with another table."""
    for name, value in (("separator", separator), ("decimal", decimal)):
        if value:
            raise DataError(
                f"{name} is for CSV files; received {value!r} with {what}: leave it out"
            )


def read_columns(
    path: Path, separator: str, decimal: str, texts: Collection[str], literal: Collection[str]
) -> pd.DataFrame:
    """Read a CSV or Parquet file whatever its columns are.

    ``texts`` are columns of a CSV file that stay as they are written: 007 is no 7. In those that
    are ``literal`` NA is a text too.
    Raises DataError for an unreadable file.
    """
    if is_csv(path):
        return read_delimited(path, separator, decimal, texts, literal)
    if path.suffix.lower() in PARQUET:
        refuse_csv_options(path.name, separator, decimal)
        return _read_parquet(path)
    raise DataError(
        f"unknown format {''.join(path.suffixes).lower() or '(no suffix)'!r} of {path.name}; "
        "data takes .csv, .tsv, .txt (each also with .gz), .parquet or .pq"
    )


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        frame: pd.DataFrame = pd.read_parquet(
            path, engine="pyarrow", pre_buffer=False, to_pandas_kwargs=ONE_COPY
        )
        pyarrow.default_memory_pool().release_unused()
    except Exception as error:  # pyarrow raises many kinds for a file that is none of its own
        raise DataError(f"not a Parquet file: {path} ({first_line(error)})") from None
    frame = with_named_index(frame, path.name)
    return frame.set_axis(frame.columns.map(str), axis=1)


def check_columns(frame: pd.DataFrame, name: str, target: str) -> None:
    """Raise DataError for a table without rows or its target, if any, or of doubled columns."""
    columns = ", ".join(map(repr, frame.columns))
    if target and target not in frame.columns:
        raise DataError(f"target {target!r} is not a column of {name}; it has: {columns}")
    if frame.columns.has_duplicates:
        raise DataError(f"duplicate columns in {name}: {columns}")
    if not len(frame):
        raise DataError(f"{name} has a header and no rows")
