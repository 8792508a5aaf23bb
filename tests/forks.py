"""Commands of Python's as forks of one process that imports once, what takes each four seconds."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from shorter import leave_out

FOLDER = Path(__file__).parent
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["preloaded"])


class Forked:
    """A process that does what ``python -m`` and words would; its output goes into a file.

    For tests of what a command does, not of how it starts. It has a process group of its own, and
    may leave out some ``shorter.PARTS``, as then does what ``mlflow run`` starts: a fork too.
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
    with open(log, "ab") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    if words[:2] == ("mlflow", "server"):
        _serve_in_place()
    if words[:3] == ("mlflow", "models", "serve"):
        _score_in_place()
    if words[:2] == ("mlflow", "run") and without:
        _fork_for_project()
    try:
        _run(words, folder, env)
    finally:
        atexit._run_exitfuncs()


def _serve_in_place() -> None:
    """Let ``mlflow server`` be the server itself, not the parent of one that imports anew."""
    import mlflow.server

    def instead(command: list[str], *, extra_env: dict[str, str], **_: object) -> None:
        if "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY" in os.environ:
            from mlflow.store.model_registry.dbmodels.models import SqlWebhook

            SqlWebhook.__table__.c.secret.type.__init__()  # it took a key as it was imported
        _run(tuple(command[2:]), ".", os.environ | extra_env)

    mlflow.server._exec_cmd = instead


def _score_in_place() -> None:
    """Let ``mlflow models serve`` be the server itself too."""
    import mlflow.pyfunc.backend

    def instead(bash: list[str], *, env: dict[str, str], **_: object) -> None:
        exec_, *words = shlex.split(bash[-1])
        assert exec_ == "exec"
        _run(words, ".", env)

    mlflow.pyfunc.backend.subprocess = SimpleNamespace(Popen=instead)


def _fork_for_project() -> None:
    """Let what ``mlflow run`` starts be a process that is forked now: it has imported all."""
    import mlflow.projects.backend.local

    context = multiprocessing.get_context("fork")
    theirs, ours = context.Pipe(duplex=False)
    process = context.Process(target=lambda: _run(*theirs.recv()), daemon=True)
    process.start()

    class Started:
        """What MLflow knows of the process: it waits for it."""

        def __init__(self, bash: list[str], *, cwd: str, env: dict[str, str], **_: object) -> None:
            tell = f"python() {{ printf '%s\\0' \"$@\"; }}; {bash[-1]}"
            said = subprocess.run([*bash[:-1], tell], stdout=subprocess.PIPE, text=True, check=True)
            dash_m, *words = said.stdout.split("\0")[:-1]
            assert dash_m == "-m"
            ours.send((words, cwd, env))

        def wait(self) -> int | None:
            process.join()
            return process.exitcode

    mlflow.projects.backend.local.subprocess = SimpleNamespace(Popen=Started)


def _run(words: Sequence[str], folder: str, env: Mapping[str, str]) -> None:
    """Run a module in a folder as ``python -m`` would."""
    os.chdir(folder)
    sys.path.insert(0, os.getcwd())
    for name in os.environ.keys() - env.keys():
        del os.environ[name]
    os.environ.update(env)
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
