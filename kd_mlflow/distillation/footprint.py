"""What a student costs to run: time for a row, bytes of its files, size of what it needs."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict
from importlib import metadata
from typing import NamedTuple

import pandas as pd

from kd_mlflow.distillation.student_module import StudentModule
from kd_mlflow.serving import scoring

CALLS, WARM_UP = 100, 10


class Footprint(NamedTuple):
    """What a student costs to run.

    ``latency_ms`` is of one row, encoded and scored without MLflow; ``environment_bytes`` are of
    the packages that the model requires, as they are installed where it was trained.
    """

    latency_ms: float
    model_bytes: int
    environment_bytes: int

    @property
    def metrics(self) -> dict[str, float]:
        """Its numbers by the names under which they are logged."""
        return {f"registered_{name}": value for name, value in self._asdict().items()}


def latency_ms(module: StudentModule, row: pd.DataFrame) -> float:
    """Median time to encode and score one row in this process, without MLflow."""
    columns = [asdict(column) for column in module.encoding.columns]
    network, times = scoring.Network(module.arrays), []
    for _ in range(WARM_UP + CALLS):
        start = time.perf_counter()
        network.probabilities(scoring.encode(row, columns))
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[WARM_UP:])


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
