"""A table from a built-in name, a file or a frame: its features, its labels, its identity."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import datasets

from kd_mlflow.errors import DataError
from kd_mlflow.table.files import check_columns, existing_file, read_file
from kd_mlflow.table.hashing import table_digest
from kd_mlflow.table.kinds import Label, kind_of

_log = logging.getLogger(__name__)

FRAME = "DataFrame"
"""Name and source of a table that came as one."""


IDENTIFIER_SHARE = 0.95
IDENTIFIER_ROWS = 20
"""A text column with at least this share of distinct values in at least so many rows is a name."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Feature columns, labels as class numbers, and where they come from.

    ``labels`` has shape (n,) and indexes ``classes``. ``built_in`` tables keep their own split.
    """

    name: str
    source: str
    target: str
    features: pd.DataFrame
    labels: NDArray[np.int64]
    classes: tuple[Label, ...]
    digest: str
    built_in: bool


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


def load_table(data: str | Path | pd.DataFrame, target: str = "") -> Table:
    """Take a DataFrame, or read a built-in table by name or a CSV or Parquet file by path.

    A DataFrame is split as a file of the same rows is; its index is not looked at.
    Raises DataError for whatever is wrong with the file, its columns or its labels.
    """
    name = source = FRAME
    if isinstance(data, pd.DataFrame):
        frame = data.set_axis(data.columns.map(str), axis=1).reset_index(drop=True)
        check_columns(frame, "the DataFrame", target)
    elif data in BUILT_IN:
        features, column = BUILT_IN[str(data)]()
        return _table(str(data), str(data), features, column, built_in=True)
    else:
        path = existing_file(str(data), built_in=tuple(BUILT_IN))
        name, source, frame = path.name, str(path.resolve()), read_file(path, target)
    features = frame.drop(columns=target)
    _check_finite(features)
    return _table(name, source, features, frame[target], built_in=False)


def _table(
    name: str, source: str, features: pd.DataFrame, column: pd.Series, *, built_in: bool
) -> Table:
    labels, classes = _labels(column)
    if not built_in:
        features = _useful(features)
    return Table(
        name=name,
        source=source,
        target=str(column.name),
        features=features.reset_index(drop=True),
        labels=labels,
        classes=classes,
        digest=table_digest(features, labels, classes, str(column.name)),
        built_in=built_in,
    )


def _labels(column: pd.Series) -> tuple[NDArray[np.int64], tuple[Label, ...]]:
    """Number the classes in sorted order.  Whole floats are integers; mixed types become text."""
    name = column.name
    if column.isna().any():
        rows = np.flatnonzero(column.isna())
        raise DataError(
            f"target {name!r} has {len(rows)} missing labels, the first in row {rows[0]}; "
            "remove those rows"
        )
    codes, uniques = pd.factorize(column.astype(object))
    classes = _classes(list(uniques), name)
    if len(classes) < 2:
        raise DataError(f"target {name!r} has one class only, {classes[0]!r}; two are needed")
    order = sorted(range(len(classes)), key=lambda i: classes[i])
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return place[codes], tuple(classes[i] for i in order)


def _classes(values: list[Any], name: Any) -> list[Label]:
    if all(isinstance(v, (bool, np.bool_)) for v in values):
        return [bool(v) for v in values]
    if all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in values):
        if fractional := [v for v in values if not float(v).is_integer()]:
            raise DataError(
                f"target {name!r} holds numbers that are no classes, such as {fractional[0]!r}; "
                "this is classification: choose a column of labels or bin the numbers"
            )
        return [int(v) for v in values]
    texts = [str(v) for v in values]
    if len(set(texts)) < len(texts):
        raise DataError(f"target {name!r} mixes numbers and texts that read alike; make it text")
    return list(texts)


def _useful(features: pd.DataFrame) -> pd.DataFrame:
    """Leave out, with a warning, columns that name rows and columns that never change."""
    identifiers = [name for name in features.columns if _is_identifier(features[name])]
    constants = [name for name in features.columns if _is_constant(features[name])]
    if identifiers:
        _log.warning("left out, unique in nearly every row: %s", ", ".join(identifiers))
    if constants:
        _log.warning("left out, the same in every row: %s", ", ".join(constants))
    left = features.drop(columns=identifiers + constants)
    if left.columns.empty:
        raise DataError(
            "no column is left to learn from: "
            "each is the same in every row or unique in nearly every row"
        )
    return left


def _is_constant(series: pd.Series) -> bool:
    """Whether all values are one; the first rows mostly tell."""
    for rows in (series.iloc[:1000], series):
        codes, _ = pd.factorize(rows)
        if (codes != codes[0]).any():
            return False
    return True


def _is_identifier(series: pd.Series) -> bool:
    """A text, or a whole number counting rows, that hardly ever repeats."""
    if len(series) < IDENTIFIER_ROWS or series.notna().mean() < IDENTIFIER_SHARE:
        return False
    kind = kind_of(series)
    if kind == "category":
        return bool(series.nunique() >= IDENTIFIER_SHARE * series.notna().sum())
    if kind == "numeric" and pd.api.types.is_integer_dtype(series) and series.is_unique:
        return int(series.max()) - int(series.min()) < 2 * len(series)
    return False


def _check_finite(features: pd.DataFrame) -> None:
    """Name the first column and row that holds an infinite number."""
    for name in features.columns:
        if kind_of(features[name]) != "numeric":
            continue
        values = pd.to_numeric(features[name], errors="coerce").astype("float64")
        infinite = np.isinf(values.to_numpy(np.float64, na_value=np.nan))
        if infinite.any():
            raise DataError(
                f"column {name!r} is infinite in {infinite.sum()} rows, the first is row "
                f"{infinite.argmax()} (counted from 0); replace or drop them"
            )
