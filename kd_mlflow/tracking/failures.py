"""What MLflow's calls raise, as one line without a password; requests that wait for their store."""

from __future__ import annotations

import logging
import math
import os
import re
import sqlite3
import threading
import time
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

REQUEST_S = 30
"""How long a request may take that can be made again."""

FETCH_RETRIES = 3
"""How often MLflow asks again for files, with pauses of 2, 4 and 8 seconds."""

SHORT_S = 60.0
"""The patience of commands that train nothing."""

ENDING_S = 10.0
"""How long a command that failed waits for the store, to end its runs."""

PAUSE_S, DOUBLINGS = 0.5, 5
"""Between the first two tries; it doubles so many times."""

T = TypeVar("T")

_log = logging.getLogger(__name__)

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
        if error.error_code not in ABSENT:
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


@contextmanager
def impatient(*, retries: int = 0, timeout_s: float | None = None) -> Iterator[None]:
    """Switch MLflow's own retries off in the block; a request ends after ``timeout_s``.

    MLflow's settings are the process's: the last thread's hold for all, and the former ones come
    back when the last thread leaves.
    """
    settings = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
        "MLFLOW_HTTP_REQUEST_TIMEOUT": f"{timeout_s or REQUEST_S:g}",
    }
    with _IMPATIENCE:
        given = {name: os.environ.get(name) for name in settings}
        _GIVEN.append(_GIVEN[0] if _GIVEN else given)
        os.environ.update(settings)
    try:
        yield
    finally:
        with _IMPATIENCE:
            before = _GIVEN.pop()
            for name, text in before.items() if not _GIVEN else ():
                if text is None:
                    del os.environ[name]
                else:
                    os.environ[name] = text


_IMPATIENCE = threading.Lock()
_GIVEN: list[dict[str, str | None]] = []
"""For each block that is impatient now, what the settings were before the first one."""


class Patience:
    """How many seconds a request waits for a store that does not answer.

    Once they are over for one request no other waits: all get the same StoreError, in any thread.
    ``away``: somebody waits now.
    """

    def __init__(
        self,
        seconds: float,
        *,
        now: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        self._seconds, self._now = seconds, now
        self._hurried = threading.Condition()
        self._pause = pause or self._hurried.wait
        self._end = math.inf
        self._over: StoreError | None = None
        self.away = False

    def make(self, request: Callable[[], T], *, find: Callable[[], T | None] = lambda: None) -> T:
        """Make a request, again and again until the store answers; return its answer.

        An answer may be lost on its way: ``find`` looks for what an earlier try has made. A request
        without it must be one that changes nothing the second time. Raises StoreError at once where
        the store refuses for good, and where the patience is over.
        """
        begun, tries = self._now(), 0
        while self._over is None:
            try:
                with impatient(timeout_s=REQUEST_S if self._end == math.inf else PATIENCE_S):
                    found = find() if tries else None
                    answer = request() if found is None else found
                self.away = False
                return answer
            except Exception as error:  # artifact stores raise what they like
                if not passing(error):
                    if isinstance(error, (*FAILURES, PermissionError)):
                        raise store_error(error) from None
                    raise
                failure = store_error(error)
            self._wait(failure, begun, tries)
            tries += 1
        raise StoreError(str(self._over), unreachable=self._over.unreachable)

    def _wait(self, failure: StoreError, begun: float, tries: int) -> None:
        """Wait for the next try, or see that the patience is over."""
        with self._hurried:
            now = self._now()
            left = min(begun + self._seconds, self._end) - now
            if left <= 0:
                waited = f"{failure}; waited {now - begun:,.0f} seconds for it"
                self._over = StoreError(waited, unreachable=failure.unreachable)
                return
            self.away = True
            if not tries:
                _log.warning("waiting for the store, at most %.0f seconds: %s", left, failure)
            self._pause(min(PAUSE_S * 2 ** min(tries, DOUBLINGS), left))

    def hurry(self, error: BaseException) -> None:
        """After an error wait for the store no longer than ``ENDING_S`` from now, in all threads.

        Wait not at all where the error is the store's own, or somebody stops the command.
        """
        at_once = isinstance(error, StoreError) or not isinstance(error, Exception)
        with self._hurried:
            self._end = min(self._end, self._now() + (0 if at_once else ENDING_S))
            self._hurried.notify_all()
