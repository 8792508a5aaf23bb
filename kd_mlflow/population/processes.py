"""Processes of this machine that train, and how their trainer hears of each epoch meanwhile.

Small networks are thousands of small operations, and threads that make them wait for Python's lock.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from functools import cached_property
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from threading import Thread
from typing import Any

from joblib.externals.loky import get_reusable_executor

from kd_mlflow.population.history import Watch

IDLE_S = 60
"""How long a process waits for the next training: its start takes two seconds."""

SNAPSHOT_S = 5
"""How long a process whose trainer was killed has for what it has reached."""

BACKLOG = 128
"""Processes that may call at once."""

LOOK_S = 0.1
"""How often it is asked whether a training is over."""


def opened(count: int) -> Executor:
    """As many processes, those of the last training where they are still there.

    What is typed at the terminal interrupts their trainer alone, which ends them.
    """
    executor: Executor = get_reusable_executor(
        count, timeout=IDLE_S, initializer=_begin, initargs=(os.getpid(),)
    )
    return executor


def _begin(trainer: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with, args=(trainer,), daemon=True).start()


def _end_with(trainer: int) -> None:
    """End this process when its trainer was killed, once there was time for a snapshot."""
    while os.getppid() == trainer:
        time.sleep(1)
    time.sleep(SNAPSHOT_S)
    os.kill(os.getpid(), signal.SIGKILL)


class Line:
    """Stands for a watch in another process: passes each epoch on, and is over once it is."""

    def __init__(self, address: str, key: bytes) -> None:
        self._address, self._key = address, key

    @cached_property
    def _wire(self) -> Connection:
        return Client(self._address, authkey=self._key)

    def on_epoch(self, *epoch: Any) -> None:
        """Pass an epoch on; nobody may be there any more."""
        with suppress(OSError):
            self._wire.send(epoch)

    @property
    def over(self) -> bool:
        """Whether the trainer has hung up: nothing else ever comes from there."""
        return self._wire.poll()

    def made(self, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Make a call that speaks on this line; hang up after it."""
        try:
            return call(*given, **named)
        finally:
            self._wire.close()


@contextmanager
def listening(watch: Watch) -> Iterator[Line]:
    """Let a watch hear what other processes say on a line, until all have hung up or it is over."""
    key, hearers = os.urandom(32), list[Thread]()

    def hear(wire: Connection) -> None:
        with wire, suppress(EOFError, OSError):
            while not watch.over:
                if wire.poll(LOOK_S):
                    watch.on_epoch(*wire.recv())

    def answer() -> None:
        while not done:
            try:
                wire = listener.accept()
            except (OSError, EOFError, AuthenticationError):  # whoever called is gone, or knocked
                continue
            hearers.append(Thread(target=hear, args=(wire,), daemon=True))
            hearers[-1].start()

    done = False
    with Listener(family="AF_UNIX", authkey=key, backlog=BACKLOG) as listener:
        answering = Thread(target=answer, daemon=True)
        answering.start()
        try:
            yield Line(listener.address, key)
        except BaseException:
            watch.over = True
            raise
        finally:
            done = True
            _knock(listener.address)
            answering.join()
            for hearer in hearers:
                hearer.join()


def _knock(address: str) -> None:
    """End a wait for a call, if there is one: nothing else does."""
    with socket.socket(socket.AF_UNIX) as knocking, suppress(OSError):
        knocking.settimeout(1)
        knocking.connect(address)
