"""A candidate, the table of its run, its answers in a clean process; what the gate says to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd_mlflow.config.entry_points import PromoteConfig
from kd_mlflow.config.groups import DataOptions, Source
from kd_mlflow.errors import DataError, Unavailable
from kd_mlflow.evaluation.case import Examined
from kd_mlflow.evaluation.checks import Check, GateLimits
from kd_mlflow.evaluation.gate import gate
from kd_mlflow.evaluation.metrics import Hits, class_recalls, probability_metrics
from kd_mlflow.evaluation.reproduction import Reproduced, metric_ranges, repetition
from kd_mlflow.evaluation.scores import RowScores
from kd_mlflow.evaluation.succession import Incumbent, PredictionTask, same_task
from kd_mlflow.evaluation.thresholds import by_rule, logged_cutoff
from kd_mlflow.local_state import scratch
from kd_mlflow.models.any_model import task_of
from kd_mlflow.models.own_code import foreign
from kd_mlflow.models.processes import CleanProcess, PulledAnswers, ask_production
from kd_mlflow.models.respondent import FLOOR, fault
from kd_mlflow.registry import versions
from kd_mlflow.registry.moves import PRODUCTION
from kd_mlflow.registry.versions import ModelVersion
from kd_mlflow.serving.scoring import decided, text_of
from kd_mlflow.table.dataset import Dataset, Identity, read_dataset
from kd_mlflow.table.groups import group_hashes
from kd_mlflow.table.hashing import distinct_rows, row_hashes
from kd_mlflow.table.sources import FRAME, is_csv
from kd_mlflow.tracking import kept_rows
from kd_mlflow.tracking.runs import Run, Tracker
from kd_mlflow.tracking.saved_model import files_digest


class Submitted(NamedTuple):
    """A version to be gated, its distill run, and the table it was trained on, if it can be had."""

    version: ModelVersion
    run: Run
    data: Dataset | Unavailable


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A version that asks for promotion, by its number, and its answers to its test rows.

    ``scores`` are None where its artifact does not score or the rows cannot be had. ``digest`` is
    that of the files that were asked, empty where none were.
    """

    number: str
    data: Dataset | Unavailable
    findings: Examined
    scores: RowScores | None
    digest: str


def examine(
    config: PromoteConfig, submitted: Submitted, tracker: Tracker, *, clean: CleanProcess
) -> Candidate:
    """Pull a version into the clean process and score its test rows there."""
    version, distill_run, data = submitted
    task = task_of(version, versions.described(version))
    logged, scores, digest = distill_run.data.metrics, None, ""
    if isinstance(data, Unavailable):
        findings = Examined(logged=logged, reproduced=data, task=task)
    else:
        task = replace(task, target=data.table.target, classes=tuple(_classes(data)))
        pulled, digest = _asked(version, data, clean, timed=config.max_latency_ms > 0)
        if isinstance(pulled, Unavailable):
            findings = Examined(logged=logged, reproduced=pulled, task=task)
        else:
            hashes = row_hashes(data.features("test"), exact=True)
            kept = kept_rows.kept_answers(tracker, distill_run, hashes, classes=len(pulled.classes))
            findings, scores = _scored(logged, task, pulled, data.labels("test"), kept)
            scores = replace(scores, groups=data.groups("test"))
    number = str(version.version)
    return Candidate(number=number, data=data, findings=findings, scores=scores, digest=digest)


def _asked(
    version: ModelVersion, data: Dataset, clean: CleanProcess, *, timed: bool
) -> tuple[PulledAnswers | Unavailable, str]:
    """A version's answers to the test rows in the clean process, and the digest of its files.

    They are by the table's order of classes; Unavailable where they are none, with the version's
    number. What would run code that is none of ours is not loaded.
    """
    features, classes = data.features("test"), _classes(data)
    first, rows = distinct_rows(features)
    with scratch() as folder:
        model = versions.pull(version, folder)
        digest, odd = files_digest(model), foreign(model, str(version.source))
        pulled = (
            Unavailable(f"is not loaded: {odd}")
            if odd
            else clean.ask(model, features.iloc[first], timed=timed)
        )
    if isinstance(pulled, Unavailable):
        fails = pulled.reason
    elif sorted(pulled.classes) != sorted(classes):
        fails = "knows other classes"
    elif received := fault(pulled.probabilities, (len(first), len(classes))):
        fails = f"answers with {received}"
    elif pulled.places.shape != first.shape or (pulled.places < 0).any():
        fails = "predicts what is none of its classes"
    else:
        order = [pulled.classes.index(name) for name in classes]
        answers = PulledAnswers(
            classes=tuple(classes),
            probabilities=pulled.probabilities[rows][:, order],
            places=np.argsort(order)[pulled.places[rows]],
            latency_ms=pulled.latency_ms,
        )
        return answers, digest
    return Unavailable(f"version {version.version} {fails}"), digest


def _scored(
    logged: Mapping[str, float],
    task: PredictionTask,
    pulled: PulledAnswers,
    labels: NDArray[np.int64],
    kept: kept_rows.KeptAnswers | Unavailable | None,
) -> tuple[Examined, RowScores]:
    """What a pulled model's answers are worth, and whether they are those that were kept."""
    probabilities, places = pulled.probabilities, pulled.places
    threshold = logged_cutoff(logged, len(pulled.classes))
    reproduced: Reproduced
    if kept is None:
        reproduced = metric_ranges(probabilities, labels, places, threshold)
    elif isinstance(kept, Unavailable):
        reproduced = kept
    else:
        own = kept.places
        reproduced = repetition(kept.probabilities, probabilities[own], places[own], threshold)
    findings = Examined(
        logged=logged,
        reproduced=reproduced,
        task=task,
        measured=probability_metrics(probabilities, labels, places),
        latency_ms=pulled.latency_ms,
        least_recall=float(np.nanmin(class_recalls(places[None], labels, len(pulled.classes)))),
        constant=str(pulled.classes[places[0]]) if (places == places[0]).all() else None,
    )
    return findings, RowScores.of(probabilities.clip(FLOOR, 1), labels, predicted=places)


def ask_gate(
    config: PromoteConfig, candidate: Candidate, tracker: Tracker
) -> tuple[tuple[Check, ...], str | None]:
    """Ask the gate about a candidate and what is in production now; return that version too."""
    standing = versions.aliased(tracker.client, config.model_name, PRODUCTION)
    known = _incumbent(config, candidate, standing, tracker) if standing else None
    limits = GateLimits(**{f.name: getattr(config, f.name) for f in fields(GateLimits)})
    return gate(candidate.findings, known, limits), known.version if known else None


def _incumbent(
    config: PromoteConfig, candidate: Candidate, standing: ModelVersion, tracker: Tracker
) -> Incumbent:
    """What is known of the version in production; it is loaded where it must be scored."""
    task = task_of(standing, versions.described(standing))
    scores: tuple[RowScores, RowScores] | Unavailable | None = None
    left_out, data, ours = None, candidate.data, candidate.scores
    ruled = by_rule(candidate.findings.logged)
    compared = config.policy != "any" and same_task(candidate.findings.task, task)
    if compared and isinstance(data, Dataset) and ours is not None:
        with scratch() as folder:
            model = versions.pull(standing, folder)
            rows = data.raw("test") if task.columns else data.features("test")
            asked = ask_production(standing, model, rows, _classes(data))
        ruled = ruled or asked.threshold is not None
        task = replace(task, classes=task.classes or asked.classes)
        if same_task(candidate.findings.task, task):
            if isinstance(asked.answers, np.ndarray):
                shares = asked.answers.clip(FLOOR, 1)
                theirs = RowScores.of(shares, ours.labels, decided(shares, asked.threshold))
                unseen, left_out = _unseen(standing, asked.columns, data, tracker)
                scores = Unavailable(
                    f"version {standing.version}, in production, was trained on every one of these "
                    "test rows, so that none is left to compare on; policy=any does not compare"
                )
                if unseen.any():
                    scores = ours.some(unseen), theirs.some(unseen)
            else:
                scores = asked.answers
    number = str(standing.version)
    return Incumbent(version=number, task=task, scores=scores, left_out=left_out, by_rule=ruled)


def _unseen(
    standing: ModelVersion, columns: Sequence[str], data: Dataset, tracker: Tracker
) -> tuple[Hits, int | None]:
    """Which test rows production was not trained on, and how many others there are.

    All, and None, where it is not known what it was trained on. By groups, where it was trained on
    some and the rows say of which they are.  Shape: (n,).
    """
    trained = kept_rows.trained_rows(tracker, standing.tags, data.identity)
    rows, table = data.raw("test"), data.table
    unseen = np.ones(len(rows), dtype=bool)
    if trained is None:
        return unseen, None
    if not len(trained):
        return unseen, 0
    known = kept_rows.trained_groups(tracker, standing.tags)
    if known and table.groups is not None and len(table.group_columns) == len(known.columns):
        seen = np.isin(table.groups[data.split.test], known.hashes)
    elif known and set(known.columns) <= set(rows.columns):
        groups = group_hashes(rows[list(known.columns)], row_hashes(rows))
        seen = np.isin(groups, known.hashes)
    else:
        seen = np.isin(row_hashes(rows[list(columns)]), trained)
    return ~seen, int(seen.sum())


def _classes(data: Dataset) -> list[str]:
    return [text_of(label) for label in data.table.classes]


def dataset_of(run: Run, data: Source = "") -> Dataset | Unavailable:
    """Read a run's table again, from elsewhere where ``data`` is given; or why it cannot be had."""
    params = run.data.params
    if isinstance(data, str) and not data:
        data = params["kd.data"]
    if isinstance(data, str) and data == FRAME:
        return Unavailable(
            "its table came as a DataFrame: promote from Python, kd.promote(data=frame)"
        )
    given = {  # an option that the run knew nothing of has its default
        field.name: DataOptions.read(field.name, params[f"kd.{field.name}"])
        for field in fields(DataOptions)
        if f"kd.{field.name}" in params
    }
    csv = {} if is_csv(data) else {"separator": "", "decimal": ""}
    try:
        dataset = read_dataset(DataOptions(**given | csv | {"data": data}))
    except DataError as error:
        return Unavailable(f"the test rows cannot be read again: {error}")
    if dataset.identity != identity_of(run):
        return Unavailable(
            f"the table {dataset.table.source} is another one, or it or its split changed since "
            "the version was trained; the same rows in another order are another table"
        )
    return dataset


def identity_of(run: Run) -> Identity:
    """The dataset that a run was trained on; the split of an early run is not known."""
    tags = run.data.tags
    return Identity(tags["kd.data_digest"], tags.get("kd.split", ""))
