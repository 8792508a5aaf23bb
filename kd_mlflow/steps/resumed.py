"""Trainings that were interrupted: taken up again, and the runs they left behind marked."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kd_mlflow.config.groups import WorkerOptions
from kd_mlflow.errors import StoreError
from kd_mlflow.local_state import forget_old, held, state_folder
from kd_mlflow.population.checkpoints import NOWHERE, Checkpoints
from kd_mlflow.steps.listener import Listener
from kd_mlflow.tracking.open_run import TrackedRun

RUNS = "runs.json"
"""The runs that trained into a folder of checkpoints, oldest first."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resumable:
    """A training that can be taken up again: its checkpoints, and the runs that began it."""

    checkpoints: Checkpoints = NOWHERE

    def begin(self, run: TrackedRun, listener: Listener) -> None:
        """Note who trains now; mark runs that began this before as superseded by it.

        They are dead: this process holds their checkpoints, which they would hold otherwise.
        """
        if self.checkpoints.folder is None:
            return
        path = self.checkpoints.folder / RUNS
        before = [run_id for run_id in _read(path) if run_id != run.id]
        superseded = [run_id for run_id in before if run.supersede(run_id)]
        if superseded:
            run.log(tags={"kd.resumed_from": superseded[-1]})
            listener.say(f"takes up run {superseded[-1]}, which was interrupted")
        _write(path, [*before, run.id])


@contextmanager
def resumable(options: WorkerOptions, mark: str, listener: Listener) -> Iterator[Resumable]:
    """Hold the checkpoints of a fingerprint; they are removed when the block ends without an error.

    Where another process holds them, or nothing can be written, the block does without. A failure
    of the store says that the same command goes on from them.
    """
    if not options.checkpoint_seconds:
        yield Resumable()
        return
    folder = state_folder("checkpoints") / mark
    with ExitStack() as holding:
        try:
            forget_old(folder.parent)
            ours = holding.enter_context(held(folder))
        except OSError as error:
            _log.warning("this training keeps no checkpoints: %s", error)
            yield Resumable()
            return
        if not ours:
            listener.say("the same is trained by another process: this one keeps no checkpoints")
            yield Resumable()
            return
        try:
            yield Resumable(Checkpoints(folder=folder, every_s=options.checkpoint_seconds))
        except StoreError as error:
            if not any(folder.rglob("*.npz")):
                raise
            line = f"{error}; the same command goes on from its checkpoints"
            raise StoreError(line, unreachable=error.unreachable) from error
        shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path) -> list[str]:
    try:
        return [str(run_id) for run_id in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError):
        return []


def _write(path: Path, run_ids: list[str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".half")
        half.write_text(json.dumps(run_ids), encoding="utf-8")
        os.replace(half, path)
    except OSError as error:
        _log.warning("runs of an interrupted training will not be marked: %s", error)
