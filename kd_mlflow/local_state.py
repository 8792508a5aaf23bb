"""What this machine keeps for longer than a process: where it lies, and who holds which part."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

SETTING = "KD_MLFLOW_STATE"
"""The environment variable that says where it lies."""

KEPT_DAYS = 30
"""What nobody took up again for so long is removed."""


def state_folder(part: str) -> Path:
    """The folder of one part of what is kept; it may not exist yet."""
    given = os.environ.get(SETTING)
    data = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return (Path(given) if given else Path(data) / "kd-mlflow") / part


def private(folder: Path) -> Path:
    """Make a folder that nobody else can look into, and what is missing above it."""
    if not folder.exists():
        for level in (*reversed(folder.parents), folder):
            level.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
    return folder


@contextmanager
def scratch() -> Iterator[Path]:
    """A private folder for as long as the block lasts; those of killed processes are removed.

    Where nothing can be kept, it is one of the system's temporary folders.
    """
    folder = state_folder("scratch") / uuid.uuid4().hex
    with ExitStack() as holding:
        try:
            private(folder.parent)
            remove_dead(folder.parent)
            holding.enter_context(held(folder))
            private(folder)
        except OSError:
            yield Path(holding.enter_context(tempfile.TemporaryDirectory()))
            return
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            Path(f"{folder}.lock").unlink(missing_ok=True)


def folder_till_exit() -> Path:
    """A private folder for as long as this process lives; one of a killed process is removed."""
    holding = ExitStack()
    atexit.register(holding.close)
    return holding.enter_context(scratch())


def remove_dead(
    parent: Path, *, days: float = 0, bury: Callable[[str], object] = lambda name: None
) -> None:
    """Remove folders that nobody holds or took up for days; ``bury`` gets each name before."""
    newest = time.time() - days * 86_400
    for lock in parent.glob("*.lock"):
        if days and lock.stat().st_mtime > newest:
            continue
        with held(folder := lock.with_suffix("")) as ours:
            if ours:
                bury(folder.name)
                shutil.rmtree(folder, ignore_errors=True)
                lock.unlink(missing_ok=True)


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold a folder while the block lasts; False where another process, or thread, holds it.

    The system takes the lock back from a process that ends, however it ends. Raises OSError where
    nothing can be written.
    """
    private(folder.parent)
    lock = FileLock(f"{folder}.lock", mode=0o600, blocking=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
