"""A table from a built-in name or a file: read whole, split, digest."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.model_selection import train_test_split

from kd_mlflow.encoding import Label, kind_of
from kd_mlflow.errors import DataError
from kd_mlflow.files import check_columns, existing_file, read_file

_log = logging.getLogger(__name__)

FRAME = "DataFrame"
"""Name and source of a table that came as one."""

TEST_FRACTION = 0.2
SPLIT_SEED = 42
"""The split never follows the training seed: figures of two trainings compare on the same rows."""

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


@dataclass(frozen=True, kw_only=True)
class Split:
    """Row numbers of each side, ascending; every row is on one side."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]

    def balance(self, table: Table) -> dict[str, dict[str, int]]:
        """Rows a class on each side, by side and label."""
        return {
            side: dict(
                zip(
                    map(str, table.classes),
                    np.bincount(
                        table.labels[getattr(self, side)], minlength=len(table.classes)
                    ).tolist(),
                    strict=True,
                )
            )
            for side in ("train", "val", "test")
        }


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


def split_rows(table: Table, val_fraction: float) -> Split:
    """Divide rows into train, validation and test: 20 % test, ``val_fraction`` of the rest.

    A file's row goes where a hash of its feature values sends it: the same side however the table
    grows or is reordered, and equal rows on one side. Built-in tables keep the reference split.

    Raises DataError where a class has no row to train on or to test on.
    """
    split = (
        _reference_split(table, val_fraction)
        if table.built_in
        else _hash_split(table, val_fraction)
    )
    balance = split.balance(table)
    for label in map(str, table.classes):
        train, test = balance["train"][label], balance["test"][label]
        if not train or not test:
            raise DataError(
                f"class {label!r} has too few rows to split: {train} to train on, "
                f"{test} to test on, at least one each is needed; "
                "add rows of it, merge it with another class, or remove it"
            )
    if not len(split.val):
        raise DataError(
            f"no row is left for validation: {len(table.labels)} rows at "
            f"val_fraction {val_fraction:g}; add rows or raise val_fraction"
        )
    return split


def _reference_split(table: Table, val_fraction: float) -> Split:
    rows = np.arange(len(table.labels))
    rest, test = train_test_split(rows, test_size=TEST_FRACTION, random_state=SPLIT_SEED)
    train, val = train_test_split(rest, test_size=val_fraction, random_state=SPLIT_SEED)
    return Split(train=np.sort(train), val=np.sort(val), test=np.sort(test))


def _hash_split(table: Table, val_fraction: float) -> Split:
    place = _mix(row_hashes(table.features)).astype(np.float64) / 2.0**64
    test = place < TEST_FRACTION
    val = ~test & (place < TEST_FRACTION + (1 - TEST_FRACTION) * val_fraction)
    return Split(
        train=np.flatnonzero(~test & ~val), val=np.flatnonzero(val), test=np.flatnonzero(test)
    )


def row_hashes(features: pd.DataFrame) -> NDArray[np.uint64]:
    """Hash each row's values: 64 bits, seeded by column name.  Shape: (n,).

    3 and 3.0 are the same, and the order of columns does not count.
    """
    total = np.zeros(len(features), dtype=np.uint64)
    for name in features.columns:
        values = _canonical(features[name])
        column = pd.util.hash_pandas_object(values, index=False).to_numpy(np.uint64)
        total += _mix(np.bitwise_xor(column, _name_hash(str(name)), dtype=np.uint64))
    return total


def _canonical(series: pd.Series) -> pd.Series:
    kind = kind_of(series)
    if kind in ("numeric", "boolean"):
        numbers = pd.to_numeric(series, errors="coerce").astype("float64") + 0.0
        return pd.Series(numbers.to_numpy(np.float64, na_value=np.nan))
    return series.astype(object).where(series.notna(), None).map(str).reset_index(drop=True)


def _name_hash(name: str) -> np.uint64:
    seeded = f"{SPLIT_SEED}:{name}".encode()
    return np.uint64(int.from_bytes(hashlib.sha256(seeded).digest()[:8], "little"))


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every input bit over all output bits (the finalizer of SplitMix64)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


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
        digest=_digest(features, labels, classes, str(column.name)),
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


def _digest(
    features: pd.DataFrame, labels: NDArray[np.int64], classes: tuple[Label, ...], target: str
) -> str:
    """SHA-256 of every value, in row order, with the columns' names and the classes."""
    sha = hashlib.sha256()
    sha.update(repr((sorted(map(str, features.columns)), target, classes)).encode())
    sha.update(row_hashes(features).tobytes())
    sha.update(labels.tobytes())
    return sha.hexdigest()


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
