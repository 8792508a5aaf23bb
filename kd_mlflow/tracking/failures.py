"""What MLflow's calls raise, as one line without a password, and what may pass."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import mlflow
from mlflow.exceptions import MlflowException
from requests.exceptions import InvalidURL, RequestException, Timeout
from sqlalchemy import exc
from sqlalchemy.exc import DBAPIError

from kd_mlflow.errors import StoreError, first_line

PATIENCE_S = 4
"""How long stores may take to show that they are there, before anything is read or trained."""

NO_ANSWER = f"no answer within {PATIENCE_S} seconds"

TRACKING, REGISTRY = "tracking store", "registry"

ADDRESS_SETTINGS = {TRACKING: "MLFLOW_TRACKING_URI", REGISTRY: "MLFLOW_REGISTRY_URI"}
"""Where MLflow is told of each."""

FAILURES = (MlflowException, RequestException, exc.SQLAlchemyError)
"""What MLflow's calls raise."""

DENIED = "PERMISSION_DENIED"
EXPIRED = ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")
NOT_LET_IN = (*EXPIRED, DENIED)
"""MLflow's codes for wrong credentials and, ``DENIED``, for right ones without the permission."""

PASSING = (*EXPIRED, "INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
"""MLflow's codes for what may be otherwise in a minute."""

ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's codes for what is not there and for what cannot be the name of anything."""

T = TypeVar("T")

PASSWORD = re.compile(r"(\w:?//[^\s/:@]*):(?!\d+(?:[/\s]|$))(?:[^\s/]*|\S*?)@")
TOKEN_AS_USER = re.compile(r"(\bhttps?://)[^\s/:@]+@")
SECRET_PARAMETER = re.compile(
    r"([?&][^=&\s]*(?:token|passw|pwd|secret|key|sig|credential)[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE
)
SQL = re.compile(r"\s*\[SQL: .*", re.DOTALL)
CONNECTION = re.compile(r"^HTTPS?Connection\w*\(.*?\): (?:Failed to establish a new connection: )?")


def masked(text: str) -> str:
    """Replace passwords and tokens in the addresses of a text by ``***``.

    A database's error loses its SQL, which has the values that were to be written.

    >>> masked("no answer from postgresql://me:hush@db/runs?sslkey=abc")
    'no answer from postgresql://me:***@db/runs?sslkey=***'
    """
    text = TOKEN_AS_USER.sub(r"\1***@", PASSWORD.sub(r"\1:***@", text))
    return SECRET_PARAMETER.sub(r"\1***", SQL.sub("", text))


elsewhere: ContextVar[bool] = ContextVar("elsewhere", default=False)
"""Whether the store in use is the one of the option ``to_uri``."""


def stores_in_use() -> dict[str, str]:
    """Names of the stores in use by their addresses; the registry only where it is another one."""
    tracking = mlflow.get_tracking_uri()
    try:
        registry = mlflow.get_registry_uri()
    except ValueError:  # the tracking store's address, which the registry's is made of, is none
        registry = tracking
    return {tracking: TRACKING} | ({registry: REGISTRY} if registry != tracking else {})


@contextmanager
def store_errors() -> Iterator[None]:
    """Raise what MLflow's calls raise in the block, or the decorated function, as StoreError."""
    try:
        yield
    except FAILURES as error:
        raise store_error(error) from None  # a traceback would show addresses as they are


def store_error(error: BaseException, uri: str | None = None) -> StoreError:
    """The error to raise for a failure, one line; it names the store of ``uri``, or all in use."""
    asked = {store: name for store, name in stores_in_use().items() if uri in (None, store)}
    stores = " or ".join(f"the {name} {masked(store)}" for store, name in asked.items())
    settings = ["to_uri" if elsewhere.get() else ADDRESS_SETTINGS[name] for name in asked.values()]
    code = getattr(error, "error_code", "")
    if code in NOT_LET_IN:
        settings += ["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"]
    if "certificate" in (reason := _reason(error)).lower():
        settings.append("MLFLOW_TRACKING_SERVER_CERT_PATH")
    away = unreachable(error)
    away |= isinstance(error, OSError | ImportError | ValueError | sqlite3.Error)
    answer = "does not permit this user to do that" if code == DENIED else "answers with an error"
    fault = "cannot be reached" if away else answer
    return StoreError(
        f"{stores} {fault}: {masked(reason)}; check {', '.join(settings)}", unreachable=away
    )


def fetch_error(error: BaseException, what: str) -> StoreError:
    """The error to raise where files do not come, whose store may be another than that of runs."""
    reason = str(store_error(error))
    return StoreError(f"{what} cannot be fetched now, try again later: {reason}", unreachable=True)


def unreachable(error: BaseException) -> bool:
    """Whether the store could not be reached, as opposed to answering with an error."""
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
    """Whether to try again may help: the network, a database, a disk or a login failed."""
    for link in _chain(error):
        if isinstance(link, (exc.IntegrityError, exc.DataError, exc.ProgrammingError)):
            return False
        if isinstance(link, PermissionError):
            return False
        if isinstance(link, DBAPIError) and "syntax error" in str(link.orig):
            return False  # MLflow writes the folder into its SQL as it is: with ' and " it is none
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


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, the outermost first."""
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
