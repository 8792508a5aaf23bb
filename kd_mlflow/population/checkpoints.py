"""What trainings have reached, in files that a killed process leaves whole; nothing is pickled."""

from __future__ import annotations

import json
import logging
import os
import re
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from kd_mlflow.population.history import History
from kd_mlflow.population.sampling import Document

CHECKPOINT_FORMAT = 1
"""How a checkpoint is stored: one of another format is passed over."""

DOCUMENT = "document"
"""The array that holds what is no array, as JSON."""

OWNER = "mark"
"""The key of that document under which its training is described."""

CURVE = "curve."

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Some members between two steps of their training, or ``done``.

    All have the same ``epochs`` behind them, and ``steps`` of the next. Axis 0 of each array is the
    member; ``documents`` are one per member.
    """

    epochs: int
    arrays: Mapping[str, NDArray[Any]]
    documents: tuple[Document, ...]
    steps: int = 0
    done: bool = False

    @classmethod
    def of(
        cls,
        curves: History,
        arrays: Mapping[str, NDArray[Any]],
        documents: tuple[Document, ...] = ({},),
        steps: int | None = None,
    ) -> Snapshot:
        """Members with their curves, after so many steps of the next epoch; None: they are done."""
        every = {**arrays, **{f"{CURVE}{name}": values.T for name, values in curves.items()}}
        epochs, done = len(curves.get("train_loss", ())), steps is None
        return cls(epochs=epochs, arrays=every, documents=documents, steps=steps or 0, done=done)

    @property
    def reached(self) -> tuple[bool, int, int]:
        """How far the training had come; of two snapshots the one with more is farther."""
        return (self.done, self.epochs, self.steps)

    @property
    def curves(self) -> History:
        """The curves of the epochs behind them.  Shape of each: (epochs, k)."""
        return {
            name.removeprefix(CURVE): values.T
            for name, values in self.arrays.items()
            if name.startswith(CURVE)
        }

    def member(self, i: int) -> Snapshot:
        """The snapshot of one member alone."""
        arrays = {name: values[i : i + 1] for name, values in self.arrays.items()}
        return replace(self, arrays=arrays, documents=self.documents[i : i + 1])


def joined(members: Sequence[Snapshot | None]) -> Snapshot | None:
    """One snapshot of members that are equally far; None where they have not begun."""
    known = [one for one in members if one]
    if not known:
        return None
    arrays = {name: np.concatenate([one.arrays[name] for one in known]) for name in known[0].arrays}
    documents = tuple(document for one in known for document in one.documents)
    return replace(known[0], arrays=arrays, documents=documents)


def equally_far(members: slice, found: Sequence[Snapshot | None]) -> Iterator[slice]:
    """Cut a run of members where one is farther than the one before it."""
    reached = [one and one.reached for one in found]
    start = members.start
    for i in range(members.start + 1, members.stop + 1):
        if i == members.stop or reached[i] != reached[start]:
            yield slice(start, i)
            start = i


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that a killed process leaves as it was or as it becomes, for its user alone.

    Raises OSError.
    """
    for level in (path.parent.parent, path.parent):
        level.mkdir(mode=0o700, parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    with open(half, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(half, path)


@dataclass(frozen=True)
class Checkpoints:
    """Keeps snapshots of one training in a folder, every so many seconds; without one, nowhere.

    Each chunk of members has its own files, which are replaced as a whole: what is read is what was
    last written whole. ``owner`` describes their training: those of another one are passed over.
    """

    folder: Path | None = None
    every_s: float = 30.0
    owner: Document | None = None

    def below(self, name: str) -> Checkpoints:
        """The checkpoints of one of several trainings."""
        safe = re.sub(r"[^\w.-]+", "-", name)
        return replace(self, folder=self.folder / safe if self.folder else None)

    def owned_by(self, **owner: Any) -> Checkpoints:
        """The checkpoints of the training with this description."""
        return replace(self, owner=json.loads(json.dumps({"format": CHECKPOINT_FORMAT, **owner})))

    def due(self, since: float) -> bool:
        """Whether it is time for a snapshot, the last one being of that moment of the clock."""
        return self.folder is not None and time.monotonic() - since >= self.every_s

    def found(self, k: int) -> list[Snapshot | None]:
        """The farthest snapshot of each of ``k`` members; None for one that has none."""
        best: list[Snapshot | None] = [None] * k
        for path in sorted(self.folder.glob("*.npz")) if self.folder else ():
            for i, own in self._read(path):
                other = best[i]
                if other is None or other.reached < own.reached:
                    best[i] = own
        return best

    def _read(self, path: Path) -> list[tuple[int, Snapshot]]:
        """The members of a file by number; none where it is no whole file of this training."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            content = json.loads(bytes(arrays.pop(DOCUMENT)))
            if content.pop(OWNER) != self.owner:
                return []
            first, documents = content.pop("first"), tuple(content.pop("documents"))
            whole = Snapshot(arrays=arrays, documents=documents, **content)
            return [(first + i, whole.member(i)) for i in range(len(documents))]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            _log.warning("checkpoint %s cannot be read and is passed over: %s", path, error)
            return []

    def write(self, members: slice, snapshot: Snapshot) -> None:
        """Replace a chunk's file; one that cannot be written is warned of and done without."""
        if self.folder is None:
            return
        said = {n: getattr(snapshot, n) for n in ("documents", "epochs", "steps", "done")}
        content = {OWNER: self.owner, "first": members.start, **said}
        document = np.frombuffer(json.dumps(content).encode(), dtype=np.uint8)
        path = self.folder / f"members-{members.start}-{members.stop}.npz"
        try:
            with whole_file(path) as file:
                np.savez(file, allow_pickle=False, **{DOCUMENT: document}, **snapshot.arrays)
        except OSError as error:
            _log.warning("training goes on without this checkpoint: %s", error)


NOWHERE = Checkpoints()
"""The null checkpoints."""
