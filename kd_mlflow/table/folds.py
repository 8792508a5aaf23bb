"""Folds of a table's training rows: which rows each teacher leaves out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kd_mlflow.table.dataset import Dataset

LEAST_FOLDS = 5
"""A single teacher leaves out a fifth of the rows, not all of them."""

ALWAYS_TRAINED = -1
"""The fold of rows that nobody leaves out."""


def held_out_rows(dataset: Dataset, teachers: int, seed: int) -> tuple[NDArray[np.int32], ...]:
    """The training rows that each of so many teachers leaves out: one fold each.

    Row numbers count within the train side.
    """
    fold = folds(dataset, max(teachers, LEAST_FOLDS), seed)
    return tuple(np.flatnonzero(fold == i).astype(np.int32) for i in range(teachers))


def folds(dataset: Dataset, count: int, seed: int) -> NDArray[np.int64]:
    """A fold for each training row, each with nearly as many rows of a class as the others.

    Equal rows are in one fold: what a model learnt by heart tells nothing about its left-out rows.
    Rows of a class with fewer different rows than folds are in none, so that every teacher learns
    from them, unless no others are left.  Shape: (n,), from 0, or ALWAYS_TRAINED.
    """
    labels, hashes = dataset.labels("train"), dataset.table.row_hashes
    train = dataset.split.train
    rows = train if hashes is None else hashes[train]
    _, first, place = np.unique(rows, return_index=True, return_inverse=True)
    classes = labels[first]
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(classes[order], kind="stable")]
    rare = np.bincount(classes)[classes[order]] < count
    if len(order) - rare.sum() >= count:
        order = order[~rare]
    fold = np.full(len(first), ALWAYS_TRAINED)
    fold[order] = np.arange(len(order)) % count
    return fold[place]
