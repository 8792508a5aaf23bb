"""Requests that wait for their store: tried until it answers, and made only once."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from kd_mlflow.errors import StoreError
from kd_mlflow.tracking.failures import FAILURES, PATIENCE_S, passing, store_error

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


def _nothing() -> None:
    """Find nothing: for a request that changes nothing when it is made twice."""


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

    def make(self, request: Callable[[], T], *, find: Callable[[], T | None] = _nothing) -> T:
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
