"""Whether MLflow's stores answer, and one line without a password for when they do not."""

from __future__ import annotations

import os
import re
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

import mlflow
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT as NO_LINKS
from mlflow.exceptions import MlflowException
from requests.exceptions import InvalidURL, RequestException, Timeout
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    ProgrammingError,
    SQLAlchemyError,
)

from kd_mlflow.errors import StoreError, first_line

PATIENCE_S = 4
"""How long stores may take to show that they are there, before anything is read or trained."""

NO_ANSWER = f"no answer within {PATIENCE_S} seconds"

TRACKING, REGISTRY = "tracking store", "registry"

DATABASES = ("postgresql", "mysql", "mssql")
"""Databases that MLflow keeps its stores in, beside files of sqlite."""

MYSQL_TLS = {f"ssl_{part}": f"MLFLOW_MYSQL_SSL_{part.upper()}" for part in ("ca", "cert", "key")}
"""MLflow's settings of a connection to MySQL, by its drivers' arguments."""

SETTINGS = {TRACKING: "MLFLOW_TRACKING_URI", REGISTRY: "MLFLOW_REGISTRY_URI"}
"""Where MLflow is told of each."""

FAILURES = (MlflowException, RequestException, SQLAlchemyError)
"""What MLflow's calls raise."""

DENIED = "PERMISSION_DENIED"
EXPIRED = ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")
NOT_LET_IN = (*EXPIRED, DENIED)
"""MLflow's codes for wrong credentials; with ``DENIED`` they are right, and not enough."""

PASSING = (*EXPIRED, "INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
"""MLflow's codes for what may be otherwise in a minute."""

REQUEST_S = 30
"""How long a request may take that can be made again."""

ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's codes for what is not there and for what cannot be the name of anything."""

T = TypeVar("T")

PASSWORD = re.compile(r"(\w:?//[^\s/:@]*):(?!\d+(?:[/\s]|$))(?:[^\s/]*|\S*?)@")
TOKEN_AS_USER = re.compile(r"(\bhttps?://)[^\s/:@]+@")
SECRET_PARAMETER = re.compile(
    r"([?&][^=&\s]*(?:token|passw|pwd|secret|key|sig|credential)[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE
)
CONNECTION = re.compile(r"^HTTPS?Connection\w*\(.*?\): (?:Failed to establish a new connection: )?")


def masked(text: str) -> str:
    """The text with what its addresses hold of passwords and tokens replaced by ``***``.

    >>> masked("no answer from postgresql://me:hush@db/runs?sslkey=abc")
    'no answer from postgresql://me:***@db/runs?sslkey=***'
    """
    text = TOKEN_AS_USER.sub(r"\1***@", PASSWORD.sub(r"\1:***@", text))
    return SECRET_PARAMETER.sub(r"\1***", text)


def check_stores() -> None:
    """Ask the tracking store and the registry once for a sign of life.

    MLflow itself tries for minutes, which suits a long training and no mistyped address. Raises
    StoreError where one of them gives none within ``PATIENCE_S``.
    """
    deadline = time.monotonic() + PATIENCE_S
    for uri, name in stores_in_use().items():
        failures: list[Exception] = []
        thread = threading.Thread(
            target=copy_context().run, args=(_ask, uri, name, failures), daemon=True
        )
        with impatient(timeout_s=PATIENCE_S):
            thread.start()
            thread.join(max(0.0, deadline - time.monotonic()))  # looking a name up has no timeout
        if thread.is_alive():
            failures.append(TimeoutError(NO_ANSWER))
        if failures:
            raise store_error(failures[0], uri) from None


def stores_in_use() -> dict[str, str]:
    """The address of the tracking store, and of the registry where it is another; their names."""
    tracking = mlflow.get_tracking_uri()
    try:
        registry = mlflow.get_registry_uri()
    except ValueError:  # the tracking store's address, which the registry's is made of, is none
        registry = tracking
    return {tracking: TRACKING} | ({registry: REGISTRY} if registry != tracking else {})


def _ask(uri: str, name: str, failures: list[Exception]) -> None:
    """Ask one store; what it raises is put into ``failures``."""
    try:
        kind = urlsplit(uri).scheme.partition("+")[0]
        if kind in ("http", "https"):
            _ask_server(uri, name)
        elif kind == "sqlite":
            _ask_file(sqlite_file(uri))
        elif kind in DATABASES:
            _ask_database(uri, kind)
    except Exception as error:  # drivers and networks may raise anything
        failures.append(error)


def _ask_server(uri: str, name: str) -> None:
    client = MlflowClient(uri, uri)
    ask = client.search_experiments if name == TRACKING else client.search_registered_models
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
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:  # who is busy is there
            raise


@contextmanager
def store_errors() -> Iterator[None]:
    """Raise what MLflow's calls raise in the block, or the decorated function, as StoreError."""
    try:
        yield
    except FAILURES as error:
        raise store_error(error) from None  # a traceback would show addresses as they are


def store_error(error: BaseException, uri: str | None = None) -> StoreError:
    """What to raise for a failure of a store, by default of those in use: one line."""
    asked = {store: name for store, name in stores_in_use().items() if uri in (None, store)}
    stores = " or ".join(f"the {name} {masked(store)}" for store, name in asked.items())
    settings = [SETTINGS[name] for name in asked.values()]
    code = getattr(error, "error_code", "")
    if code in NOT_LET_IN:
        settings += ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"]
    away = unreachable(error)
    away |= isinstance(error, OSError | ImportError | ValueError | sqlite3.Error)
    answer = "does not permit this user to do that" if code == DENIED else "answers with an error"
    fault = "cannot be reached" if away else answer
    return StoreError(
        f"{stores} {fault}: {masked(_reason(error))}; check {', '.join(settings)}",
        unreachable=away,
    )


def unreachable(error: BaseException) -> bool:
    """Whether a failure is that of the way to the store, not an answer of the store's."""
    return any(
        isinstance(link, RequestException)
        or (isinstance(link, StoreError) and link.unreachable)
        or (isinstance(link, DBAPIError) and not isinstance(link.orig, sqlite3.Error))
        for link in _chain(error)
    )


def absent(error: MlflowException) -> bool:
    """Whether MLflow says that there is nothing of the name that it was given."""
    return error.error_code in ABSENT


def passing(error: BaseException) -> bool:
    """Whether a failure may pass: one of the way to the store, its database, a disk or a login."""
    for link in _chain(error):
        if isinstance(link, IntegrityError | DataError | ProgrammingError | PermissionError):
            return False
        if isinstance(link, OSError | DBAPIError):  # a RequestException is an OSError
            return True
    return getattr(error, "error_code", "") in PASSING


def absent_ok(ask: Callable[[], T]) -> T | None:
    """What MLflow answers, or None where there is nothing of the name that it was given."""
    try:
        return ask()
    except MlflowException as error:
        if not absent(error):
            raise
        return None


@contextmanager
def impatient(*, retries: int = 0, timeout_s: float | None = None) -> Iterator[None]:
    """Make requests of the block once, and wait for ``REQUEST_S`` at most: others try again.

    MLflow's settings are the process's: of several threads the last one's hold, and they are given
    back as all have left.
    """
    settings = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
        "MLFLOW_HTTP_REQUEST_TIMEOUT": f"{timeout_s or REQUEST_S:g}",
    }
    with _IMPATIENCE.lock:
        if not _IMPATIENCE.blocks:
            _IMPATIENCE.given = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        _IMPATIENCE.blocks += 1
    try:
        yield
    finally:
        with _IMPATIENCE.lock:
            _IMPATIENCE.blocks -= 1
            for name, text in _IMPATIENCE.given.items() if not _IMPATIENCE.blocks else ():
                if text is None:
                    del os.environ[name]
                else:
                    os.environ[name] = text


class _Impatience:
    """How many blocks are impatient now, and what the settings were before."""

    def __init__(self) -> None:
        self.lock, self.blocks = threading.Lock(), 0
        self.given: dict[str, str | None] = {}


_IMPATIENCE = _Impatience()


@contextmanager
def without_links(links: bool = False) -> Iterator[None]:
    """A server's client prints a link to each run it ends: dozens would bury the closing table."""
    given = NO_LINKS.get()
    NO_LINKS.set(given or not links)
    try:
        yield
    finally:
        NO_LINKS.set(given)


def run_page(uri: str, experiment_id: str, run_id: str) -> str | None:
    """The address of a run's page on a server, without credentials; None for other stores."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return None
    host, path = parts.netloc.rpartition("@")[2], parts.path.rstrip("/") + "/"
    page = f"/experiments/{experiment_id}/runs/{run_id}"
    return urlunsplit((parts.scheme, host, path, "", page))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it was made of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> str:
    """Why, in a few words: libraries wrap the reason in addresses of objects and advice."""
    for link in _chain(error):
        if isinstance(link, Timeout):
            return NO_ANSWER
        if isinstance(link, InvalidURL) or (link is error and isinstance(link, ValueError)):
            return "that is no address"  # the reason would show parts of it, password and all
        if isinstance(link, RequestException):
            inner = getattr(link.args[0], "reason", link) if link.args else link
            return CONNECTION.sub("", str(inner))
        if isinstance(link, DBAPIError):
            return first_line(link.orig or link)
        if isinstance(link, ImportError):
            return f"it needs the Python package {link.name}, which is not installed"
    return first_line(error).partition(". Response body")[0].strip()
