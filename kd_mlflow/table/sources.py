"""Where a table comes from: a built-in name, a file's path or a frame in memory."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from sklearn import datasets

from kd_mlflow.config.groups import DataOptions, EnsembleOptions, Source
from kd_mlflow.config.rules import told_columns
from kd_mlflow.errors import DataError, listed
from kd_mlflow.table import files
from kd_mlflow.table.delimited import read_delimited
from kd_mlflow.table.kinds import option_of

if TYPE_CHECKING:
    from kd_mlflow.config.entry_points import ColumnsConfig

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
    texts = [name for name, what in how.told.items() if what not in ("number", "leave_out")]
    literal = [name for name in texts if how.told[name] == "category"]
    origin, frame = open_source(data, how.separator, how.decimal, texts, literal)
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
    files.check_columns(frame, name, target)
    if frame.shape[1] < 2:
        raise DataError(f"{name} has no column beside the target {target!r}")
    if files.is_csv(data) and target not in how.told and (gaps := frame[target].isna()).any():
        _, written = open_source(data, how.separator, how.decimal, literal=[target])
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
    if not files.is_csv(path) and path.suffix.lower() not in files.PARQUET:
        raise DataError(
            f"unknown format {''.join(path.suffixes).lower() or '(no suffix)'!r} of {path.name}; "
            "data takes .csv, .tsv, .txt (each also with .gz), .parquet or .pq"
        )
    return path


def open_source(
    data: Source,
    separator: str,
    decimal: str,
    texts: Collection[str] = (),
    literal: Collection[str] = (),
) -> tuple[Origin, pd.DataFrame]:
    """Read a table, whatever its columns are; its origin has the target of a built-in one alone.

    ``texts`` are columns of a CSV file that stay as they are written: 007 is no 7. In those that
    are ``literal`` NA is a text too. Raises DataError for what cannot be read.
    """
    if not isinstance(data, str | Path):
        frame = files.as_frame(data)
        files.refuse_csv_options("a DataFrame", separator, decimal)
        return Origin(FRAME, FRAME, ""), frame
    if data in BUILT_IN:
        files.refuse_csv_options(f"the built-in table {data}", separator, decimal)
        features, labels = BUILT_IN[str(data)]()
        target = str(labels.name)
        return Origin(str(data), str(data), target), features.assign(**{target: labels})
    path = existing_file(data)
    if files.is_csv(path):
        frame = read_delimited(path, separator, decimal, texts, literal)
    else:
        files.refuse_csv_options(path.name, separator, decimal)
        frame = files.read_parquet(path)
    return Origin(path.name, str(path.resolve()), ""), frame
