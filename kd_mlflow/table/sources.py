"""Where a table comes from: a built-in name, a file's path or a frame in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from sklearn import datasets

from kd_mlflow.config.groups import DataOptions, EnsembleOptions, Source
from kd_mlflow.config.rules import told_columns
from kd_mlflow.errors import DataError, listed
from kd_mlflow.table.files import (
    as_frame,
    check_columns,
    existing_file,
    is_csv,
    read_columns,
    refuse_csv_options,
)
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


def _bundled(load: Callable[..., Any]) -> Callable[[], tuple[pd.DataFrame, pd.Series]]:
    def table() -> tuple[pd.DataFrame, pd.Series]:
        bunch = load(as_frame=True)
        return bunch.data, bunch.target

    return table


BUILT_IN: dict[str, Callable[[], tuple[pd.DataFrame, pd.Series]]] = {
    "synthetic": _synthetic,
    "digits": _bundled(datasets.load_digits),
    "breast_cancer": _bundled(datasets.load_breast_cancer),
    "wine": _bundled(datasets.load_wine),
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
    check_columns(frame, name, target)
    if frame.shape[1] < 2:
        raise DataError(f"{name} has no column beside the target {target!r}")
    if is_csv(data) and target not in how.told and (gaps := frame[target].isna()).any():
        _, written = open_source(data, how.separator, how.decimal, literal=[target])
        if len(labels := written[target][gaps].dropna()):
            raise DataError(
                f"target {target!r} has {len(labels):,} labels written as "
                f"{listed(sorted(labels.unique()))}, which reads as a gap; if it is a class give "
                f"{option_of(target, 'category')}, else remove those rows"
            )
    return origin._replace(target=target), frame


def open_source(
    data: Source,
    separator: str,
    decimal: str,
    texts: Collection[str] = (),
    literal: Collection[str] = (),
) -> tuple[Origin, pd.DataFrame]:
    """Read a table, whatever its columns are; its origin has the target of a built-in one alone.

    ``texts`` and ``literal`` are as of ``read_columns``. Raises DataError for what cannot be read.
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
    path = existing_file(str(data), built_in=tuple(BUILT_IN))
    frame = read_columns(path, separator, decimal, texts, literal)
    return Origin(path.name, str(path.resolve()), ""), frame
