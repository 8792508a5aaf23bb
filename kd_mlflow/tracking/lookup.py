"""Finds finished runs and what lies on them: ensembles, sweeps."""

from __future__ import annotations

from dataclasses import replace

from mlflow.entities import Run

from kd_mlflow.distillation.teachers import Ensemble
from kd_mlflow.errors import RunError
from kd_mlflow.table.dataset import Identity
from kd_mlflow.tracking.runs import Tracker

ENSEMBLE = "ensemble"
"""Artifact folder of a teachers' run."""

NOUNS = {"teachers": "an ensemble", "sweep": "a sweep"}
"""What a run of a kind is called in errors."""


def find_ensemble(tracker: Tracker, **tags: str) -> Run | None:
    """The newest finished ensemble with these ``kd.`` tags, if there is one."""
    runs = tracker.newest("teachers", **tags)
    return next((run for run in runs if "kd.reused_run_id" not in run.data.tags), None)


def choose_ensemble(tracker: Tracker, teachers: str, identity: Identity) -> Run:
    """Resolve the option ``teachers``: latest, or a run id.

    Raises RunError where there is none, it is no finished ensemble, or it knows other data.
    """
    if teachers == "latest" and (run := find_ensemble(tracker, **identity._asdict())):
        return run
    run = choose_run(tracker, "teachers", teachers, identity)
    if source := run.data.tags.get("kd.reused_run_id"):
        run = tracker.get(source)
    return run


def choose_run(tracker: Tracker, kind: str, given: str, identity: Identity) -> Run:
    """Resolve an option that names a run of a kind: latest, or a run id.

    Raises RunError where there is none, it is of another kind or unfinished, or knows other data.
    """
    named = NOUNS[kind]
    if given == "latest":
        found = tracker.newest(kind, **identity._asdict())
        if not found:
            raise RunError(
                f"no finished {named.split()[1]} trained on this data and split in this "
                f"experiment; run the entry point {kind} first"
            )
        return found[0]
    try:
        run = tracker.get(given)
    except RunError as error:
        raise RunError(f"{error}; give the run id of {named}, or latest") from None
    own = run.data.tags.get("kd.kind", "none")
    if own != kind:
        raise RunError(f"run {given} is not {named}: kd.kind is {own!r}, not {kind!r}")
    if run.info.status != "FINISHED":
        raise RunError(f"run {given}, {named}, is not finished: {run.info.status}")
    for name, what in (("data_digest", "other data"), ("split", "another split of this data")):
        theirs, ours = run.data.tags.get(f"kd.{name}"), getattr(identity, name)
        if theirs != ours:
            raise RunError(
                f"run {given}, {named}, was trained on {what} "
                f"(kd.{name} {str(theirs)[:12]}, here {ours[:12]}); "
                "give its own table with its val_fraction, or latest"
            )
    return run


def load_ensemble(tracker: Tracker, run_id: str) -> Ensemble:
    """Fetch and rebuild the ensemble of a run."""
    return replace(Ensemble.load(tracker.download(run_id, ENSEMBLE)), run_id=run_id)
