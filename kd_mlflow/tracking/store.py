"""MLflow's stores: whether they answer, a new one made whole, another one for a while."""

from __future__ import annotations

import logging
import os
import shlex
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from contextvars import copy_context
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from sqlalchemy import create_engine, make_url

from kd_mlflow.tracking import failures

DATABASES = ("postgresql", "mysql", "mssql")
"""Databases that MLflow keeps its stores in, beside files of sqlite."""

MYSQL_TLS = {f"ssl_{part}": f"MLFLOW_MYSQL_SSL_{part.upper()}" for part in ("ca", "cert", "key")}
"""MLflow's settings of a connection to MySQL, by its drivers' arguments."""

UI, VIEW = "http://127.0.0.1:5000", "workflowType=machine_learning"
"""Where ``mlflow ui`` answers; what makes its pages show training, not language models."""

MAKING_S = 120
"""How long to wait for another process that makes a store."""

SERVER = "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"
"""What MLflow knows its server by, and what is of one server alone."""


def check_stores() -> None:
    """Ask the tracking store and the registry once for a sign of life.

    MLflow itself tries for minutes, which suits a long training and no mistyped address. Raises
    StoreError where one of them gives none within ``PATIENCE_S``.
    """
    deadline = time.monotonic() + failures.PATIENCE_S
    for uri, name in failures.stores_in_use().items():
        raised: list[Exception] = []
        thread = threading.Thread(
            target=copy_context().run, args=(_ask, uri, name, raised), daemon=True
        )
        with failures.impatient(timeout_s=failures.PATIENCE_S):
            thread.start()
            thread.join(max(0.0, deadline - time.monotonic()))  # looking a name up has no timeout
        if thread.is_alive():
            raised.append(TimeoutError(failures.NO_ANSWER))
        if raised:
            raise failures.store_error(raised[0], uri) from None


def _ask(uri: str, name: str, raised: list[Exception]) -> None:
    """Ask one store; what it raises is put into ``raised``."""
    try:
        kind = urlsplit(uri).scheme.partition("+")[0]
        if kind in ("http", "https"):
            _ask_server(uri, name)
        elif kind == "sqlite":
            _ask_file(sqlite_file(uri))
        elif kind in DATABASES:
            _ask_database(uri, kind)
    except Exception as error:  # drivers and networks may raise anything
        raised.append(error)


def _ask_server(uri: str, name: str) -> None:
    client = MlflowClient(uri, uri)
    tracks = name == failures.TRACKING
    ask = client.search_experiments if tracks else client.search_registered_models
    ask(max_results=1)


def _ask_database(uri: str, kind: str) -> None:
    """Connect without MLflow, which would make its tables, and try for minutes."""
    settings = MYSQL_TLS if kind == "mysql" else {}
    given = {part: path for part, name in settings.items() if (path := os.environ.get(name))}
    engine = create_engine(uri, connect_args=given)
    engine.connect().close()
    engine.dispose()


def sqlite_file(uri: str) -> Path | None:
    """The file of an sqlite store's address; None for other stores, and for one in memory."""
    if urlsplit(uri).scheme.partition("+")[0] != "sqlite":
        return None
    path = make_url(uri).database
    return Path(path) if path and path != ":memory:" and not path.startswith("file:") else None


def _ask_file(file: Path | None) -> None:
    """Look at an sqlite file without making it: MLflow would make even its folder."""
    if file is None:
        return
    if not file.parent.is_dir():
        raise FileNotFoundError(f"the folder {file.parent} does not exist")
    if not file.exists():
        try:
            tempfile.TemporaryFile(dir=file.parent).close()
        except OSError as error:
            fault = f"no file can be made in {file.parent}: {error.strerror}"
            raise PermissionError(fault) from None
        return
    try:
        read_only = f"{file.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(read_only, uri=True, timeout=0)) as database:
            database.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        # who is busy is there; what a killed process left half written is undone by who writes next
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_READONLY):
            raise


def open_client() -> MlflowClient:
    """MLflow's client; a store that is a new sqlite file has its tables when this returns.

    Several processes that make one file at once would leave it without some of its tables, for
    good. So a lock lies beside the file while it is made. It is there before the file is: who finds
    a file and no lock finds a whole one.
    """
    # of errors that are raised too; its lines have the SQL and all values
    logging.getLogger("mlflow.store.db.utils").addFilter(_is_no_error)
    files = filter(None, map(sqlite_file, failures.stores_in_use()))
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


def _is_no_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


def _lock(file: Path) -> Path:
    return file.with_name(f"{file.name}.lock")


def runs_page(uri: str, experiment_id: str, view: str) -> str | None:
    """The address of an experiment's list of runs as a saved view shows it, like ``run_page``."""
    page = run_page(uri, experiment_id, "")
    return page and page.replace("/runs/?", "/runs?") + f"&viewStateShareKey={view}"


def ui_command(stores: Mapping[str, str]) -> str | None:
    """What starts MLflow's pages of stores in databases; None where a server has them already.

    ``mlflow ui`` alone would open a new store of the folder it is in. An address with a password is
    not printed: the variable that has it is named instead.
    """
    options = {failures.TRACKING: "backend", failures.REGISTRY: "registry"}
    words = ["mlflow ui"]
    for uri, name in stores.items():
        scheme = urlsplit(uri).scheme.partition("+")[0]
        if scheme not in ("sqlite", *DATABASES):
            return None
        file = sqlite_file(uri)
        whole = f"sqlite:///{file.resolve().as_posix()}" if file else uri
        if failures.masked(whole) == whole:
            known = shlex.quote(whole)
        else:
            known = f'"${failures.ADDRESS_SETTINGS[name]}"'
        words.append(f"--{options[name]}-store-uri {known}")
    return " ".join(words)


def run_page(uri: str, experiment_id: str, run_id: str, file: str = "") -> str | None:
    """The address of a run's page or file, without credentials: on its server, or of mlflow ui."""
    parts = urlsplit(uri)
    if parts.scheme.partition("+")[0] in ("sqlite", *DATABASES):
        parts = urlsplit(UI)
    if parts.scheme not in ("http", "https"):
        return None
    host, path = parts.netloc.rpartition("@")[2], parts.path.rstrip("/") + "/"
    shown = f"/artifacts/{file}" if file else ""
    page = f"/experiments/{experiment_id}/runs/{run_id}{shown}?{VIEW}"
    return urlunsplit((parts.scheme, host, path, "", page))


@contextmanager
def on_server(uri: str) -> Iterator[None]:
    """Let MLflow's tracking and registry be those of ``to_uri``, for the whole process."""
    before = {name: os.environ.pop(name, None) for name in SERVER}
    _use(uri)
    token = failures.elsewhere.set(True)
    try:
        with failures.store_errors():
            yield
    finally:
        failures.elsewhere.reset(token)
        _use(None)
        for name, text in before.items():
            if text is not None:
                os.environ[name] = text


def _use(uri: str | None) -> None:
    """None is the server of the environment; MLflow writes there which one it was told to use."""
    mlflow.set_registry_uri(uri)
    mlflow.set_tracking_uri(uri)
    os.environ.pop("MLFLOW_REGISTRY_URI", None)
