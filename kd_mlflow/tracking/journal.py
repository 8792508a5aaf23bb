"""Makes operations in order: at once while the store answers; else they wait, and work goes on."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import mlflow
from mlflow import MlflowClient

from kd_mlflow.tracking.operations import Operation, perform
from kd_mlflow.tracking.outbox import Answer, Outbox
from kd_mlflow.tracking.store import answered, answers, impatient, masked, passing, store_error

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 15.0
"""Between two tries to deliver what waits; the time doubles."""

SETTLE_S = 10.0
"""How long the end of a run waits for a store that is away."""

TRIES = 5
"""An operation that a store which answers has refused so often is put aside."""

_log = logging.getLogger(__name__)


class Journal:
    """All that is written to a store goes through one.

    Operations are made in their order, each once. When the store does not answer they are kept, on
    disk too, and a thread makes them once it does: nothing that is written waits for it. What is
    left at the end stays in the outbox, for ``kd-mlflow sync``.
    """

    def __init__(self, client: Callable[[], MlflowClient]) -> None:
        self._client = client
        self._waiting: deque[_Waiting] = deque()
        self._ids: dict[str, str] = {}
        self._lock = threading.RLock()
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._outbox: Outbox | None = None
        self._holding = ExitStack()
        self._refused: list[str] = []
        self._open: set[str] = set()
        self._failure: BaseException | None = None

    @property
    def away(self) -> bool:
        """Whether something waits for the store."""
        return bool(self._waiting)

    @property
    def failure(self) -> BaseException | None:
        """Why the store did not take what waits, at its last try."""
        return self._failure if self._waiting else None

    def make(self, operation: Operation) -> str:
        """Make an operation, now or later; return the id of what it makes.

        That is the store's, or one that stands for it until it is made. Raises what MLflow raises
        where the store answers and refuses for good.
        """
        with self._lock:
            waiting = bool(self._waiting)
            if waiting:
                self._keep(operation)
                return operation.id
        try:
            return self._perform(operation, again=False)
        except Exception as error:
            if not passing(error):
                raise
            self._failure = error
        with self._lock:
            self._keep(operation)
        return operation.id

    def make_now(self, operation: Operation) -> str:
        """Make an operation that nothing can go on without; a failing request is made again."""
        for wait in (FIRST_WAIT_S, 2 * FIRST_WAIT_S):
            try:
                return self._perform(operation, again=wait > FIRST_WAIT_S)
            except Exception as error:
                if not passing(error):
                    raise
            time.sleep(wait)
        return self._perform(operation, again=True)

    def settle(self) -> bool:
        """Wait for what waits, but not long; whether all has been made.

        What is left stays on disk, and the log says how it is delivered.
        """
        if not self._waiting and not self._refused:
            return True
        deadline = time.monotonic() + SETTLE_S
        while self._waiting and time.monotonic() < deadline:
            self._wake.set()
            time.sleep(0.05)
        return not self._waiting and not self._refused

    def close(self) -> None:
        """Settle, stop trying, and say what is left."""
        settled = self.settle()
        self._stopped.set()
        self._wake.set()
        with self._lock:
            outbox, self._outbox = self._outbox, None
            if outbox and settled:
                outbox.remove()
            elif outbox:
                _log.warning(
                    "%s has not taken all of this run; the rest is kept in %s: deliver it with "
                    "kd-mlflow sync",
                    masked(mlflow.get_tracking_uri()),
                    outbox.folder,
                )
            self._holding.close()
            self._waiting.clear()
            self._refused.clear()
            self._thread = None
            self._stopped = threading.Event()

    def _perform(self, operation: Operation, *, again: bool) -> str:
        resolved = operation.with_ids(self._ids)
        with impatient():
            made = perform(self._client(), resolved, again=again)
        if operation.name == "open_run":
            self._open.add(made)
        elif operation.name == "end":
            self._open.discard(resolved.arguments["run"])
        return made

    def _keep(self, operation: Operation) -> None:
        """Put an operation behind those that wait; begin to deliver where none did."""
        number = None
        try:
            if self._outbox is None:
                store = masked(mlflow.get_tracking_uri())
                self._outbox = self._holding.enter_context(Outbox.opened(store, sorted(self._open)))
                reason = store_error(self._failure) if self._failure else ""
                _log.warning("work goes on without the store, which gets all later: %s", reason)
            number, operation = self._outbox.add(operation)
        except OSError as error:
            _log.warning("kept in memory alone, for want of a place on disk: %s", error)
        self._waiting.append(_Waiting(operation, number))
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._deliver, args=(self._stopped,), name="journal", daemon=True
            )
            self._thread.start()

    def _deliver(self, stopped: threading.Event) -> None:
        """Make what waits, in order, until nothing does."""
        wait, tries = FIRST_WAIT_S, 0
        while not stopped.is_set():
            self._wake.wait(wait)
            self._wake.clear()
            answer, tries = self._try_first(tries)
            wait = FIRST_WAIT_S if answer else min(2 * wait, LONGEST_WAIT_S)
            with self._lock:
                if stopped.is_set():
                    return
                if answer:
                    self._take(answer)
                    self._wake.set()
                if not self._waiting:
                    self._thread = None
                    return

    def _try_first(self, tries: int) -> tuple[Answer | None, int]:
        """Try what waits longest; what came of it, if anything, and how often it was refused."""
        try:
            return Answer(made=self._perform(self._waiting[0].operation, again=True)), 0
        except Exception as error:
            self._failure = error
            if not passing(error) or tries + 1 == TRIES:
                return Answer(refused=str(store_error(error))), 0
            return None, tries + (answered(error) and answers())

    def _take(self, answer: Answer) -> None:
        operation, number = self._waiting.popleft()
        if answer.refused:
            if not self._refused:
                _log.warning("the store refuses a part of this run: %s", answer.refused)
            self._refused.append(answer.refused)
        if operation.id and answer.made:
            self._ids[operation.id] = answer.made
        if self._outbox and number is not None:
            try:
                self._outbox.answer(number, answer)
            except OSError as error:
                _log.warning("what was delivered may be delivered again: %s", error)


class _Waiting(NamedTuple):
    """An operation, and its number in the outbox; None where it is in memory alone."""

    operation: Operation
    number: int | None
