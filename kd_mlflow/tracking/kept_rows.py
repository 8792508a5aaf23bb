"""What a distill run keeps of its rows for the gate: which were trained on, answers to the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from kd_mlflow.errors import RunError, Unavailable
from kd_mlflow.table.dataset import Identity
from kd_mlflow.tracking.open_run import TrackedRun
from kd_mlflow.tracking.runs import Run, Tracker

TRAINED_ROWS, TRAINED_GROUPS = "trained_rows.npy", "trained_groups.npz"
"""Artifacts of a distill run: hashes of the rows that its models saw, sorted, 64 bits each; those
of their groups, and the columns that say these, where the table has any."""

ANSWERS = "test_answers.npy"
"""Artifact of a distill run: by the hash of each test row, each class's probability in float32.

Sorted by hash, equal ones in the order of the table.
"""

DIGEST = "kd.test_answers"
"""Tag of a distill run: SHA-256 of that file. Early runs have neither."""

MOST_BYTES = 2**27
"""Most bytes of the file; of more rows those with the smallest hashes are kept, a random choice."""


class KeptAnswers(NamedTuple):
    """Which test rows have answers, by their places, and these.  Shape: (m,), (m, classes)."""

    places: NDArray[np.intp]
    probabilities: NDArray[np.float32]


def keep_answers(
    run: TrackedRun, hashes: NDArray[np.uint64], probabilities: NDArray[np.floating[Any]]
) -> None:
    """Log what a student says of its test rows.  Shape: (n,), (n, classes)."""
    kind = _record(probabilities.shape[1])
    places = _kept(hashes, kind)
    records = np.empty(len(places), dtype=kind)
    records["row"], records["probabilities"] = hashes[places], probabilities[places]
    written = BytesIO()
    np.save(written, records, allow_pickle=False)
    content = written.getvalue()
    run.files({ANSWERS: content})
    run.log(tags={DIGEST: hashlib.sha256(content).hexdigest()})


def kept_answers(
    tracker: Tracker, run: Run, hashes: NDArray[np.uint64], *, classes: int
) -> KeptAnswers | Unavailable | None:
    """What a run kept of the test rows of these hashes; None where it is an early one, without.

    Unavailable where the file is gone, is not the one that was logged, or is of other rows.
    """
    digest = run.data.tags.get(DIGEST)
    if digest is None:
        return None
    named = f"the answers that run {run.info.run_id} kept of its test rows ({ANSWERS})"
    try:
        path = tracker.download(run.info.run_id, ANSWERS)
    except RunError:
        return Unavailable(f"{named} are gone, so that nobody can compare with them")
    kind = _record(classes)
    places = _kept(hashes, kind)
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            return Unavailable(f"{named} are damaged: they are not those that were logged")
        records = open_memmap(path, mode="r")
    except (OSError, EOFError, ValueError) as error:
        return Unavailable(f"{named} cannot be read: {str(error)[:200]}")
    if records.dtype != kind or not np.array_equal(records["row"], hashes[places]):
        return Unavailable(f"{named} are of other rows or classes than the table's")
    if not np.isfinite(records["probabilities"]).all():
        return Unavailable(f"{named} are no probabilities")
    return KeptAnswers(places, records["probabilities"])


def keep_trained_rows(run: TrackedRun, hashes: NDArray[np.uint64]) -> None:
    """Log which rows models of a run saw, as hashes of the columns that the student reads."""
    run.folder(lambda folder: np.save(folder / TRAINED_ROWS, np.unique(hashes)))


class TrainedGroups(NamedTuple):
    """Which groups a model's rows were of, by their hashes, and which columns say so."""

    hashes: NDArray[np.uint64]
    columns: tuple[str, ...]


def keep_trained_groups(run: TrackedRun, groups: TrainedGroups) -> None:
    """Log which groups models of a run saw."""
    written, columns = BytesIO(), np.array(groups.columns, dtype=np.str_)
    np.savez(written, hashes=np.unique(groups.hashes), columns=columns)
    run.files({TRAINED_GROUPS: written.getvalue()})


def trained_groups(tracker: Tracker, tags: Mapping[str, str]) -> TrainedGroups | None:
    """Which groups a version with these tags was trained on; None where none, or not known."""
    path = _file_of(tracker, tags, TRAINED_GROUPS)
    if path is None:
        return None
    with np.load(path, allow_pickle=False) as kept:
        return TrainedGroups(kept["hashes"], tuple(map(str, kept["columns"])))


def trained_rows(
    tracker: Tracker, tags: Mapping[str, str], identity: Identity
) -> NDArray[np.uint64] | None:
    """Hashes of the rows that a version with these tags was trained on; None if they are unknown.

    Empty for the same data and split, where no test row was trained on.
    """
    theirs = Identity(tags.get("kd.data_digest", ""), tags.get("kd.split", ""))
    if theirs == identity:
        return np.empty(0, dtype=np.uint64)
    path = _file_of(tracker, tags, TRAINED_ROWS)
    return None if path is None else np.asarray(np.load(path, allow_pickle=False), np.uint64)


def _file_of(tracker: Tracker, tags: Mapping[str, str], name: str) -> Path | None:
    """What the run of a version with these tags kept; None of an early run, or one that is gone."""
    try:
        return tracker.download(run_id, name) if (run_id := tags.get("kd.run_id")) else None
    except RunError:
        return None


def _record(classes: int) -> np.dtype[np.void]:
    return np.dtype([("row", "<u8"), ("probabilities", "<f4", (classes,))])


def _kept(hashes: NDArray[np.uint64], kind: np.dtype[np.void]) -> NDArray[np.intp]:
    """Places of the rows whose answers are kept, in the order of the file."""
    return np.argsort(hashes, kind="stable")[: MOST_BYTES // kind.itemsize]
