"""Beside the line: any model on any table, what it is worth there and how the table has moved."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd_mlflow.config.entry_points import EvaluateConfig
from kd_mlflow.distillation.identity import fingerprint
from kd_mlflow.errors import ConfigError, DataError, RegistryError, RunError, Unavailable, listed
from kd_mlflow.evaluation.checks import Check
from kd_mlflow.evaluation.drift import ColumnDrift, most_moved_first
from kd_mlflow.evaluation.findings import Findings, Histogram
from kd_mlflow.evaluation.metric_intervals import metrics_with_intervals
from kd_mlflow.evaluation.scores import RowScores, class_scores, expected_accuracy, paired
from kd_mlflow.figures.drift import draw
from kd_mlflow.figures.style import picture
from kd_mlflow.models.any_model import AnyModel, find_other, logged_here, named_model
from kd_mlflow.report.evaluation_result import EvaluationResult, evaluation_note
from kd_mlflow.report.markdown import one_line, percent
from kd_mlflow.report.page import evaluation_page
from kd_mlflow.report.words import sizes_text
from kd_mlflow.steps.work import RUN_NAME_LENGTH, page_of
from kd_mlflow.table.dataset import Identity
from kd_mlflow.table.groups import GroupSizes, check_named, column_names, group_hashes
from kd_mlflow.table.hashing import split_hashes
from kd_mlflow.table.profile import column_shifts, unknown_profile
from kd_mlflow.table.scored import ScoredRows, read_rows
from kd_mlflow.tracking.kept_rows import trained_groups, trained_rows
from kd_mlflow.tracking.open_run import PARAM_LENGTH, TrackedRun
from kd_mlflow.tracking.provenance import data_set_input
from kd_mlflow.tracking.runs import Tracker

_log = logging.getLogger(__name__)

AUTO, NONE = "auto", "none"


def evaluate_step(config: EvaluateConfig, tracker: Tracker) -> EvaluationResult:
    """Score a table with a model, compare labels and columns, and log what was found.

    Raises ConfigError where a limit cannot be asked for, DataError and RunError where the table
    cannot be read or the model cannot score it.
    """
    if config.strict and not (config.max_psi or config.min_accuracy):
        raise ConfigError("strict needs a limit to hold to: give max_psi or min_accuracy")
    model = named_model(tracker, config.model)
    if config.max_psi and model.profile is None:
        raise ConfigError(
            f"max_psi needs a model with a profile of its training rows; {model.title} has none: "
            "distil it again, or leave max_psi out"
        )
    rows = read_rows(config, model.encoding)
    model = model.taking(rows.features)
    other = _other(config, tracker, model)
    with tracker.run("evaluation", one_line(f"evaluate {rows.name}", RUN_NAME_LENGTH)) as run:
        findings = _findings(config, tracker, model, rows, other)
        digest = rows.digest(model.respondent.columns)
        whole = len(findings.scores.predicted) == len(rows.features)
        notes = (*findings.notes, *_of_origin(tracker, model, rows, digest if whole else ""))
        findings = replace(findings, notes=notes)
        for note in notes:
            _log.info("%s", note)
        _describe(run, config, model, rows, digest)
        logged = logged_here(tracker, model)
        run.data_set(data_set_input(rows, digest), *([logged] if logged else []))
        _log_findings(run, findings, model)
    return EvaluationResult(
        run_id=run.id,
        model=model.resolved,
        findings=findings,
        pickles=model.pickles + (other.pickles if isinstance(other, AnyModel) else ()),
        page=page_of(tracker, run),
    )


def _other(
    config: EvaluateConfig, tracker: Tracker, model: AnyModel
) -> AnyModel | Unavailable | None:
    """The model to compare with: the one that was named, or what stands in the registry."""
    if config.against == NONE:
        return None
    if config.against != AUTO:
        return named_model(tracker, config.against)
    if (uri := find_other(tracker, model)) is None:
        return None
    try:
        return named_model(tracker, uri)
    except (RegistryError, RunError) as error:  # nobody named it
        return Unavailable(str(error))


def _findings(
    config: EvaluateConfig,
    tracker: Tracker,
    model: AnyModel,
    rows: ScoredRows,
    other: AnyModel | Unavailable | None,
) -> Findings:
    labels = rows.label_texts()
    classes = model.classes(rows.features, labels)
    groups = _groups(config, tracker, model, rows)
    scores = groups.of(model.score(rows.features, labels, classes))
    _check_labels(config, rows, scores, classes)
    drift, histograms = _table_drift(model, rows, groups.numbers)
    pair, apart = None, other.reason if isinstance(other, Unavailable) else ""
    if isinstance(other, AnyModel):
        try:
            asked = other.taking(rows.features)
            pair = paired(scores, groups.of(asked.score(rows.features, labels, classes)))
        except RunError as error:  # where nobody named it, it may not fit
            if config.against != AUTO:
                raise
            apart = str(error)
    trained = model.profile.classes if model.profile else ()
    found = Findings(
        model=model.title,
        table=rows.name,
        target=rows.target,
        scores=scores,
        metrics=metrics_with_intervals(scores) if len(scores.known) else {},
        classes=class_scores(scores, classes),
        class_shares=tuple(count / sum(trained) for count in trained),
        estimate=expected_accuracy(scores),
        drift=drift,
        histograms=histograms,
        against=other.title if isinstance(other, AnyModel) else None,
        pair=pair,
        limits=(),
        notes=(*groups.notes, *([f"not compared: {apart}"] if apart else [])),
    )
    return replace(found, limits=_limits(config, found))


class Groups(NamedTuple):
    """What each row is about, by number, which rows are judged, and what a reader must know of it.

    ``numbers`` is None where each row is alone.  Shape: (n,) each.
    """

    numbers: NDArray[np.int64] | None
    judged: NDArray[np.bool_]
    notes: tuple[str, ...]

    def of(self, scores: RowScores) -> RowScores:
        """The answers to the rows that are judged, with their groups."""
        return replace(scores, groups=self.numbers).some(self.judged)


def _groups(config: EvaluateConfig, tracker: Tracker, model: AnyModel, rows: ScoredRows) -> Groups:
    """Find the rows' groups; those that taught the model are not judged where there are others."""
    everyone = np.ones(len(rows.features), dtype=bool)
    names = column_names(config.group, rows.features.columns)
    if not names:
        return Groups(None, everyone, ())
    check_named(names, "group", list(map(str, rows.features.columns)), rows.target)
    others = rows.features.drop(columns=names)
    hashes = group_hashes(rows.features[names], split_hashes(others))
    _, numbers = np.unique(hashes, return_inverse=True)
    said = sizes_text(GroupSizes.of(hashes), ", ".join(names))
    trained = trained_groups(tracker, model.version.tags) if model.version else None
    if trained is None:
        return Groups(numbers, everyone, (f"{said}; which of them taught the model is not known",))
    new = ~np.isin(hashes, trained.hashes)
    count = len(np.unique(hashes[~new]))
    if new.all() or not new.any():
        what = "none of them" if new.all() else "all of them, so the numbers flatter it,"
        return Groups(numbers, everyone, (f"{said}; {what} taught the model",))
    left = f"{said}; left out: {(~new).sum():,} rows of {count:,} groups that taught the model"
    return Groups(numbers, new, (left,))


def _check_labels(
    config: EvaluateConfig, rows: ScoredRows, scores: RowScores, classes: Sequence[str]
) -> None:
    """Refuse a column of labels of which the model knows none, and a limit without labels."""
    labelled = len(scores.labelled)
    if labelled and not len(scores.known):
        seen = sorted({str(text) for text in rows.label_texts() if text is not None})
        raise DataError(
            f"target {rows.target!r} has no label that the model knows: it has {listed(seen)}, the "
            f"model's classes are {listed(classes)}; name the column of its classes, or leave "
            "target out"
        )
    if config.min_accuracy and not labelled:
        why = f"{rows.target!r} is empty" if rows.target else "no target is given"
        raise ConfigError(
            f"min_accuracy needs labels, and {why}; give target, the name of the label column, or "
            "watch max_psi"
        )


def _table_drift(
    model: AnyModel, rows: ScoredRows, groups: NDArray[np.int64] | None
) -> tuple[tuple[ColumnDrift, ...], dict[str, Histogram]]:
    """Compare each column that the model takes, the most shifted first; counts by column.

    ``groups`` number what each row is about, None where each is alone. Of a model of another
    origin gaps alone are known, and no counts.
    """
    if model.encoding is None:
        gaps = rows.features[list(model.respondent.columns)].isna().mean()
        alone = (ColumnDrift(name=str(n), kind="unknown", gaps=float(g)) for n, g in gaps.items())
        return most_moved_first(alone), {}
    profile = model.profile or unknown_profile(model.encoding)
    return column_shifts(rows.features, model.encoding, profile, groups)


def _limits(config: EvaluateConfig, findings: Findings) -> tuple[Check, ...]:
    limits = []
    if config.max_psi:
        above = [column.name for column in findings.drift if column.above(config.max_psi)]
        most = max(column.psi or 0.0 for column in findings.drift)
        which = f"above it, and above chance: {listed(above)}"
        which = which if above else "no column is above it by more than chance"
        reason = f"the largest index is {most:.4f}, {config.max_psi:g} allowed; {which}"
        limits.append(Check(name="max_psi", passed=not above, reason=reason))
    if config.min_accuracy:
        accuracy = findings.metrics["accuracy"].value
        reason = f"accuracy {percent(accuracy)}, at least {percent(config.min_accuracy)} required"
        enough = accuracy >= config.min_accuracy
        limits.append(Check(name="min_accuracy", passed=enough, reason=reason))
    return tuple(limits)


def _taught(tracker: Tracker, model: AnyModel, rows: ScoredRows) -> int:
    """How many of the rows taught the model, as far as it is known which did."""
    if model.version is None or model.encoding is None:
        return 0
    trained = trained_rows(tracker, model.version.tags, Identity("", ""))
    if trained is None:
        return 0
    columns = [column.name for column in model.encoding.columns]
    return int(np.isin(rows.hashes(columns), trained).sum())


def _of_origin(tracker: Tracker, model: AnyModel, rows: ScoredRows, digest: str) -> list[str]:
    """What a reader must know of where the model and the table come from.

    ``digest`` is the table's, empty where rows that taught the model are not judged.
    """
    notes = []
    if model.version and model.version.tags.get("kd.data_digest") == digest:
        notes.append(
            "this is the table that the model was trained on: most rows taught it, so the numbers "
            "flatter it"
        )
    elif digest and (taught := _taught(tracker, model, rows)):
        notes.append(
            f"{taught:,} of the {len(rows.features):,} rows are equal to rows that taught the "
            "model, so the numbers flatter it"
        )
    if model.encoding is None:
        notes.append(
            "the model is of another origin: nothing is known of its training rows, so columns "
            "are looked at for gaps alone"
        )
    elif model.profile is None:
        notes.append(
            "the model came without a profile of its training rows, so columns have no index; "
            "students that are distilled from now on have one"
        )
    return notes


def _describe(
    run: TrackedRun, config: EvaluateConfig, model: AnyModel, rows: ScoredRows, digest: str
) -> None:
    own = {**config.as_text(), "data": "", "model": model.digest}
    version = {"kd.model_version": str(model.version.version)} if model.version else {}
    run.log(
        params={**config.as_text(), "data": rows.source, "target": rows.target},
        tags={
            "kd.fingerprint": fingerprint(Identity(digest, ""), own),
            "kd.data_digest": digest,
            "kd.model": model.resolved[:PARAM_LENGTH],
            "kd.model_digest": model.digest,
            **version,
        },
    )


def _log_findings(run: TrackedRun, findings: Findings, model: AnyModel) -> None:
    kept = {} if not findings.limits else {"kd.evaluation": "kept" if findings.kept else "broken"}
    run.log(metrics=findings.logged(), tags=kept, note=evaluation_note(findings))
    pictures = {name: picture(figure) for name, figure in draw(findings).items()}
    page = evaluation_page(findings, pictures, uri=model.resolved)
    run.files(
        {
            **{f"figures/{name}.png": drawn.wide for name, drawn in pictures.items()},
            "evaluation.json": findings.document(),
            "drift.json": findings.drift_document(),
            "evaluation.html": page.encode(),
        }
    )
