"""A table with its split: which rows are on which side, and the rows of each side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from kd_mlflow.config import DataOptions
from kd_mlflow.errors import DataError
from kd_mlflow.table.hashing import SPLIT_SEED, mix_bits, row_hashes
from kd_mlflow.table.loading import Table, load_table

TEST_FRACTION = 0.2


@dataclass(frozen=True, kw_only=True)
class Split:
    """Row numbers of each side, ascending; every row is on one side."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]

    def balance(self, table: Table) -> dict[str, dict[str, int]]:
        """Rows per class on each side, by side and label."""
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
    place = mix_bits(row_hashes(table.features)).astype(np.float64) / 2.0**64
    test = place < TEST_FRACTION
    val = ~test & (place < TEST_FRACTION + (1 - TEST_FRACTION) * val_fraction)
    return Split(
        train=np.flatnonzero(~test & ~val), val=np.flatnonzero(val), test=np.flatnonzero(test)
    )


@dataclass(frozen=True, kw_only=True)
class TestRows:
    """The rows that a version's logged accuracy was measured on."""

    __test__ = False  # pytest: this is no test case

    features: pd.DataFrame
    labels: NDArray[np.object_]


class Sides(NamedTuple):
    """A table's rows by what they are for, features and then the label."""

    train: pd.DataFrame
    val: pd.DataFrame
    test: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A table and its split."""

    table: Table
    split: Split

    def features(self, side: str) -> pd.DataFrame:
        """Feature columns of one side: train, val or test."""
        rows: pd.DataFrame = self.table.features.iloc[getattr(self.split, side)]
        return rows

    def labels(self, side: str) -> NDArray[np.int64]:
        """Class numbers of one side.  Shape: (n,)."""
        labels: NDArray[np.int64] = self.table.labels[getattr(self.split, side)]
        return labels

    def test_rows(self) -> TestRows:
        """Test rows with their labels as they stand in the table."""
        classes = np.array(self.table.classes, dtype=object)
        return TestRows(features=self.features("test"), labels=classes[self.labels("test")])

    def sides(self) -> Sides:
        """The rows of each side as tables of their own."""
        classes = np.array(self.table.classes)
        return Sides(
            *(
                self.features(side).assign(**{self.table.target: classes[self.labels(side)]})
                for side in Sides._fields
            )
        )


def read_dataset(config: DataOptions) -> Dataset:
    """Read and split the table that a configuration names."""
    table = load_table(config.data, config.target)
    return Dataset(table=table, split=split_rows(table, config.val_fraction))
