"""MLflow's own servers, for scoring and for tracking, started as a person would start them."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from forks import Forked

ROOT = Path(__file__).parents[1]


def free_port():
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def started(*words, folder, env, log):
    """A module of Python's in a process that imports for itself, as ``forks.Forked`` does not."""
    return _started([sys.executable, "-m", *words], folder, env, log)


def _started(command, folder, env, log):
    with open(log, "w") as file:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=env,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@contextmanager
def served(tracking_uri, folder, model="models:/kd-student@production", workers=1, *, start=Forked):
    """The address of a server of a model; its whole process group is stopped at the end."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    options = f"--env-manager local -m {model} -h 127.0.0.1 -p {port} -w {workers}".split()
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking_uri, "PATH": path}
    words = ("mlflow", "models", "serve", *options)
    process = start(*words, folder=folder, env=environment, log=folder / "log")
    try:
        deadline = time.monotonic() + 120
        while not answers(f"{address}/ping"):
            said = (folder / "log").read_text()[-2000:]
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.3)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


@contextmanager
def mlflow_server(uri, folder, *options, start=Forked, **settings):
    """The address of a tracking server on a store, with options and settings of its environment."""
    port = free_port()
    words = ["mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--backend-store-uri", uri, *options]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **settings}
    process = start(*words, folder=folder, env=os.environ | settings, log=folder / "log")
    with listening(process, folder, port) as address:
        yield address


@contextmanager
def made_server(target, folder, *variables, **settings):
    """The address of a server that a target of the Makefile starts, in this environment."""
    port = free_port()
    command = ["make", "-C", str(ROOT), "--old-file", ".venv/served", target]
    command += [f"PORT={port}", f"SERVER_DATA={folder / 'data'}", *variables]
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    process = _started(command, folder, {**os.environ, "PATH": path, **settings}, folder / "log")
    with listening(process, folder, port) as address:
        yield address


@contextmanager
def listening(process, folder, port):
    """The address of a tracking server for as long as the block; its process group is stopped."""
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240
        while not answers(f"{address}/health"):
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.3)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(timeout=30)


def answers(url):
    """Whether a server answers its health check."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
