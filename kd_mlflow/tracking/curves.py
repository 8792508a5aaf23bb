"""Curves of many runs to MLflow while they are trained, in few requests; its system metrics too.

What collects those is the one thing of MLflow that this package uses and its documentation does not
name. A release that has it no longer, or elsewhere, logs none.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

import numpy as np
from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
from numpy.typing import NDArray

from kd_mlflow.errors import StoreError, first_line
from kd_mlflow.tracking.failures import PATIENCE_S
from kd_mlflow.tracking.open_run import Point, TrackedRun, now_ms

FLUSH_S = 5.0

METRICS_A_BATCH = 1000

MOST_WAITING = 1_000_000
"""Values that wait for a store that is away, at most: some 200 MB."""

_log = logging.getLogger(__name__)


class CurveWriter:
    """Writes curves of several runs while they are trained: in batches, about every five seconds.

    ``on_epoch`` may be called from any thread and only appends; one thread of this writer talks to
    MLflow, so the number of requests follows time and runs, never steps. While the store is away
    the values wait in memory and training goes on. Once the runs' patience is over, or where the
    store refuses for good, ``on_epoch`` raises StoreError, and so does closing the writer.
    """

    def __init__(self, runs: Sequence[TrackedRun], *, flush_s: float = FLUSH_S) -> None:
        self._runs = runs
        self._flush_s = flush_s
        self._pending: dict[str, list[Point]] = {run.id: [] for run in runs}
        self._waiting = 0
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
            if self._waiting > MOST_WAITING and self._runs[0].patience.away:
                self._failure = StoreError(
                    f"the store is away, and {self._waiting:,} values of curves wait for it: "
                    "no more are kept"
                )
            if self._failure:
                raise self._failure
            for name, column in values.items():
                for run, value in zip(self._runs[members], column, strict=True):
                    if not np.isnan(value):
                        self._pending[run.id].append(Point(name, float(value), now, epoch))
                        self._waiting += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._stop.set()
        if error is None:
            self._thread.join()
            if self._failure:
                raise self._failure
        else:
            self._runs[0].patience.hurry(error)
            self._thread.join(PATIENCE_S)

    def _work(self) -> None:
        try:
            while not self._stop.wait(self._flush_s):
                self._flush()
            self._flush()
        except Exception as failure:  # handed to the threads that train
            self._failure = failure

    def _flush(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, {run.id: [] for run in self._runs}
        for run in self._runs:
            points = pending[run.id]
            for start in range(0, len(points), METRICS_A_BATCH):
                batch = points[start : start + METRICS_A_BATCH]
                run.curves(batch)
                with self._lock:
                    self._waiting -= len(batch)


@contextmanager
def system_metrics(run: TrackedRun, kind: str) -> Iterator[None]:
    """Log processor, memory, disk and network of a training, if asked to, the way of curves."""
    trains = kind in ("teachers", "distill", "sweep")
    if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get() or not trains:
        yield
        return
    ended = threading.Event()
    with CurveWriter([run]) as curves:
        thread = threading.Thread(target=_log_samples, args=(run, curves, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _log_samples(run: TrackedRun, curves: CurveWriter, ended: threading.Event) -> None:
    """Log until the training ends; what fails ends the metrics, with one warning.

    One sample at least, however short the training is. MLflow's own thread would ask the store
    before each value, and its end may wait for it.
    """
    try:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor, step = SystemMetricsMonitor(run.id), 0
        while step == 0 or not ended.is_set():
            for _ in range(monitor.samples_before_logging):
                monitor.collect_metrics()
                ended.wait(monitor.sampling_interval)
            prefix = f"system/{monitor.node_id}/" if monitor.node_id else "system/"
            means = monitor.aggregate_metrics().items()
            curves.on_epoch(slice(0, 1), step, {f"{prefix}{n}": np.array([v]) for n, v in means})
            for each in monitor.monitors:
                each.clear_metrics()
            step += 1
    except Exception as error:  # no psutil, another MLflow: a training is worth more than these
        missing = isinstance(error, ModuleNotFoundError) and error.name == "psutil"
        _log.warning(
            "no system metrics: %s", "pip install psutil" if missing else first_line(error)
        )
