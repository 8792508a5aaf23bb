"""Execute the notebooks from a clean kernel; run as a script, it writes their outputs back."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import forks
import nbformat
from jupyter_client.provisioning import local_provisioner
from mlflow import MlflowClient
from nbclient import NotebookClient
from shorter import PARTS

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TIMEOUT_S = 240

SMALLER = """
import dataclasses

from kd_mlflow import pipeline

def smaller(step):
    def run(config):
        known = {{field.name for field in dataclasses.fields(config)}}
        own = {{name: value for name, value in {options!r}.items() if name in known}}
        return step(dataclasses.replace(config, **own))
    return run

for name in ("run_teachers", "run_distill", "run_promote"):
    setattr(pipeline, name, smaller(getattr(pipeline, name)))
"""
"""What a kernel does first where a notebook's steps are to take other options than it says."""


class Forked(forks.Forked):
    """A kernel in a process that has imported the package: what jupyter_client knows of one."""

    stdin = stdout = stderr = None

    def __init__(self, command: list[str], *, cwd: str, env: dict[str, str], **_: object) -> None:
        log, without = Path(cwd) / "said", tuple(PARTS)  # these have tests of their own
        super().__init__(*command[2:], folder=Path(cwd), env=env, log=log, without=without)
        while os.getpgid(self.pid) != self.pid:  # signals go to that group
            time.sleep(0.01)


def execute(
    path: Path, folder: Path, uri: str, *, options: dict[str, object] | None = None
) -> nbformat.NotebookNode:
    """Run every cell in an empty folder against a store; return the notebook with outputs.

    Options are taken by each step that knows them, whatever the cells say; the kernel is a fork
    then, not a Python that is started anew. Raises CellExecutionError where a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    start = folder / ".ipython" / "profile_default" / "startup"
    start.mkdir(parents=True)
    start_kernel = local_provisioner.launch_kernel
    if options:
        (start / "smaller.py").write_text(SMALLER.format(options=options))
        start_kernel = Forked
    environment = {
        "IPYTHONDIR": str(folder / ".ipython"),
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONPATH": os.pathsep.join(map(str, (FOLDER.parent, Path(__file__).parent))),
    }
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch.object(local_provisioner, "launch_kernel", start_kernel),
    ):
        client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    return notebook


def main(names: list[str]) -> None:
    """Execute notebooks of these names, or all, in a store of their own each; keep the outputs."""
    for path in NOTEBOOKS:
        if names and path.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            uri = f"sqlite:///{folder}/mlflow.db"
            MlflowClient(uri).search_experiments()
            text = nbformat.writes(execute(path, Path(folder), uri)).replace(folder, "/data")
            path.write_text(f"{text.rstrip()}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
