"""What the gate is told: the candidate's answers, production's on the same rows, and both tasks."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

import numpy as np

from kd_mlflow.config import DataOptions, PromoteConfig, Source
from kd_mlflow.errors import DataError, KDError, Unavailable
from kd_mlflow.evaluation.challenge import Challenge
from kd_mlflow.evaluation.checks import Answer, Check
from kd_mlflow.evaluation.gate import InProduction, Limits, gate
from kd_mlflow.table.dataset import Dataset, Identity, read_dataset
from kd_mlflow.table.files import is_csv
from kd_mlflow.table.hashing import row_hashes
from kd_mlflow.table.loading import FRAME
from kd_mlflow.tracking import judged, registry
from kd_mlflow.tracking.judged import Pulled
from kd_mlflow.tracking.runs import Run, Tracker

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A version and all that does not depend on what is in production.

    ``metrics`` are those of its distill run; ``data`` is the dataset that it was trained on.
    """

    model_name: str
    version: str
    metrics: Mapping[str, float]
    data: Dataset | Unavailable
    pulled: Pulled | Unavailable
    answer: Answer | Unavailable


def candidate_of(
    config: PromoteConfig, version: str, distill_run: Run, data: Dataset | Unavailable
) -> Candidate:
    """Pull a version and ask it for its answers to its test rows."""
    name, timed = config.model_name, bool(config.max_latency_ms)
    answer = (
        data
        if isinstance(data, Unavailable)
        else judged.reproduce(name, version, data.test_rows(), timed=timed)
    )
    return Candidate(
        model_name=name,
        version=version,
        metrics=distill_run.data.metrics,
        data=data,
        pulled=judged.pull(name, version),
        answer=answer,
    )


def judge(
    config: PromoteConfig, candidate: Candidate, seen: str | None, tracker: Tracker
) -> tuple[Check, ...]:
    """Ask the gate about a candidate while the version ``seen`` is in production."""
    limits = Limits(**{f.name: getattr(config, f.name) for f in dataclasses.fields(Limits)})
    pulled = candidate.pulled
    return gate(
        candidate.metrics,
        candidate.answer,
        limits=limits,
        task=pulled if isinstance(pulled, Unavailable) else pulled.task(),
        production=_in_production(limits, candidate, seen, tracker),
    )


def _in_production(
    limits: Limits, candidate: Candidate, seen: str | None, tracker: Tracker
) -> InProduction:
    """The task of the version in production, and its answers where they are to be compared."""
    if seen is None:
        return InProduction()
    pulled = judged.pull(candidate.model_name, seen)
    if isinstance(pulled, Unavailable):
        if limits.policy != "any":
            raise registry.uncompared(candidate.model_name, seen, pulled.reason)
        return InProduction(task=pulled, challenge=pulled)
    return InProduction(
        task=pulled.task(), challenge=_challenge(limits, candidate, pulled, seen, tracker)
    )


def _challenge(
    limits: Limits, candidate: Candidate, pulled: Pulled, seen: str, tracker: Tracker
) -> Challenge | Unavailable:
    """Let production answer the candidate's test rows, but for those that it was trained on."""
    data, answer, own = candidate.data, candidate.answer, candidate.pulled
    if limits.policy == "any":
        return Unavailable("policy is any")
    for missing in (data, answer, own):
        if isinstance(missing, Unavailable):
            return missing
    assert isinstance(data, Dataset)
    assert isinstance(answer, Answer)
    assert isinstance(own, Pulled)
    task = pulled.task()
    if pulled.ours and (task.target, set(task.classes or ())) != (
        own.task().target,
        set(own.task().classes or ()),
    ):
        return Unavailable("it has another task")
    rows = data.test_rows()
    theirs = judged.probabilities_of(pulled, rows)
    if isinstance(theirs, Unavailable):
        return theirs
    known, words = _trained_on(candidate, data, seen, tracker)
    return Challenge(
        version=seen,
        own=answer.probabilities[~known],
        theirs=theirs[~known],
        labels=rows.labels[~known],
        rows=f"on {int((~known).sum()):,} test rows, {words}",
        left_out=int(known.sum()),
    )


def _trained_on(
    candidate: Candidate, data: Dataset, seen: str, tracker: Tracker
) -> tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], str]:
    """Which test rows production was trained or chosen on, and in words how far that is known."""
    none = np.zeros(len(data.split.test), dtype=bool)
    theirs = _data_of_version(candidate.model_name, seen, data, tracker)
    if isinstance(theirs, Unavailable):
        return none, f"of which production may have been trained on some ({theirs.reason})"
    if theirs.identity == data.identity:
        return none, "the same that production was tested on"
    shared = [name for name in data.table.features if name in theirs.table.features]
    if not shared:
        return none, "of which production may have been trained on some (no column in common)"
    seen_rows = [row_hashes(theirs.features(side)[shared]) for side in ("train", "val")]
    known = np.isin(row_hashes(data.features("test")[shared]), np.concatenate(seen_rows))
    return known, f"{int(known.sum()):,} that production was trained on left out"


def _data_of_version(
    model_name: str, version: str, data: Dataset, tracker: Tracker
) -> Dataset | Unavailable:
    """The dataset that a version was trained on: the given one, or its own table, read again."""
    run_id = registry.tags_of(tracker.client, model_name, version).get("kd.run_id")
    if run_id is None:
        return Unavailable("a model of another origin does not say its training rows")
    try:
        run = tracker.get(run_id)
        if identity_of(run) == data.identity:
            return data
        return dataset_of(run)
    except KDError as error:
        return Unavailable(str(error))


def dataset_of(run: Run, data: Source = "") -> Dataset | Unavailable:
    """Read a run's table again, from elsewhere where ``data`` is given; or why it cannot be had."""
    params = run.data.params
    if isinstance(data, str) and not data:
        data = params["kd.data"]
    if isinstance(data, str) and data == FRAME:
        return Unavailable(
            "its table came as a DataFrame: promote from Python, kd.promote(data=frame)"
        )
    try:
        dataset = read_dataset(data_options(run, data))
    except DataError as error:
        return Unavailable(f"the test rows cannot be read again: {error}")
    if dataset.identity != identity_of(run):
        return Unavailable(
            f"the table {dataset.table.source} is another one, or it or its split changed since "
            "the version was trained"
        )
    return dataset


def identity_of(run: Run) -> Identity:
    """The dataset that a run was trained on; the split of an early run is not known."""
    tags = run.data.tags
    return Identity(tags["kd.data_digest"], tags.get("kd.split", ""))


def data_options(run: Run, data: Source) -> DataOptions:
    """How to read a run's table from ``data``.

    An option that the run knew nothing of has its default; one of CSV files where ``data`` is none.
    """
    given = {
        field.name: DataOptions.read(field.name, run.data.params[f"kd.{field.name}"])
        for field in dataclasses.fields(DataOptions)
        if f"kd.{field.name}" in run.data.params
    }
    csv = {} if is_csv(data) else {"separator": "", "decimal": ""}
    return DataOptions(**given | csv | {"data": data})
