"""Commands of Python's as forks of one process that imports once, what takes each four seconds."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

from shorter import leave_out

FOLDER = Path(__file__).parent
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["preloaded"])


class Forked:
    """A process that does what ``python -m`` and words would; its output goes into a file.

    For tests of what a command does, not of how it starts. It has a process group of its own, and
    may leave out some ``shorter.PARTS``.
    """

    def __init__(
        self,
        *words: str,
        folder: Path,
        env: Mapping[str, str],
        log: Path,
        without: tuple[str, ...] = (),
    ) -> None:
        self.words = words
        open(log, "ab").close()  # who looks at once finds nothing said, not no file
        given = (words, str(folder), {**env}, log, without)
        self._process = CONTEXT.Process(target=_become, args=given)
        paths = os.pathsep.join(map(str, (FOLDER.parent, FOLDER)))
        with mock.patch.dict(os.environ, PYTHONPATH=paths):  # where the first one is forked from
            self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once there is one."""
        self._process.join(timeout)
        if (status := self.poll()) is None:
            raise subprocess.TimeoutExpired(self.words, timeout or 0)
        return status

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()


def _become(
    words: tuple[str, ...], folder: str, env: dict[str, str], log: Path, without: tuple[str, ...]
) -> None:
    """Be the command, in a process that was just forked."""
    os.setsid()
    if without:
        import pytest  # benchmarks start servers too, and do without

        leave_out(pytest.MonkeyPatch(), *without)
    os.chdir(folder)
    sys.path.insert(0, folder)
    os.environ.clear()
    os.environ.update(env)
    with open(log, "ab") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    if words[:2] == ("mlflow", "server"):
        _serve_in_place()
    try:
        _run(words)
    finally:
        atexit._run_exitfuncs()


def _serve_in_place() -> None:
    """Let ``mlflow server`` be the server itself, not the parent of one that imports anew."""
    import mlflow.server

    def instead(command: list[str], *, extra_env: dict[str, str], **_: object) -> None:
        os.environ.update(extra_env)
        _run(tuple(command[2:]))

    mlflow.server._exec_cmd = instead


def _run(words: tuple[str, ...]) -> None:
    """Run a module as ``python -m`` would."""
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
