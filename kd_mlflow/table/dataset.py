"""A table with its split: which rows are on which side, and the rows of each side."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from kd_mlflow.config.groups import DataOptions
from kd_mlflow.errors import DataError
from kd_mlflow.table.hashing import SPLIT_SEED, Codes, mix_bits
from kd_mlflow.table.kinds import Ints
from kd_mlflow.table.labels import NAMED_CLASSES, ROWS_PER_CLASS, named_classes
from kd_mlflow.table.loading import Table, load_table, rare_classes, without_classes
from kd_mlflow.table.sources import Reading
from kd_mlflow.table.suspects import suspects

_log = logging.getLogger(__name__)

TEST_FRACTION = 0.2
SIDES = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Row numbers of each side, ascending; every row is on one side."""

    train: Ints
    val: Ints
    test: Ints

    @classmethod
    def of(cls, sides: Ints) -> Split:
        """Collect the rows of each side.  Shape: (n,), TRAIN, VAL or TEST each."""
        return cls(**{name: np.flatnonzero(sides == i) for i, name in enumerate(SIDES)})

    @property
    def digest(self) -> str:
        """SHA-256 of which rows are on which side."""
        sha = hashlib.sha256()
        for name in SIDES:
            rows = getattr(self, name)
            sha.update(f"{name} {len(rows)}:".encode() + rows.astype("<i8").tobytes())
        return sha.hexdigest()

    def balance(self, table: Table) -> dict[str, dict[str, int]]:
        """Rows per class on each side, by side and label."""
        names = list(map(str, table.classes))
        rows = {side: table.labels[getattr(self, side)] for side in SIDES}
        return {
            side: dict(zip(names, np.bincount(own, minlength=len(names)).tolist(), strict=True))
            for side, own in rows.items()
        }


def split_rows(table: Table, val_fraction: float) -> Split:
    """Divide rows into train, validation and test: 20 % test, ``val_fraction`` of the rest.

    A file's row goes where a hash of its feature values sends it: the same side however the table
    grows or is reordered, and equal rows on one side. Where a class has no row on a side, the rows
    of it that are nearest to that side go there; they go back when others of the class come, so
    that of rare classes alone a row may change sides as a file grows. Where the table has groups,
    all of a group's rows go where a hash of the group sends it. Where it has times, its latest rows
    are test rows and those before them validation rows. Built-in tables keep the reference split.

    Raises DataError where a class cannot be on every side.
    """
    if table.times is not None:
        return _time_split(table, table.times, val_fraction)
    if table.units is None:
        return _reference_split(table, val_fraction)
    if rare := rare_classes(table):
        of = "different rows" if table.groups is None else "groups"
        raise DataError(
            f"classes with fewer than {ROWS_PER_CLASS} {of}, too few to train, validate "
            f"and test on: {named_classes(rare)}; add rows of them, merge them with others, or "
            "leave them out: drop_rare_classes=true"
        )
    places, end = _places(table.units), TEST_FRACTION + (1 - TEST_FRACTION) * val_fraction
    sides = np.select([places < TEST_FRACTION, places < end], [TEST, VAL], TRAIN)
    if table.groups is not None:  # the two nearest groups are tested on: one has no interval
        known = np.unique(table.groups)
        sides[np.isin(table.groups, known[np.argsort(_places(known))[:2]])] = TEST
    return Split.of(_with_every_class(sides, table, table.units, end))


def _time_split(table: Table, times: NDArray[np.float64], val_fraction: float) -> Split:
    """Test on the latest rows, validate on those before them; rows of one time are on one side.

    Raises DataError where a class has no row to train on, or a later side has one class alone.
    """
    known, rows = np.unique(times, return_counts=True)
    share = np.cumsum(rows) / len(times)  # of the rows up to each time
    last = 1 + int(np.abs(share[1:-1] - (1 - TEST_FRACTION)).argmin())
    end = int(np.abs(share[:last] - share[last] * (1 - val_fraction)).argmin())
    split = Split.of(np.select([times > known[last], times > known[end]], [TEST, VAL], TRAIN))
    for side, balance in split.balance(table).items():
        none = [label for label, count in balance.items() if not count]
        if none and (side == "train" or len(none) > len(balance) - 2):
            raise DataError(
                f"split by time, the {side} rows have no row of class {none[0]!r}: give rows of a "
                "longer time, merge the class with another, or leave time out"
            )
    return split


def _reference_split(table: Table, val_fraction: float) -> Split:
    rows = np.arange(len(table.labels))
    rest, test = train_test_split(rows, test_size=TEST_FRACTION, random_state=SPLIT_SEED)
    try:
        train, val = train_test_split(rest, test_size=val_fraction, random_state=SPLIT_SEED)
    except ValueError:  # no row is left
        train, val = rest[:0], rest
    counts = np.bincount(table.labels[train], minlength=len(table.classes))
    if not counts.all():
        raise DataError(
            f"class {table.classes[int(counts.argmin())]!r} has no row to train on at "
            f"val_fraction {val_fraction:g}; lower val_fraction"
        )
    return Split(train=np.sort(train), val=np.sort(val), test=np.sort(test))


def _places(hashes: Codes) -> NDArray[np.float64]:
    """Where on the line from 0 to 1 a row lies: test rows first, then validation, then train."""
    return mix_bits(hashes).astype(np.float64) / 2.0**64


def _with_every_class(sides: Ints, table: Table, hashes: Codes, end: float) -> Ints:
    """Move the nearest rows to sides on which their class has none, equal rows together.

    No move takes a class's last row from a side. ``end`` is where on the line of ``_places`` the
    validation rows do.
    """
    places, labels = _places(hashes), table.labels
    away = {
        TEST: places,
        VAL: np.where(places < TEST_FRACTION, TEST_FRACTION - places, places - end),
        TRAIN: -places,
    }
    counts = np.zeros((len(table.classes), len(SIDES)), dtype=np.int64)
    np.add.at(counts, (labels, sides), 1)

    def move(own: np.uint64, side: np.int64) -> bool:
        equals = np.flatnonzero(hashes == own)
        before, moved = sides[equals[0]], np.bincount(labels[equals], minlength=len(counts))
        left = counts[:, before] - moved
        if (left[moved > 0] <= 0).any():
            return False
        counts[:, before], sides[equals] = left, side
        counts[:, side] += moved
        return True

    stuck = []
    for label, side in np.argwhere(counts == 0):
        rows = np.flatnonzero(labels == label)
        nearest = rows[np.argsort(away[int(side)][rows], kind="stable")]
        if not any(move(own, side) for own in dict.fromkeys(hashes[nearest])):
            stuck.append(table.classes[label])
    if stuck:
        raise DataError(
            "classes whose rows cannot be divided into train, validation and test, because "
            f"{'equal rows' if table.groups is None else 'rows of a group'} stay together: "
            f"{', '.join(map(repr, stuck[:NAMED_CLASSES]))}; add rows of them or merge them with "
            "others"
        )
    return sides


class Identity(NamedTuple):
    """Digests of a table's values and of which rows are on which side, and belong together.

    Models are compared, reused and judged only where both are the same: a row that one split tests
    on may be one that another trains on.
    """

    data_digest: str
    split: str


class Sides(NamedTuple):
    """A table's rows by what they are for, features and then the label.

    Fields:
        train: rows to learn from
        val: rows to choose by
        test: rows to judge by
    """

    train: pd.DataFrame
    val: pd.DataFrame
    test: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A table and its split."""

    table: Table
    split: Split

    @cached_property
    def identity(self) -> Identity:
        """What makes this dataset the same as another: its values and its split."""
        sha = hashlib.sha256(self.split.digest.encode())
        for kept in (self.table.groups, self.table.times):
            sha.update(b"none" if kept is None else kept.tobytes())
        together = self.table.groups is not None or self.table.times is not None
        return Identity(self.table.digest, sha.hexdigest() if together else self.split.digest)

    def features(self, side: str) -> pd.DataFrame:
        """Feature columns of one side: train, val or test."""
        rows: pd.DataFrame = self.table.features.iloc[getattr(self.split, side)]
        return rows

    def raw(self, side: str) -> pd.DataFrame:
        """Feature columns of one side, then those that say which rows belong together and when."""
        rows = self.features(side)
        aside = self.table.aside
        return rows if aside.empty else rows.join(aside)

    def groups(self, side: str) -> Ints | None:
        """The number of each row's group on one side, from 0.  Shape: (n,)."""
        if self.table.groups is None:
            return None
        _, numbers = np.unique(self.table.groups[getattr(self.split, side)], return_inverse=True)
        return numbers

    def labels(self, side: str) -> Ints:
        """Class numbers of one side.  Shape: (n,)."""
        return np.asarray(self.table.labels[getattr(self.split, side)])

    def sides(self) -> Sides:
        """The rows of each side as tables of their own."""
        target, classes = self.table.target, np.array(self.table.classes)
        labels = {side: classes[self.labels(side)] for side in SIDES}
        return Sides(**{s: self.features(s).assign(**{target: labels[s]}) for s in SIDES})


def read_dataset(config: DataOptions) -> Dataset:
    """Read and split the table that a configuration names.

    Raises DataError for whatever is wrong with it.
    """
    table = load_table(config.data, config.target, Reading.of(config))
    if config.drop_rare_classes and (rare := rare_classes(table)):
        _log.warning("left out, rows of rare classes: %s", named_classes(rare))
        table = without_classes(table, rare)
    split = split_rows(table, config.val_fraction)
    for line in suspects(table, split.train, split.test):
        _log.warning("%s", line)
    return Dataset(table=table, split=split)
