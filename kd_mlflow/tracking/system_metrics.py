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

import numpy as np
from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING

from kd_mlflow.errors import first_line
from kd_mlflow.tracking.curves import CurveWriter
from kd_mlflow.tracking.open_run import TrackedRun

TRAINED_KINDS = ("teachers", "distill", "sweep")
"""Kinds of runs in which something is trained."""

_log = logging.getLogger(__name__)


@contextmanager
def system_metrics(run: TrackedRun, kind: str) -> Iterator[None]:
    """Log processor, memory, disk and network of a training as long as the block, if asked to.

    They go the way of curves: they wait for a store that is away.
    """
    if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get() or kind not in TRAINED_KINDS:
        yield
        return
    ended = Event()
    with CurveWriter([run]) as curves:
        thread = Thread(target=_log_samples, args=(run, curves, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _log_samples(run: TrackedRun, curves: CurveWriter, ended: Event) -> None:
    """Log until the training ends; what fails ends the metrics, with one warning."""
    try:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        _sample(SystemMetricsMonitor(run.id), curves, ended)
    except Exception as error:  # no psutil, another MLflow: a training is worth more than these
        missing = isinstance(error, ModuleNotFoundError) and error.name == "psutil"
        _log.warning(
            "no system metrics: %s", "pip install psutil" if missing else first_line(error)
        )


def _sample(monitor: Any, curves: CurveWriter, ended: Event) -> None:
    """Collect as MLflow does; one sample at least, however short the training is.

    MLflow's own thread would ask the store before each value, and its end may wait for it.
    """
    prefix, step = f"system/{monitor.node_id}/" if monitor.node_id else "system/", 0
    while step == 0 or not ended.is_set():
        for _ in range(monitor.samples_before_logging):
            monitor.collect_metrics()
            ended.wait(monitor.sampling_interval)
        values = {
            f"{prefix}{name}": np.array([v]) for name, v in monitor.aggregate_metrics().items()
        }
        curves.on_epoch(slice(0, 1), step, values)
        for each in monitor.monitors:
            each.clear_metrics()
        step += 1
