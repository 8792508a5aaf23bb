"""CSV and Parquet files as tables: separator, encoding and decimal mark found in the file."""

from __future__ import annotations

import csv
import difflib
import gzip
import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow

from kd_mlflow.errors import DataError, first_line

DECIMAL_COMMA = re.compile(r"(?m)(?:^|[;\t|])\s*-?\d+,\d+\s*(?:[;\t|]|$)")
"""A cell such as 3,14 where the comma does not separate cells."""

ONE_COPY = {"self_destruct": True, "split_blocks": True}
"""Arrow gives each column away as it is converted, so a table is never twice in memory."""

_UNREADABLE = (
    pd.errors.ParserError,
    pd.errors.ParserWarning,
    pd.errors.EmptyDataError,
    OSError,
    EOFError,
    zlib.error,
)


def existing_file(data: str, *, built_in: tuple[str, ...]) -> Path:
    """Find a file.  Raises DataError where there is none, with the nearest built-in name."""
    path = Path(data).expanduser()
    if path.is_dir():
        raise DataError(f"data is a directory: {path}; name a CSV or Parquet file in it")
    if not path.exists():
        names = ", ".join(built_in)
        if near := difflib.get_close_matches(data, built_in, n=1, cutoff=0.5):
            raise DataError(f"no built-in table or file {data!r}; did you mean {near[0]!r}?")
        raise DataError(
            f"no such file: {path.resolve()}; data takes the path of a CSV or Parquet file "
            f"(with `mlflow run`, an absolute one) or a built-in name: {names}"
        )
    if path.stat().st_size == 0:
        raise DataError(f"the file is empty: {path}")
    return path


def read_file(path: Path, target: str) -> pd.DataFrame:
    """Read a CSV or Parquet file, all of it before types are decided.

    Raises DataError for an unreadable file, one without rows or features, doubled columns, or a
    target that is none of them.
    """
    frame = _read(path)
    check_columns(frame, path.name, target)
    return frame


def _read(path: Path) -> pd.DataFrame:
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in (".parquet", ".pq"):
        try:
            frame: pd.DataFrame = pd.read_parquet(
                path, engine="pyarrow", pre_buffer=False, to_pandas_kwargs=ONE_COPY
            )
            pyarrow.default_memory_pool().release_unused()
        except Exception as error:  # pyarrow raises many kinds for a file that is none of its own
            raise DataError(f"not a Parquet file: {path} ({first_line(error)})") from None
        return frame.set_axis(frame.columns.map(str), axis=1)
    kinds = [s for s in suffixes if s != ".gz"]
    if kinds and kinds[-1] in (".csv", ".tsv", ".txt"):
        return _read_csv(path)
    raise DataError(
        f"unknown format {''.join(suffixes) or '(no suffix)'!r} of {path.name}; "
        "data takes .csv, .tsv, .txt (each also with .gz), .parquet or .pq"
    )


def _read_csv(path: Path) -> pd.DataFrame:
    """Read every row before types are decided; find separator and encoding in the file."""
    errors = (UnicodeDecodeError, UnicodeError)
    for encoding in ("utf-8-sig", "latin-1"):
        try:
            head = _head(path, encoding)
            separator = _separator(head)
            options: dict[str, Any] = {"sep": separator, "encoding": encoding}
            if separator != "," and DECIMAL_COMMA.search(head):
                options["decimal"] = ","
            _check_header(path, options)
            with warnings.catch_warnings():  # rows longer than the header: never shift or cut them
                warnings.simplefilter("error", pd.errors.ParserWarning)
                frame: pd.DataFrame = pd.read_csv(
                    path, low_memory=False, index_col=False, **options
                )
            return frame
        except errors:
            continue
        except _UNREADABLE as error:
            raise DataError(f"not a readable CSV file: {path} ({first_line(error)})") from None
    raise DataError(f"not a text file in UTF-8 or Latin-1: {path}")


def _head(path: Path, encoding: str) -> str:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding=encoding, newline="") as file:
        head = file.read(65536)
    if "\0" in head:
        raise DataError(f"not a readable CSV file: {path} (it holds binary data)")
    return str(head)


def _separator(head: str) -> str:
    lines = head.splitlines()
    try:
        return csv.Sniffer().sniff("\n".join(lines[:50]), delimiters=",;\t|").delimiter
    except csv.Error:
        return max(",;\t|", key=lines[0].count) if lines else ","


def _check_header(path: Path, options: dict[str, Any]) -> None:
    header = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, **options)
    names = header.iloc[0]
    if doubled := sorted(set(names[names.duplicated()])):
        raise DataError(f"duplicate columns in {path.name}: {', '.join(map(repr, doubled))}")


def check_columns(frame: pd.DataFrame, name: str, target: str) -> None:
    """Raise DataError for a table without rows, features or its target, or of doubled columns."""
    columns = ", ".join(map(repr, frame.columns))
    if not target:
        raise DataError(f"a table needs target, the label column; {name} has: {columns}")
    if target not in frame.columns:
        raise DataError(f"target {target!r} is not a column of {name}; it has: {columns}")
    if frame.columns.has_duplicates:
        raise DataError(f"duplicate columns in {name}: {columns}")
    if not len(frame):
        raise DataError(f"{name} has a header and no rows")
    if frame.shape[1] < 2:
        raise DataError(f"{name} has no column beside the target {target!r}")
