"""New rows in the table's own space, between two rows of it: whatever scores the table labels them.

Mixup (Zhang et al., 2018, arXiv 1710.09412, equation 1) without its labels, and its restriction to
near rows (Chawla et al., 2002, "SMOTE", arXiv 1106.1813).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from kd_mlflow.table.kinds import Ints
from kd_mlflow.table.numerals import EXACT

NEIGHBOURS = 50
REFERENCE_ROWS = 8192
"""Near rows are looked for among so many: work grows with the rows, not with their square."""

CHUNK_ROWS, CHUNK_VALUES = 65_536, 2**24
"""Most rows made at once, and most values."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Two rows each, and the first one's share of the row between them.  Shape of each: (n,)."""

    first: Ints
    second: Ints
    share: NDArray[np.float64]


def any_pairs(n: int, count: int, rng: np.random.Generator) -> Pairs:
    """Pair every row, equally often, with any row."""
    return Pairs(
        first=_in_turn(n, count, rng), second=rng.integers(n, size=count), share=rng.random(count)
    )


def near_pairs(inputs: NDArray[np.float32], count: int, rng: np.random.Generator) -> Pairs:
    """Pair every row, equally often, with one of its nearest rows.

    Nearness is Euclidean in the scaled inputs.  Shape: (n, d_in).
    """
    n = len(inputs)
    known = rng.permutation(n)[:REFERENCE_ROWS]
    first = _in_turn(n, count, rng)
    near = NearestNeighbors(n_neighbors=min(NEIGHBOURS + 1, len(known))).fit(inputs[known])
    rows, place = np.unique(first, return_inverse=True)
    found = known[near.kneighbors(inputs[rows], return_distance=False)]
    choice = rng.integers(found.shape[1], size=count)
    return Pairs(first=first, second=found[place, choice], share=rng.random(count))


def rows_between(
    features: pd.DataFrame, pairs: Pairs, rng: np.random.Generator, kinds: Mapping[str, str]
) -> Iterator[pd.DataFrame]:
    """Make the rows between pairs, some tens of thousands at a time; columns keep their types.

    Numbers are interpolated, whole ones rounded; anything else, and a number whose other side is a
    gap, is one of the two values, the first with its share as probability. ``kinds`` says what each
    column holds.
    """
    at_once = min(CHUNK_ROWS, max(1, CHUNK_VALUES // features.shape[1]))
    for start in range(0, len(pairs.first), at_once):
        some = slice(start, start + at_once)
        first, second, share = pairs.first[some], pairs.second[some], pairs.share[some]
        columns = {}
        for name, kind in kinds.items():
            taken = np.where(rng.random(len(share)) < share, first, second)
            column = features[name].take(taken).reset_index(drop=True)
            if kind == "numeric":
                column = _interpolated(features[name], column, first, second, share)
            columns[name] = column
        yield pd.DataFrame(columns)


def _in_turn(n: int, count: int, rng: np.random.Generator) -> Ints:
    """Row numbers, each as often as any other.  Shape: (count,)."""
    turns = [rng.permutation(n) for _ in range(-(-count // n))]
    return np.concatenate(turns)[:count]


def _interpolated(
    source: pd.Series, taken: pd.Series, first: Ints, second: Ints, share: NDArray[np.float64]
) -> pd.Series:
    """Interpolate where both sides are present; elsewhere keep what was taken.

    Whole numbers are rounded, those beyond 2**53, which have no float of their own, taken as they
    are.
    """
    numbers = pd.to_numeric(source).to_numpy(np.float64, na_value=np.nan)
    between = share * numbers[first] + (1 - share) * numbers[second]
    if not pd.api.types.is_integer_dtype(source.dtype):
        kept = pd.to_numeric(taken).to_numpy(np.float64, na_value=np.nan)
        values = np.where(np.isnan(between), kept, between)
        typed = pd.api.types.is_numeric_dtype(source.dtype)
        return pd.Series(values).astype(source.dtype if typed else "float64")
    exact = np.abs(between) < EXACT  # false for a gap too
    rounded = np.where(exact, between, 0).round().astype(np.int64)
    return taken.mask(pd.Series(exact), pd.Series(rounded).astype(source.dtype))
