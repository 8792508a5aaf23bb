"""What a user can cause: each message states the rule, the value received and the way out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

MESSAGE_LENGTH = 4_000


class KDError(Exception):
    """Root of every error that the command line prints as one line and exit code 1.

    Whatever a message quotes, it is one line of bounded length that moves no terminal's cursor.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class ConfigError(KDError):
    """An option has a value that no run could use."""


class DataError(KDError):
    """A table cannot be read, split or encoded."""


class TrainingError(KDError):
    """Training produced numbers that cannot be used."""


class RunError(KDError):
    """A tracked run does not exist or is not what a step needs."""


class StoreError(KDError):
    """The tracking store cannot be reached or answers with an error."""

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.unreachable = unreachable


class RegistryError(KDError):
    """A registered model or version does not exist, or cannot be moved as asked."""


class EvaluationError(KDError):
    """A model on a table does not keep a limit that was set."""


class ClusterError(KDError):
    """A Dask cluster cannot be reached or cannot do the work."""


@dataclass(frozen=True)
class Unavailable:
    """Returned in the place of something that cannot be had, with the reason in words.

    An answer, not an error: whoever asked goes on without it.
    """

    reason: str


def printable(text: str) -> str:
    r"""A text with its control characters written out, and without its middle where it is long.

    >>> print(printable("no file a\nb"))
    no file a\nb
    """
    line = CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
    half = MESSAGE_LENGTH // 2
    return line if len(line) <= MESSAGE_LENGTH else f"{line[:half]} ... {line[-half:]}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters; its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names with commas, some of them where there are many.

    >>> listed(["a", "b", "c", "d"], most=2)
    "'a', 'b' and 2 more"
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
