"""Commands of Python's as forks of one process that imports once, what takes each four seconds."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from types import SimpleNamespace

import psutil
from filelock import FileLock
from shorter import leave_out

FOLDER = Path(__file__).parent
FORK = multiprocessing.get_context("fork")
IMPORTED_S, NEEDED_S = 120, 1.0
"""How long importing may take, and how often what has imported looks whether anybody needs it."""


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
        self.words, self._status = words, None
        open(log, "ab").close()  # who looks at once finds nothing said, not no file
        self._told = Client(_imported())
        self._told.send((words, str(folder), {**env}, log, without))
        self.pid = self._told.recv()

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        if self._status is None and self._told.poll():
            self._status = self._told.recv()
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once there is one."""
        if self._status is None:
            self._told.poll(timeout)
        if (status := self.poll()) is None:
            raise subprocess.TimeoutExpired(self.words, timeout or 0)
        return status

    def terminate(self) -> None:
        """Ask it to end, if it has not."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)


@cache
def _imported() -> str:
    """Where the process listens that has imported what commands do.

    All that test at once have one, which the first of them starts who needs it.
    """
    owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    folder = Path(tempfile.gettempdir(), f"forks-{owner}")
    folder.mkdir(mode=0o700, exist_ok=True)
    address, log = folder / "socket", folder / "log"
    with FileLock(folder / "lock"):
        if address.exists():
            return str(address)
        paths = os.pathsep.join(map(str, (FOLDER.parent, FOLDER)))
        with open(log, "wb") as said:
            process = subprocess.Popen(
                [sys.executable, FOLDER / "preloaded.py", address, str(owner)],
                env=os.environ | {"PYTHONPATH": paths},
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        deadline = time.monotonic() + IMPORTED_S
        while not address.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        process.returncode = 0  # it ends by itself, and nobody waits for it
    return str(address)


def serve(address: str, owner: int) -> None:
    """Fork a command for each who connects, for as long as the process exists that it is for."""
    listener = Listener(address)
    listener._listener._socket.settimeout(NEEDED_S)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # its children leave nothing
    while psutil.pid_exists(owner):
        try:
            told = listener.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                _look_after(told)
            finally:
                os._exit(0)
        told.close()
    shutil.rmtree(Path(address).parent)


def _look_after(told: Connection) -> None:
    """Start a command, and say its number, then its exit status."""
    process = FORK.Process(target=_become, args=told.recv())
    process.start()
    told.send(process.pid)
    process.join()
    told.send(process.exitcode)


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

    theirs, ours = FORK.Pipe(duplex=False)
    process = FORK.Process(target=lambda: _run(*theirs.recv()), daemon=True)
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
