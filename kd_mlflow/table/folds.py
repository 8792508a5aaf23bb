"""Folds of a table's training rows: which rows each teacher leaves out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.kinds import Ints

LEAST_FOLDS, MOST_FOLDS, FOLD_ROWS = 5, 20, 1_000
"""A single teacher leaves out a fifth of the rows, not all of them. Of many rows it leaves out
fewer, but a thousand different ones, or groups, at least.
"""

ALWAYS_TRAINED = -1
"""The fold of rows that nobody leaves out."""


LEAST_STRETCHES, MOST_SHARE = 5, 0.5
"""Fewer stretches of time, or one of more than this share of the rows, make no folds; nor does a
group of more."""


def held_out_rows(dataset: Dataset, teachers: int, seed: int) -> tuple[NDArray[np.int32], ...]:
    """The training rows that each of so many teachers leaves out: one fold each.

    Where there are fewer folds than teachers, several leave out the same. Of a table with times
    the first stretches are left out, each a fifth however many rows there are. Row numbers count
    within the train side.
    """
    by_rows = min(MOST_FOLDS, len(np.unique(_units(dataset))) // FOLD_ROWS)
    least = LEAST_FOLDS if dataset.table.times is not None else max(LEAST_FOLDS, by_rows)
    fold = folds(dataset, max(teachers, least), seed)
    count = int(fold.max()) + 1
    return tuple(np.flatnonzero(fold == i % count).astype(np.int32) for i in range(teachers))


def folds(dataset: Dataset, count: int, seed: int) -> Ints:
    """A fold for each training row, each with nearly as many rows of a class as the others.

    Equal rows are in one fold, and so are those of a group: what a model learnt by heart tells
    nothing about its left-out rows. Of a table with times folds are consecutive stretches, where it
    has enough of them. Rows of a class with fewer different rows than folds are in none, so that
    every teacher learns from them, unless no others are left.
    Shape: (n,), from 0, or ALWAYS_TRAINED.
    """
    labels, train, table = dataset.labels("train"), dataset.split.train, dataset.table
    _, first, place, sizes = np.unique(
        _units(dataset), return_index=True, return_inverse=True, return_counts=True
    )
    classes = labels[first]
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(classes[order], kind="stable")]
    always = np.bincount(classes)[classes[order]] < count
    if table.groups is not None:
        always |= sizes[order] > MOST_SHARE * len(train)
    if len(order) - always.sum() >= count:
        order = order[~always]
    fold = np.full(len(first), ALWAYS_TRAINED)
    stretch = None if table.times is None else _stretches(table.times[train], count)
    if stretch is None:
        fold[order] = np.arange(len(order)) % count
    else:
        _, fold[order] = np.unique(stretch[first][order], return_inverse=True)
    return fold[place]


def _units(dataset: Dataset) -> NDArray[np.integer[Any]]:
    """What is left out together with each training row.  Shape: (n,)."""
    train, units = dataset.split.train, dataset.table.units
    return train if units is None else units[train]


def _stretches(times: NDArray[np.float64], count: int) -> Ints | None:
    """Cut rows by time into at most so many stretches of nearly equal sizes, ties together.

    None where they are too few or too unequal.  Shape: (n,).
    """
    _, place, rows = np.unique(times, return_inverse=True, return_counts=True)
    middles = (np.cumsum(rows) - rows / 2) / len(times)
    _, stretch = np.unique((middles * count).astype(np.int64), return_inverse=True)
    sizes = np.bincount(stretch[place])
    if len(sizes) < min(count, LEAST_STRETCHES) or sizes.max() > MOST_SHARE * len(times):
        return None
    return stretch[place]
