"""What one model of benchmarks/tables.py answers and costs, whoever made it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

CALLS, CALLS_S = 200, 3.0
"""One-row answers that a median is taken of, and how long they may take together."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a model answers on the test rows, and what it costs.

    Shape: probabilities (seeds, n, classes). ``train_s`` and the rest are one model's;
    ``fitted_numbers`` are weights, or thresholds and leaf values.
    """

    probabilities: Floats
    train_s: float
    latency_ms: float
    size_bytes: int
    fitted_numbers: int


def latency_ms(answer: Callable[[pd.DataFrame], object], rows: pd.DataFrame) -> float:
    """Median time of the answer to one row, after one that does not count."""
    answer(rows.iloc[[0]])
    times, start = [], time.perf_counter()
    while len(times) < CALLS and time.perf_counter() < start + CALLS_S:
        row = rows.iloc[[len(times) % len(rows)]]
        before = time.perf_counter()
        answer(row)
        times.append(time.perf_counter() - before)
    return 1000 * float(np.median(times))


def folder_bytes(folder: Path) -> int:
    """Size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
