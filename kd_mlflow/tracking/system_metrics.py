"""MLflow's system metrics of a run, where MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING asks for them.

What collects them is the one thing of MLflow that this package uses and its documentation does not
name. A release that has it no longer, or elsewhere, logs none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING

from kd_mlflow.errors import first_line
from kd_mlflow.tracking.open_run import Point, TrackedRun, now_ms
from kd_mlflow.tracking.store import FAILURES, store_error

TRAINING = ("teachers", "distill", "sweep")
"""Kinds of runs in which something is trained."""

_log = logging.getLogger(__name__)


@contextmanager
def system_metrics(run: TrackedRun, kind: str) -> Iterator[None]:
    """Log processor, memory, disk and network of a training as long as the block, if asked to."""
    if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get() or kind not in TRAINING:
        yield
        return
    ended = Event()
    thread = Thread(target=_log_samples, args=(run, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _log_samples(run: TrackedRun, ended: Event) -> None:
    """Log until the training ends; what fails ends the metrics, with one warning."""
    try:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        _sample(SystemMetricsMonitor(run.id), run, ended)
    except Exception as error:  # no psutil, another MLflow: a training is worth more than these
        _log.warning("no system metrics: %s", _reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "psutil":
        return "pip install psutil"
    return str(store_error(error)) if isinstance(error, FAILURES) else first_line(error)


def _sample(monitor: Any, run: TrackedRun, ended: Event) -> None:
    """Collect as MLflow does, and write as the run does: a store that is away gets it all later.

    One sample at least, however short the training is. MLflow's own thread would ask the store
    before each value, and its end may wait for the store for minutes.
    """
    prefix, step = f"system/{monitor.node_id}/" if monitor.node_id else "system/", 0
    while step == 0 or not ended.is_set():
        for _ in range(monitor.samples_before_logging):
            monitor.collect_metrics()
            ended.wait(monitor.sampling_interval)
        values, now = monitor.aggregate_metrics(), now_ms()
        run.curves([Point(f"{prefix}{name}", v, now, step) for name, v in values.items()])
        for each in monitor.monitors:
            each.clear_metrics()
        step += 1
