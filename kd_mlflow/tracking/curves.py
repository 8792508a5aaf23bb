"""Curves of many runs to MLflow while they are trained, in few requests."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from kd_mlflow.tracking.open_run import Point, TrackedRun, now_ms
from kd_mlflow.tracking.store import FAILURES, store_error

FLUSH_S = 5.0
AWAY_FLUSHES = 12
"""While the store is away values are kept in so many times larger portions."""

METRICS_A_BATCH = 1000


class CurveWriter:
    """Writes curves of several runs while they are trained: in batches, about every five seconds.

    ``on_epoch`` may be called from any thread and only appends; one thread of this writer talks to
    MLflow, so the number of requests follows time and runs, never steps. Training goes on whatever
    becomes of them; what a store refuses for good is raised when the writer is closed.
    """

    def __init__(self, runs: Sequence[TrackedRun], *, flush_s: float = FLUSH_S) -> None:
        self._runs = runs
        self._flush_s = flush_s
        self._pending: dict[str, list[Point]] = {run.id: [] for run in runs}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="curves", daemon=True)

    def on_epoch(
        self, members: slice, epoch: int, values: Mapping[str, NDArray[np.float64]]
    ) -> None:
        """Take each curve's values of some members; NaN is no value.  Shape of each: (members,)."""
        now = now_ms()
        with self._lock:
            for name, column in values.items():
                for run, value in zip(self._runs[members], column, strict=True):
                    if not np.isnan(value):
                        self._pending[run.id].append(Point(name, float(value), now, epoch))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure and kind is None:
            raise self._failure

    def _work(self) -> None:
        try:
            while not self._stop.wait(self._flush_s * (AWAY_FLUSHES if self._away else 1)):
                self._flush()
            self._flush()
        except FAILURES as failure:  # what it came from would be lost on its way between threads
            self._failure = store_error(failure)
        except Exception as failure:  # handed to the thread that trains
            self._failure = failure

    @property
    def _away(self) -> bool:
        return any(run.journal.away for run in self._runs)

    def _flush(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, {run.id: [] for run in self._runs}
        for run in self._runs:
            points = pending[run.id]
            for start in range(0, len(points), METRICS_A_BATCH):
                run.curves(points[start : start + METRICS_A_BATCH])
