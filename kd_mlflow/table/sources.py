"""Where a table comes from: a built-in name, a CSV or Parquet file's path or a frame in memory."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import pyarrow as pa
from sklearn import datasets

from kd_mlflow.config.groups import DataOptions, EnsembleOptions, Source
from kd_mlflow.config.rules import told_columns
from kd_mlflow.errors import DataError, first_line, listed
from kd_mlflow.table.delimited import read_delimited
from kd_mlflow.table.kinds import option_of
from kd_mlflow.table.numerals import exact

if TYPE_CHECKING:
    from kd_mlflow.config.entry_points import ColumnsConfig

_log = logging.getLogger(__name__)

CSV, PARQUET = (".csv", ".tsv", ".txt"), (".parquet", ".pq")

ONE_COPY = {"self_destruct": True, "split_blocks": True}
"""Arrow gives each column away as it is converted, so a table is never twice in memory."""

UNNAMED_INDEX = re.compile(r"__index_level_\d+__")
"""What pandas calls an index without a name where it stores one among columns."""

FRAME = "DataFrame"
"""Name and source of a table that came as one."""

Told = Mapping[str, str]
"""What columns hold by their names, whatever they look like: number, date:%d.%m.%Y ..."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a table is read.

    ``separator`` and ``decimal`` are a CSV file's, found in it where they are not given. ``told``
    is what columns hold, as the option ``column`` says it. ``group`` (several with commas) and
    ``time`` name columns that say which rows belong together and when each was. What is said of
    columns says what is lost where so many categories of one are kept, ``max_categories``.
    """

    separator: str = ""
    decimal: str = ""
    told: Told = field(default_factory=dict)
    group: str = ""
    time: str = ""
    max_categories: int = EnsembleOptions.max_categories

    @classmethod
    def of(cls, options: DataOptions | ColumnsConfig) -> Reading:
        """Find in a command's options how its table is read."""
        named = (each.name for each in fields(cls) if hasattr(options, each.name))
        given = {name: getattr(options, name) for name in named}
        return cls(told=told_columns(options.column), **given)


AS_IT_COMES = Reading()


class Origin(NamedTuple):
    """What a table is called, where it lies, and its label column."""

    name: str
    source: str
    target: str


def _synthetic() -> tuple[pd.DataFrame, pd.Series]:
    x, y = datasets.make_classification(
        5000, n_features=20, n_informative=10, n_redundant=5, random_state=42
    )
    names = [f"feature_{i:02d}" for i in range(x.shape[1])]
    return pd.DataFrame(x, columns=names), pd.Series(y, name="label")


BUNDLED = {"as_frame": True, "return_X_y": True}

BUILT_IN: dict[str, Callable[[], tuple[pd.DataFrame, pd.Series]]] = {
    "synthetic": _synthetic,
    "digits": partial(datasets.load_digits, **BUNDLED),
    "breast_cancer": partial(datasets.load_breast_cancer, **BUNDLED),
    "wine": partial(datasets.load_wine, **BUNDLED),
}


def read_source(
    data: Source, target: str = "", how: Reading = AS_IT_COMES
) -> tuple[Origin, pd.DataFrame]:
    """What a table is called and where it lies, and all its columns as they are written.

    What columns are told to hold decides how those of a CSV file are written: texts stay as they
    are, categories with NA too. Raises DataError for whatever is wrong with the name, the file or
    its columns, and for labels that read as gaps.
    """
    said = {n: what for n, what in how.told.items() if what not in ("number", "leave_out")}
    texts = {name: what == "category" for name, what in said.items()}
    origin, frame = open_source(data, how.separator, how.decimal, texts)
    if origin.target:
        if target not in ("", origin.target):
            raise DataError(
                f"the built-in table {data!r} has the target {origin.target!r}; received target "
                f"{target!r}: leave it out, or give the path of a table of your own"
            )
        return origin, frame
    name = "the DataFrame" if origin.source == FRAME else origin.name
    if not target:
        columns = ", ".join(map(repr, frame.columns))
        raise DataError(f"a table needs target, the label column; {name} has: {columns}")
    check_columns(frame, name, target)
    if frame.shape[1] < 2:
        raise DataError(f"{name} has no column beside the target {target!r}")
    if is_csv(data) and target not in how.told and (gaps := frame[target].isna()).any():
        _, written = open_source(data, how.separator, how.decimal, {target: True})
        if len(labels := written[target][gaps].dropna()):
            raise DataError(
                f"target {target!r} has {len(labels):,} labels written as "
                f"{listed(sorted(labels.unique()))}, which reads as a gap; if it is a class give "
                f"{option_of(target, 'category')}, else remove those rows"
            )
    return origin._replace(target=target), frame


def existing_file(data: str | Path) -> Path:
    """Find a CSV or Parquet file.

    Raises DataError where there is none, with the nearest built-in name, and for any other file.
    """
    path = Path(data).expanduser()
    if os.path.isdir(path):
        raise DataError(f"data is a directory: {path}; name a CSV or Parquet file in it")
    if not os.path.exists(path):  # pathlib raises for what is too long to be a path
        names = ", ".join(BUILT_IN)
        if near := difflib.get_close_matches(str(data), BUILT_IN, n=1, cutoff=0.5):
            raise DataError(f"no built-in table or file {str(data)!r}; did you mean {near[0]!r}?")
        raise DataError(
            f"no such file: {os.path.abspath(path)}; data takes the path of a CSV or Parquet file "
            f"(with `mlflow run`, an absolute one) or a built-in name: {names}"
        )
    if path.stat().st_size == 0:
        raise DataError(f"the file is empty: {path}")
    if not is_csv(path) and path.suffix.lower() not in PARQUET:
        raise DataError(
            f"unknown format {''.join(path.suffixes).lower() or '(no suffix)'!r} of {path.name}; "
            "data takes .csv, .tsv, .txt (each also with .gz), .parquet or .pq"
        )
    return path


def open_source(
    data: Source, separator: str, decimal: str, texts: Mapping[str, bool] = MappingProxyType({})
) -> tuple[Origin, pd.DataFrame]:
    """Read a table, whatever its columns are; its origin has the target of a built-in one alone.

    ``texts`` are columns of a CSV file that stay as they are written: 007 is no 7. Where it is true
    NA is a text too. Raises DataError for what cannot be read.
    """
    if not isinstance(data, str | Path):
        frame = as_frame(data)
        refuse_csv_options("a DataFrame", separator, decimal)
        return Origin(FRAME, FRAME, ""), frame
    if data in BUILT_IN:
        refuse_csv_options(f"the built-in table {data}", separator, decimal)
        features, labels = BUILT_IN[str(data)]()
        target = str(labels.name)
        return Origin(str(data), str(data), target), features.assign(**{target: labels})
    path = existing_file(data)
    if is_csv(path):
        frame = read_delimited(path, texts, separator, decimal)
    else:
        refuse_csv_options(path.name, separator, decimal)
        frame = read_parquet(path)
    return Origin(path.name, str(path.resolve()), ""), frame


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
