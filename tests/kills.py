"""Kill a process at one of its calls of MLflow."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import mlflow
from mlflow import MlflowClient
from mlflow.models import Model

WRITES = ("set_", "create_", "delete_", "log_", "update_")

ELSEWHERE = ((mlflow.artifacts, "download_artifacts"), (Model, "load"))
"""Calls that promote and rollback make of MLflow without its client."""


class Killed(BaseException):
    """The process is dead: nothing may catch it, and no later call is made."""


@dataclass
class Calls:
    """Calls of MLflow in their order; with a place, the process dies before or after that one."""

    place: int | None = None
    before: bool = True
    die: Callable[[], None] | None = None
    made: list[str] = field(default_factory=list)
    dead: bool = False
    depth: int = 0

    def around(self, name: str, call: Callable[[], object]) -> object:
        """Make a call, or die; calls that MLflow makes of itself are no calls of ours."""
        if self.dead:
            raise Killed
        if self.depth:
            return call()
        mine = len(self.made) == self.place
        self.made.append(name)
        if mine and self.before:
            self._end()
        self.depth += 1
        try:
            answer = call()
        finally:
            self.depth -= 1
        if mine:
            self._end()
        return answer

    def _end(self) -> None:
        if self.die:
            self.die()
        self.dead = True
        raise Killed


def sigkill() -> None:
    """End this process as the kernel does where memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def watched(calls: Calls) -> Iterator[Calls]:
    """Have every call of MLflow in the block go through ``calls``."""
    places = [
        (MlflowClient, name)
        for name, value in vars(MlflowClient).items()
        if callable(value) and not name.startswith("_")
    ]
    originals = [(owner, name, owner.__dict__[name]) for owner, name in (*places, *ELSEWHERE)]
    for owner, name, original in originals:
        setattr(owner, name, _through(calls, name, original, bound=owner is Model))
    try:
        yield calls
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _through(
    calls: Calls, name: str, original: object, *, bound: bool
) -> Callable[..., object] | classmethod[object, ..., object]:
    if bound:  # Model.load is a class method
        function = original.__func__  # type: ignore[attr-defined]

        def load(cls: type, *given: object, **named: object) -> object:
            return calls.around("Model.load", lambda: function(cls, *given, **named))

        return classmethod(load)

    @functools.wraps(original)  # type: ignore[arg-type]
    def call(*given: object, **named: object) -> object:
        def make() -> object:
            return original(*given, **named)  # type: ignore[operator]

        return calls.around(_shown(name, given, named), make)

    return call


def _shown(name: str, given: tuple[object, ...], named: dict[str, object]) -> str:
    """A call with the words that tell it from others of its name: aliases and tags."""
    words = [w for w in (*given, *named.values()) if isinstance(w, str)]
    if name.endswith("_alias"):
        return f"{name} {words[1]}"
    if name.endswith("_tag") and len(words) > 1:
        keys = [word for word in words if word.startswith("kd.")]
        return f"{name} {keys[0].rstrip('0123456789')}" if keys else name
    locks = [word for word in words if ".lock-" in word]
    return f"{name} (lock)" if locks else name


def is_write(call: str) -> bool:
    """Whether a call changes what a store holds."""
    return call.startswith(WRITES)
