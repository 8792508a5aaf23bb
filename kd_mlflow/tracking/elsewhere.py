"""Another tracking server, in use for a while; then the former one is again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow

from kd_mlflow.tracking.failures import elsewhere, store_errors

SETTINGS = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
)
"""What MLflow knows its server by, and what is of one server alone."""


@contextmanager
def on_server(uri: str) -> Iterator[None]:
    """Let MLflow's tracking and registry be those of an address, for the whole process.

    What it answers with an error is raised as StoreError, which names ``to_uri``.
    """
    before = {name: os.environ.pop(name, None) for name in SETTINGS}
    _use(uri)
    token = elsewhere.set(True)
    try:
        with store_errors():
            yield
    finally:
        elsewhere.reset(token)
        _use(None)
        for name, text in before.items():
            if text is not None:
                os.environ[name] = text


def _use(uri: str | None) -> None:
    """None is the server of the environment; MLflow writes there which one it was told to use."""
    mlflow.set_registry_uri(uri)
    mlflow.set_tracking_uri(uri)
    os.environ.pop("MLFLOW_REGISTRY_URI", None)
