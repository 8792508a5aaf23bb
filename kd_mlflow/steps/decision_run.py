"""Runs of promotions and rollbacks: those of dead processes are ended by whoever comes next."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from kd_mlflow.local_state import clear_scratch, held, state_folder
from kd_mlflow.tracking.open_run import TrackedRun
from kd_mlflow.tracking.runs import Tracker

_log = logging.getLogger(__name__)


@contextmanager
def decision_run(
    tracker: Tracker, kind: str, name: str, parent: TrackedRun | None = None
) -> Iterator[TrackedRun]:
    """A run of a decision, which this machine can tell from one whose process has died.

    Its tag ``kd.opened`` names a lock that is held as long as the process lives.
    """
    opened = uuid.uuid4().hex
    place = _folder(tracker) / opened
    with ExitStack() as holding:
        try:
            end_dead(tracker)
            holding.enter_context(held(place))
        except OSError as error:
            _log.warning("a run that is killed will stay RUNNING: %s", error)
        with tracker.run(kind, name, parent=parent, opened=opened) as run:
            yield run
        with suppress(OSError):  # another user's folder
            place.with_suffix(".lock").unlink(missing_ok=True)


def end_dead(tracker: Tracker) -> None:
    """End the runs of decisions whose processes died on this machine, as KILLED.

    The files that they left go too.
    """
    clear_scratch()
    for lock in _folder(tracker).glob("*.lock"):
        with held(lock.with_suffix("")) as ours:
            if ours:
                tracker.end_dead(lock.stem)
                lock.unlink(missing_ok=True)


def _folder(tracker: Tracker) -> Path:
    """Where locks of decisions in this store and experiment lie."""
    return state_folder("decisions") / hashlib.sha256(tracker.place.encode()).hexdigest()[:16]
