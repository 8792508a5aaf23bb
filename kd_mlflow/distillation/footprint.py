"""What a student costs to run: time for a row, bytes of its files, size of what it needs."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kd_mlflow.distillation.student_module import StudentModule
from kd_mlflow.serving import scoring

CALLS, WARM_UP = 100, 10
"""Calls that a median is of; one of so many more goes before, and does not count."""

TIMED_S = 0.5
"""Seconds that a median is measured for, at most: an ensemble may be slow."""

MANY_ROWS, CALLS_OF_MANY = 1_000, 10
"""Rows that are scored at once to tell what each of many takes, and how often."""


class Served(NamedTuple):
    """A model as it is served, without MLflow: what encodes raw rows, and what scores them.

    The second gets encoded and raw rows.
    """

    encode: Callable[[pd.DataFrame], Any]
    score: Callable[[Any, pd.DataFrame], object]


class Speed(NamedTuple):
    """How fast a model is in one process, without MLflow.

    ``latency_ms`` is the time of one row alone, from raw columns to probabilities; ``bulk_us`` that
    of each of a thousand, once their columns are encoded, which takes all models the same.
    """

    latency_ms: float
    bulk_us: float

    @classmethod
    def names(cls, model: str) -> list[str]:
        """What its numbers are called as metrics of a model."""
        return [f"{model}_{name}" for name in cls._fields]

    @classmethod
    def of(cls, model: str, metrics: Mapping[str, float]) -> Speed:
        """Find it among metrics."""
        return cls(*(metrics[name] for name in cls.names(model)))

    def metrics(self, model: str) -> dict[str, float]:
        """Its numbers by the names under which they are logged."""
        return dict(zip(self.names(model), self, strict=True))


class Footprint(NamedTuple):
    """What a student costs to run, and how fast its ensemble is as it would be served.

    ``environment_bytes`` are of the packages that the model requires, as they are installed where
    it was trained.
    """

    speed: Speed
    ensemble: Speed
    model_bytes: int
    environment_bytes: int

    @property
    def metrics(self) -> dict[str, float]:
        """Its numbers by the names under which they are logged."""
        return {
            **self.speed.metrics("registered"),
            "registered_model_bytes": self.model_bytes,
            "registered_environment_bytes": self.environment_bytes,
            **self.ensemble.metrics("ensemble"),
            "latency_ratio": self.latency_ratio,
            "bulk_ratio": self.bulk_ratio,
        }

    @property
    def latency_ratio(self) -> float:
        """How many times longer one row alone takes the ensemble."""
        return self.ensemble.latency_ms / self.speed.latency_ms

    @property
    def bulk_ratio(self) -> float:
        """How many times longer each of a thousand rows takes the ensemble."""
        return self.ensemble.bulk_us / self.speed.bulk_us


def served(module: StudentModule) -> Served:
    """A student as it is served."""
    columns = [column.to_dict() for column in module.encoding.columns]
    network = scoring.Network(module.arrays)
    return Served(
        encode=lambda rows: scoring.encode(rows, columns),
        score=lambda encoded, _: network.probabilities(encoded),
    )


def speed(model: Served, rows: pd.DataFrame) -> Speed:
    """Time a model on the first of some rows, and on all of them, taken again up to a thousand."""
    encode, score = model
    one, many = rows.head(1), rows.iloc[np.resize(np.arange(len(rows)), MANY_ROWS)]
    encoded = encode(many)
    many_ms = median_ms(lambda: score(encoded, many), CALLS_OF_MANY)
    one_ms = median_ms(lambda: score(encode(one), one), CALLS)
    return Speed(latency_ms=one_ms, bulk_us=1e3 * many_ms / MANY_ROWS)


def median_ms(answer: Callable[[], object], calls: int | None = None) -> float:
    """Median time of a call, of so many as there is time for, after some that do not count."""
    times: list[float] = []
    calls = CALLS if calls is None else calls
    warm_up, until = calls // WARM_UP, time.perf_counter() + TIMED_S
    while len(times) < warm_up + calls and (len(times) < 2 or time.perf_counter() < until):
        start = time.perf_counter()
        answer()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[min(warm_up, len(times) // 2) :])


def environment_bytes(requirements: Iterable[str]) -> int:
    """Bytes of the packages that requirements name and of all that these require, as installed.

    What is required by extras or on other platforms, and is not installed, does not count.
    """
    waiting = list(requirements)
    found: dict[str, int] = {}
    while waiting:
        named = re.match(r"[\w.-]+", waiting.pop())
        name = re.sub(r"[-_.]+", "-", named[0]).lower() if named else ""
        if name and name not in found and (package := _installed(name)):
            found[name], more = package
            waiting += more
    return sum(found.values())


@cache
def _installed(name: str) -> tuple[int, tuple[str, ...]] | None:
    """Bytes of an installed package, and what it requires; read once by a process."""
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    needed = tuple(text for text in package.requires or () if "extra ==" not in text)
    return _bytes(package.read_text("RECORD") or ""), needed


def _bytes(record: str) -> int:
    """The sizes that a package's list of files gives: the last cell of each line."""
    sizes = (line.rpartition(",")[2] for line in record.splitlines())
    return sum(int(size) for size in sizes if size.isdigit())
