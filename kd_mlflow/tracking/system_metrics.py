"""MLflow's system metrics of a run, where MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING asks for them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from kd_mlflow.errors import StoreError
from kd_mlflow.tracking.curves import CurveWriter
from kd_mlflow.tracking.open_run import TrackedRun

TRAINING = ("teachers", "distill", "sweep")
"""Kinds of runs in which something is trained."""

_log = logging.getLogger(__name__)


class _Monitor(SystemMetricsMonitor):  # type: ignore[misc]  # mlflow has no types
    """MLflow's monitor, whose values go the way of curves: they wait for a store that is away.

    MLflow's own asks the store before each value, and its end may wait for the store for minutes.
    """

    def __init__(self, run: TrackedRun, curves: CurveWriter) -> None:
        super().__init__(run.id)
        self._curves = curves

    def monitor(self) -> None:
        """Collect and log until the run ends; one sample at least, however short it is."""
        try:
            while not self._shutdown_event.is_set():
                for _ in range(self.samples_before_logging):
                    self.collect_metrics()
                    self._shutdown_event.wait(self.sampling_interval)
                self.publish_metrics(self.aggregate_metrics())
        except StoreError as error:  # the writer says so too, as it is closed
            _log.warning("no more system metrics: %s", error)

    def publish_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log what was collected, under MLflow's names."""
        prefix = self._metrics_prefix + (f"{self.node_id}/" if self.node_id else "")
        values = {f"{prefix}{name}": np.array([float(value)]) for name, value in metrics.items()}
        self._curves.on_epoch(slice(0, 1), self._logging_step, values)
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()


@contextmanager
def system_metrics(run: TrackedRun, kind: str) -> Iterator[None]:
    """Log processor, memory, disk and network of a training as long as the block, if asked to."""
    if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get() or kind not in TRAINING:
        yield
        return
    curves = CurveWriter([run])
    try:
        monitor = _Monitor(run, curves)
    except Exception as error:  # psutil is missing: a training is worth more than its metrics
        _log.warning("no system metrics: %s", error)
        yield
        return
    with curves:
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()
