"""Hashes of a table: of each row, for its place in the split; of all values, for its identity."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kd_mlflow.table.kinds import Label, kind_of

SPLIT_SEED = 42
"""The split never follows the training seed: metrics of two trainings compare on the same rows."""


def row_hashes(features: pd.DataFrame) -> NDArray[np.uint64]:
    """Hash each row's values: 64 bits, seeded by column name.  Shape: (n,).

    3 and 3.0 are the same, and the order of columns does not count.
    """
    total = np.zeros(len(features), dtype=np.uint64)
    for name in features.columns:
        values = _canonical(features[name])
        column = pd.util.hash_pandas_object(values, index=False).to_numpy(np.uint64)
        total += mix_bits(np.bitwise_xor(column, _name_hash(str(name)), dtype=np.uint64))
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


def mix_bits(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every input bit over all output bits (the finalizer of SplitMix64)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def table_digest(
    features: pd.DataFrame, labels: NDArray[np.int64], classes: tuple[Label, ...], target: str
) -> str:
    """SHA-256 of every value, in row order, with the columns' names and the classes."""
    sha = hashlib.sha256()
    sha.update(repr((sorted(map(str, features.columns)), target, classes)).encode())
    sha.update(row_hashes(features).tobytes())
    sha.update(labels.tobytes())
    return sha.hexdigest()
