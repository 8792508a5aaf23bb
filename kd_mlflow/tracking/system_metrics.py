"""MLflow's system metrics of a run, where MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING asks for them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING

from kd_mlflow.tracking.open_run import Point, TrackedRun, now_ms
from kd_mlflow.tracking.store import FAILURES, store_error

TRAINING = ("teachers", "distill", "sweep")
"""Kinds of runs in which something is trained."""

_log = logging.getLogger(__name__)


def _monitor(run: TrackedRun) -> Any:
    """MLflow's monitor, which writes as the run does: a store that goes away gets it all later.

    MLflow's own asks the store before each value, and its end may wait for the store for minutes.

    Raises ImportError where psutil is missing, which MLflow's monitor needs and nothing else does.
    """
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    class Monitor(SystemMetricsMonitor):  # type: ignore[misc]  # mlflow has no types
        def monitor(self) -> None:
            """Collect and log until the run ends; one sample at least, however short it is."""
            try:
                while not self._shutdown_event.is_set():
                    for _ in range(self.samples_before_logging):
                        self.collect_metrics()
                        self._shutdown_event.wait(self.sampling_interval)
                    self.publish_metrics(self.aggregate_metrics())
            except FAILURES as error:  # refused for good
                _log.warning("no more system metrics: %s", store_error(error))

        def publish_metrics(self, metrics: Mapping[str, float]) -> None:
            """Log what was collected, under MLflow's names."""
            prefix = self._metrics_prefix + (f"{self.node_id}/" if self.node_id else "")
            now, step = now_ms(), self._logging_step
            run.curves([Point(f"{prefix}{name}", v, now, step) for name, v in metrics.items()])
            self._logging_step += 1
            for monitor in self.monitors:
                monitor.clear_metrics()

    return Monitor(run.id)


@contextmanager
def system_metrics(run: TrackedRun, kind: str) -> Iterator[None]:
    """Log processor, memory, disk and network of a training as long as the block, if asked to."""
    if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get() or kind not in TRAINING:
        yield
        return
    try:
        monitor = _monitor(run)
    except ImportError:
        _log.warning("no system metrics: pip install psutil")
        yield
        return
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
