"""MLflow's own servers, for scoring and for tracking, started as a person would start them."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager


def free_port():
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def served(tracking_uri, folder, model="models:/kd-student@production", workers=1):
    """The address of a server of a model; its whole process group is stopped at the end."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    options = f"--env-manager local -m {model} -h 127.0.0.1 -p {port} --workers {workers}"
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "models", "serve", *options.split()],
            cwd=folder,
            env={**os.environ, "MLFLOW_TRACKING_URI": tracking_uri, "PATH": path},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
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
def mlflow_server(uri, folder, **settings):
    """The address of a tracking server on a store, with settings of its environment."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--backend-store-uri", uri],
            cwd=folder,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **settings},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
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
