"""MLflow's client of a store that may be a new file, which one process makes at a time."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient

from kd_mlflow.tracking.store import sqlite_file, stores_in_use

MAKING_S = 120
"""How long to wait for another process that makes a store."""


def open_client() -> MlflowClient:
    """MLflow's client; a store that is a new sqlite file has its tables when this returns.

    Several processes that make one file at once would leave it without some of its tables, for
    good. So a lock lies beside the file while it is made. It is there before the file is: who finds
    a file and no lock finds a whole one.
    """
    files = filter(None, map(sqlite_file, stores_in_use()))
    new = [file for file in files if not file.exists() or _lock(file).exists()]
    with ExitStack() as locks:
        for file in new:
            locks.callback(_lock(file).unlink, missing_ok=True)
            locks.enter_context(FileLock(_lock(file), timeout=MAKING_S))
        client = MlflowClient()
        if new:
            client.search_experiments(max_results=1)
            client.search_registered_models(max_results=1)
    return client


def _lock(file: Path) -> Path:
    return file.with_name(f"{file.name}.lock")
