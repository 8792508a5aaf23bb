"""A table from a built-in name, a file or a frame: its features, its labels, its identity."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kd_mlflow.config.groups import Source
from kd_mlflow.errors import DataError, listed
from kd_mlflow.table.columns import ColumnReport, column_report, worst_first
from kd_mlflow.table.forms import PLAIN, Form
from kd_mlflow.table.groups import check_enough, check_named, column_names, group_hashes, row_times
from kd_mlflow.table.hashing import Codes, split_hashes, table_digest
from kd_mlflow.table.kinds import Ints, Label, Typed, readings, typed
from kd_mlflow.table.labels import ROWS_PER_CLASS, label_text, numbered_labels, tell_alike
from kd_mlflow.table.sources import AS_IT_COMES, BUILT_IN, Origin, Reading, Told, read_source

_log = logging.getLogger(__name__)

LEAVE_OUT, AS_TOLD = "leave_out", "as it was told"

SAVED_INDEX = re.compile(r"Unnamed: \d+")
"""What a column without a name is called; of whole numbers it is an index that pandas saved."""

IDENTIFIER_SHARE = 0.95
IDENTIFIER_ROWS = 20
"""A text column with at least this share of distinct values in at least so many rows is a name."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Feature columns, labels as class numbers, and where they come from.

    ``labels`` has shape (n,) and indexes ``classes``. ``kinds``, ``gap_texts`` and ``forms`` say
    of each feature column what it holds, which texts in it became gaps, how others were read;
    ``columns`` what became of every column. ``row_hashes``, shape (n,), decide the split; None for
    a built-in table, which keeps its own. ``groups`` are hashes of what each row is about, and
    ``times`` say when it was, with a group when its latest row was, of a table that is split by
    them: shape (n,), else None. ``group_columns`` and ``time_column`` are called so; ``aside`` has
    them, for they are no features, with the table's index.
    """

    name: str
    source: str
    target: str
    features: pd.DataFrame
    labels: Ints
    classes: tuple[Label, ...]
    digest: str
    kinds: Mapping[str, str]
    gap_texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    forms: Mapping[str, Form] = field(default_factory=dict)
    columns: tuple[ColumnReport, ...] = ()
    row_hashes: Codes | None = None
    groups: Codes | None = None
    times: NDArray[np.float64] | None = None
    group_columns: tuple[str, ...] = ()
    time_column: str = ""
    aside: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def units(self) -> Codes | None:
        """Which rows stay together, equal ones or those of a group; None: each is alone."""
        return self.row_hashes if self.groups is None else self.groups


def load_table(data: Source, target: str = "", how: Reading = AS_IT_COMES) -> Table:
    """Take a table as it comes, or read a built-in one by name or a CSV or Parquet file by path.

    A DataFrame is split as a file of the same rows is; its index is not looked at. A few lines of
    the log say what deserves attention.
    Raises DataError for whatever is wrong with the file, its columns or its labels.
    """
    table = _table(*read_source(data, target, how), how)
    for line in worst_first(table.columns):
        _log.warning("%s", line)
    return table


def describe_columns(
    data: Source, target: str = "", how: Reading = AS_IT_COMES
) -> tuple[Origin, int, str, tuple[ColumnReport, ...]]:
    """Where a table lies, how many rows it has, its label, and how each of its columns is read.

    Raises DataError as ``load_table`` does.
    """
    origin, frame = read_source(data, target, how)
    _check_told(how.told, frame.columns, origin)
    *_, reports = _typed_columns(frame.drop(columns=origin.target), how, origin)
    label = label_text(_told(frame[origin.target], how.told))
    return origin, len(frame), label, reports


def _table(origin: Origin, frame: pd.DataFrame, how: Reading) -> Table:
    """Separate a table's label and what is aside, leave useless columns out, take its digest."""
    told, group, time = how.told, column_names(how.group, frame.columns), how.time.strip()
    _check_told(told, frame.columns, origin)
    labels, classes = numbered_labels(_told(frame[origin.target], told))
    tell_alike(classes, origin.target)
    aside = frame[_aside(origin, frame, group, time)]
    features = frame.drop(columns=[origin.target, *aside.columns])
    columns, left_out, reports = _typed_columns(features, how, origin)
    hashes = None
    if origin.source not in BUILT_IN:
        said = features.drop(columns=[n for n in columns if told.get(n) == LEAVE_OUT])
        # cells say something else than they look like: 12.5 and $12.50 are one
        otherwise = {n: columns[n].values for n in said.columns if columns[n].form != PLAIN}
        hashes = split_hashes(said.assign(**otherwise))
    groups = times = None
    if group:
        groups = group_hashes(frame[group], split_hashes(features) if hashes is None else hashes)
        check_enough("group", ",".join(group), groups)
    if time:
        times = row_times(_told(frame[time], told))
        if groups is not None:  # when the latest row of each row's group was
            times = pd.Series(times).groupby(groups).transform("max").to_numpy()
        check_enough("time", time, times)
    columns = {name: each for name, each in columns.items() if name not in left_out}
    if not columns:
        raise DataError(
            "no column is left to learn from: "
            "each is the same in every row or unique in nearly every row"
        )
    features = pd.DataFrame({name: column.values for name, column in columns.items()}, copy=False)
    forms = {name: column.form for name, column in columns.items()}
    kinds = {name: column.kind for name, column in columns.items()}
    return Table(
        **origin._asdict(),
        features=features,
        labels=labels,
        classes=classes,
        digest=table_digest(features, readings(kinds, forms), labels, classes, origin.target),
        kinds=kinds,
        gap_texts={name: column.gap_texts for name, column in columns.items()},
        forms=forms,
        columns=reports,
        row_hashes=hashes,
        groups=groups,
        times=times,
        group_columns=tuple(group),
        time_column=time,
        aside=aside,
    )


def _typed_columns(
    features: pd.DataFrame, how: Reading, origin: Origin
) -> tuple[dict[str, Typed], dict[str, str], tuple[ColumnReport, ...]]:
    """Each column as training takes it, why some are left out of a file, what is said of each."""
    told, most = how.told, how.max_categories
    columns = {str(name): typed(features[name], told.get(name, "")) for name in features.columns}
    left_out = {name: AS_TOLD for name in columns if told.get(name) == LEAVE_OUT}
    if origin.source not in BUILT_IN:
        _check_finite({name: each for name, each in columns.items() if name not in left_out})
        left_out |= _useless(columns, told)
    reports = (
        column_report(name, each, left_out=left_out.get(name, ""), max_categories=most)
        for name, each in columns.items()
    )
    return columns, left_out, tuple(reports)


def _told(series: pd.Series, told: Told) -> pd.Series:
    what = told.get(str(series.name), "")
    return typed(series, what).values if what else series


def _check_told(told: Told, names: pd.Index, origin: Origin) -> None:
    """Raise DataError where a column is told that is not there, or a target what it cannot be."""
    if unknown := [name for name in told if name not in names]:
        has = listed([str(name) for name in names])
        raise DataError(f"the option column tells of {listed(unknown)}; {origin.name} has: {has}")
    if told.get(origin.target, "category") not in ("category", "text"):
        raise DataError(f"the target {origin.target!r} holds classes; tell it category or text")


def _aside(origin: Origin, frame: pd.DataFrame, group: Sequence[str], time: str) -> list[str]:
    """The columns that say which rows belong together and when each was.  Raises DataError."""
    names = list(map(str, frame.columns))
    check_named(group, "group", names, origin.target)
    check_named([time] if time else [], "time", names, origin.target)
    if time and time in group:
        raise DataError(f"time {time!r} is a group too; name another column")
    aside = [*group, *([time] if time else [])]
    if len(aside) + 1 == len(names):
        raise DataError(f"no column is left to learn from beside {', '.join(map(repr, aside))}")
    return aside


def rare_classes(table: Table) -> dict[Label, int]:
    """How many different rows, or groups, each class has that has too few for three sides."""
    if table.units is None:
        return {}
    counts = pd.Series(table.units).groupby(table.labels).nunique().to_numpy()
    return {table.classes[i]: int(counts[i]) for i in np.flatnonzero(counts < ROWS_PER_CLASS)}


def without_classes(table: Table, left_out: Mapping[Label, int]) -> Table:
    """The table without the rows of some classes.  Raises DataError where one class is left."""
    kept = ~np.isin(table.labels, [table.classes.index(label) for label in left_out])
    present, labels = np.unique(table.labels[kept], return_inverse=True)
    if len(present) < 2:
        raise DataError(
            f"without the rare classes of {table.target!r} fewer than two are left; two are needed"
        )
    features = table.features[kept].reset_index(drop=True)
    classes = tuple(table.classes[i] for i in present)
    read = readings(table.kinds, table.forms)
    return dataclasses.replace(
        table,
        features=features,
        labels=labels.astype(np.int64),
        classes=classes,
        digest=table_digest(features, read, labels, classes, table.target),
        row_hashes=None if table.row_hashes is None else table.row_hashes[kept],
        groups=None if table.groups is None else table.groups[kept],
        times=None if table.times is None else table.times[kept],
        aside=table.aside[kept].reset_index(drop=True),
    )


def _useless(columns: Mapping[str, Typed], told: Told) -> dict[str, str]:
    """Why columns teach nothing: they name rows, which none does that is told, or never vary."""
    found = {}
    for name, column in columns.items():
        whole = pd.api.types.is_integer_dtype(column.values)
        if name not in told and whole and SAVED_INDEX.fullmatch(name):
            found[name] = "a saved index"
        elif name not in told and _is_identifier(column):
            found[name] = "unique in nearly every row"
        elif told.get(name) != LEAVE_OUT and column.values.nunique(dropna=False) == 1:
            found[name] = "the same in every row"
    return found


def _is_identifier(column: Typed) -> bool:
    """A text, or a whole number counting rows, that hardly ever repeats."""
    series, kind = column.values, column.kind
    if len(series) < IDENTIFIER_ROWS or series.notna().mean() < IDENTIFIER_SHARE:
        return False
    if kind == "category":
        return bool(series.nunique() >= IDENTIFIER_SHARE * series.notna().sum())
    if kind == "numeric" and pd.api.types.is_integer_dtype(series) and series.is_unique:
        return int(series.max()) - int(series.min()) < 2 * len(series)
    return False


def _check_finite(columns: Mapping[str, Typed]) -> None:
    """Name the first column and row that holds an infinite number."""
    for name, column in columns.items():
        if column.kind != "numeric":
            continue
        values = pd.to_numeric(column.values, errors="coerce").astype("float64")
        infinite = np.isinf(values.to_numpy(np.float64, na_value=np.nan))
        if infinite.any():
            raise DataError(
                f"column {name!r} is infinite in {infinite.sum()} rows, the first is row "
                f"{infinite.argmax()} (counted from 0); replace or drop them"
            )
