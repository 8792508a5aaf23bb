"""Operations that a store has not taken yet, in a folder: they outlive the process."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from kd_mlflow.local_state import held, state_folder
from kd_mlflow.tracking.operations import Operation

OPERATIONS, ANSWERS, STORE = "operations.jsonl", "answers.jsonl", "store.json"
"""Its files: what is to be made, what came of it, and for which store."""


@dataclass(frozen=True)
class Answer:
    """What came of an operation: the store's id of what it made, or why it was refused."""

    made: str = ""
    refused: str = ""


class Entry(NamedTuple):
    """An operation that is kept, and its number among those of its outbox."""

    number: int
    operation: Operation


@dataclass(frozen=True)
class Outbox:
    """Operations of one process in the order in which they are to be made."""

    folder: Path
    _numbers: Iterator[int] = field(default_factory=count, compare=False)

    @classmethod
    @contextmanager
    def opened(cls, store: str, runs: Sequence[str] = ()) -> Iterator[Outbox]:
        """A new one, for a store, held by this process while the block lasts.

        ``runs`` are open in the store already.
        """
        stamp = time.strftime("%Y%m%d-%H%M%S")
        folder = state_folder("outbox") / f"{stamp}-{_process()}-{uuid.uuid4().hex[:4]}"
        with held(folder):
            folder.mkdir()
            _append(folder / STORE, {"store": store, "runs": list(runs)})
            yield cls(folder)

    @property
    def store(self) -> str:
        """The address of the store, without secrets."""
        return str(_lines(self.folder / STORE)[0]["store"])

    @property
    def runs(self) -> set[str]:
        """The runs that were open in the store when it went away."""
        return set(_lines(self.folder / STORE)[0]["runs"])

    def add(self, operation: Operation) -> Entry:
        """Keep an operation, its files too."""
        files: str | None = None
        if operation.folder is not None:
            files = f"files-{uuid.uuid4().hex[:8]}"
            shutil.move(operation.folder, self.folder / files)
        line = {
            "name": operation.name,
            "id": operation.id,
            "files": files,
            "arguments": operation.arguments,
        }
        _append(self.folder / OPERATIONS, line)
        return Entry(next(self._numbers), self._operation(line))

    def answer(self, number: int, answer: Answer) -> None:
        """Note what came of an operation."""
        _append(self.folder / ANSWERS, {"number": number, **vars(answer)})

    def entries(self) -> list[tuple[Entry, Answer | None]]:
        """All operations, with what came of each so far."""
        answers = {line.pop("number"): Answer(**line) for line in _lines(self.folder / ANSWERS)}
        return [
            (Entry(number, self._operation(line)), answers.get(number))
            for number, line in enumerate(_lines(self.folder / OPERATIONS))
        ]

    def remove(self) -> None:
        """Forget it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.with_name(f"{self.folder.name}.lock").unlink(missing_ok=True)

    def _operation(self, line: dict[str, Any]) -> Operation:
        files = line["files"]
        return Operation(
            name=line["name"],
            arguments=line["arguments"],
            id=line["id"],
            folder=self.folder / files if files else None,
        )


def left_behind() -> list[Outbox]:
    """What processes have kept, oldest first; that of running ones too."""
    folders = sorted(path.parent for path in state_folder("outbox").glob(f"*/{OPERATIONS}"))
    return [Outbox(folder) for folder in folders]


def left_behind_here() -> list[Outbox]:
    """What this process has kept."""
    return [outbox for outbox in left_behind() if _process() in outbox.folder.name]


@cache
def _process() -> str:
    """What this process is called: numbers of processes come again."""
    return f"{os.getpid()}-{uuid.uuid4().hex[:6]}"


@contextmanager
def taken(outbox: Outbox) -> Iterator[bool]:
    """Hold what a process kept; False where it is still running, or somebody else delivers it."""
    with ExitStack() as stack:
        yield stack.enter_context(held(outbox.folder)) and outbox.folder.is_dir()


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _lines(path: Path) -> list[dict[str, Any]]:
    """What was appended; a last line that a killed process left half written does not count."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]
