"""What a student costs to run: time for a row, bytes of its files, size of what it needs."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib import metadata
from typing import NamedTuple

import pandas as pd

from kd_mlflow.distillation.student_module import StudentModule
from kd_mlflow.serving import scoring

CALLS, WARM_UP = 100, 10
TIMED_S = 0.5
"""Seconds that a median is measured for, at most: an ensemble may be slow."""


class Footprint(NamedTuple):
    """What a student costs to run.

    ``latency_ms`` is of one row, encoded and scored without MLflow, ``ensemble_latency_ms`` the
    ensemble's in the same process; ``environment_bytes`` are of the packages that the model
    requires, as they are installed where it was trained.
    """

    latency_ms: float
    ensemble_latency_ms: float
    model_bytes: int
    environment_bytes: int

    @property
    def metrics(self) -> dict[str, float]:
        """Its numbers by the names under which they are logged."""
        beside = {"ensemble_latency_ms": self.ensemble_latency_ms, "latency_ratio": self.faster}
        own = {f"registered_{n}": v for n, v in self._asdict().items() if n not in beside}
        return own | beside

    @property
    def faster(self) -> float:
        """How many times longer one row takes the ensemble."""
        return self.ensemble_latency_ms / self.latency_ms


def latency_ms(module: StudentModule, row: pd.DataFrame) -> float:
    """Median time to encode and score one row in this process, without MLflow."""
    columns = [asdict(column) for column in module.encoding.columns]
    network = scoring.Network(module.arrays)
    return median_ms(lambda: network.probabilities(scoring.encode(row, columns)))


def median_ms(answer: Callable[[], object]) -> float:
    """Median time of a call, of so many as there is time for, after some that do not count."""
    times: list[float] = []
    until = time.perf_counter() + TIMED_S
    while len(times) < WARM_UP + CALLS and (len(times) < 2 or time.perf_counter() < until):
        start = time.perf_counter()
        answer()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[min(WARM_UP, len(times) // 2) :])


def environment_bytes(requirements: Iterable[str]) -> int:
    """Bytes of the packages that requirements name and of all that these require, as installed.

    What is required by extras or on other platforms, and is not installed, does not count.
    """
    waiting = list(requirements)
    found: dict[str, int] = {}
    while waiting:
        named = re.match(r"[\w.-]+", waiting.pop())
        name = re.sub(r"[-_.]+", "-", named[0]).lower() if named else ""
        if not name or name in found:
            continue
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = _bytes(package.read_text("RECORD") or "")
        waiting += [text for text in package.requires or () if "extra ==" not in text]
    return sum(found.values())


def _bytes(record: str) -> int:
    """The sizes that a package's list of files gives: the last cell of each line."""
    sizes = (line.rpartition(",")[2] for line in record.splitlines())
    return sum(int(size) for size in sizes if size.isdigit())
