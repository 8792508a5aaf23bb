"""What this machine keeps for longer than a process: where it lies, and who holds which part."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold a folder while the block lasts; False where another process, or thread, holds it.

    The system takes the lock back from a process that ends, however it ends. Raises OSError where
    nothing can be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock", blocking=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def forget_old(parent: Path) -> None:
    """Remove folders that nobody holds and nobody took up again for ``KEPT_DAYS``."""
    oldest = time.time() - KEPT_DAYS * 86_400
    for lock in parent.glob("*.lock"):
        if lock.stat().st_mtime > oldest:
            continue
        with held(folder := lock.with_suffix("")) as ours:
            if ours:
                shutil.rmtree(folder, ignore_errors=True)
                lock.unlink(missing_ok=True)
