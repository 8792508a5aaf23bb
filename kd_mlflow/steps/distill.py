"""The second step: students against an ensemble, compared, one of them registered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from getpass import getuser
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from kd_mlflow.config.entry_points import DistillConfig, SweepConfig
from kd_mlflow.config.groups import StudentRecipe
from kd_mlflow.distillation import footprint
from kd_mlflow.distillation.boosting import boosting_alone
from kd_mlflow.distillation.evidence import Evidence, compare
from kd_mlflow.distillation.families import Family
from kd_mlflow.distillation.identity import STUDENT_STREAM, fingerprint, member_seeds
from kd_mlflow.distillation.logits import class_probabilities
from kd_mlflow.distillation.menu import Trial, baselines_named, chosen
from kd_mlflow.distillation.onnx_graph import onnx_student
from kd_mlflow.distillation.review import STUDENT
from kd_mlflow.distillation.student_module import StudentModule
from kd_mlflow.distillation.students import (
    StudentSetting,
    TransferSet,
    student_groups,
    transfer_set,
)
from kd_mlflow.distillation.teachers import Ensemble, Teacher
from kd_mlflow.distillation.trained import trained_students
from kd_mlflow.evaluation.metrics import majority_metrics
from kd_mlflow.evaluation.scores import Metrics
from kd_mlflow.models import own_models
from kd_mlflow.registry.moves import now
from kd_mlflow.registry.versions import register
from kd_mlflow.report import notes
from kd_mlflow.report.review import never_text
from kd_mlflow.report.training_results import DistillResult
from kd_mlflow.report.words import BOOSTING, together, trial_text
from kd_mlflow.steps.rehearsal import check_memory, rehearse_student
from kd_mlflow.steps.work import REPORT, Session, Work, begun, page_of, run_names
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding
from kd_mlflow.table.hashing import row_hashes
from kd_mlflow.tracking import kept_rows
from kd_mlflow.tracking.open_run import TrackedRun
from kd_mlflow.tracking.provenance import source, version_tags

if TYPE_CHECKING:  # it brings matplotlib, which training needs not wait for
    from kd_mlflow.figures.style import Picture

C = TypeVar("C", DistillConfig, SweepConfig)

OF_MODEL = "registered_"
"""How the names of metrics begin that are the registered student's."""

RUN_KINDS = {"distilled": "student", "baseline": "baseline", "strong_baseline": "strong_baseline"}
"""What each kind of student is called as a kind of run."""


def check_student_memory(config: DistillConfig, dataset: Dataset, encoding: Encoding) -> None:
    """Refuse students that this machine has no memory for.  Raises DataError."""
    widths = config.menu("student_hidden", len(dataset.split.train))
    check_memory(dataset, encoding, [max(widths)] * (len(RUN_KINDS) * config.n_students))


def distill_step(
    config: DistillConfig,
    session: Session,
    ensemble: Teacher,
    *,
    teacher_accuracies: Sequence[float] = (),
    rehearsed: bool = False,
) -> DistillResult:
    """Train students and baselines, compare them with the ensemble, register one student.

    ``teacher_accuracies`` on test rows are for figures; empty where they are not known.
    ``rehearsed``: a student of this encoding was packaged in this process already.
    """
    dataset = session.dataset
    check_student_memory(config, dataset, ensemble.encoding)
    if not rehearsed:
        rehearse_student(dataset, ensemble.encoding)
    (seed,) = member_seeds(config.seed, STUDENT_STREAM, 1)
    mark = fingerprint(dataset.identity, config.as_text() | {"teachers": ensemble.identity})
    with begun("distill", config, session, mark) as work:
        run, lessons = work.run, transfer_set(config, dataset, ensemble)
        work, trials = with_student(work, lessons, seed)
        named = baselines_named(work.config, lessons, seed=seed, fit=work.fit)
        work = replace(work, config=named)
        work.describe(pool_rows=lessons.taught_rows)
        run.log(tags=ensemble.tags)
        evidence, student, beside = _compared(work, ensemble, lessons, trials, teacher_accuracies)
        note = notes.distill_note(evidence)
        work.log_table()
        version, beside = _log_and_register(evidence, ensemble, student, beside, run, note)
    shown = page_of(session.tracker, run, REPORT)
    return DistillResult(
        run_id=run.id,
        taught_by=ensemble.source,
        teachers_run_id=ensemble.run_id,
        comparison=evidence.comparison,
        model_name=config.model_name,
        version=version,
        trials=trials,
        note=note,
        test_rows=len(dataset.split.test),
        together=together(dataset),
        page=shown._replace(models=session.tracker.models_page(run)),
        beside=beside,
        never=never_text(evidence.class_scores[STUDENT]),
    )


def _compared(
    work: Work[DistillConfig],
    ensemble: Teacher,
    lessons: TransferSet,
    trials: Sequence[Trial],
    teacher_accuracies: Sequence[float],
) -> tuple[Evidence, StudentModule, Metrics]:
    """Train students of all kinds and compare them; each run gets its final metrics."""
    config = work.config
    groups = student_groups(config, member_seeds(config.seed, STUDENT_STREAM, config.n_students))
    with _student_runs(work, groups) as runs:
        trained = trained_students(config, lessons, groups, trials, partial(work.fit, runs=runs))
        place = trained.nearest() if config.registered_seed == "nearest" else 0
        runs[place].log(tags={"kd.registered": "true"})
        trained = replace(trained, place=place)
        alone = boosting_alone(work.dataset, ensemble.encoding, config.seed)
        boosting = work.fit(alone, BOOSTING).family
        evidence = compare(
            config,
            work.dataset,
            ensemble,
            trained,
            boosting=boosting,
            teacher_accuracies=teacher_accuracies,
        )
        finals = chain(*evidence.comparison.students.values())
        for run, final in zip(runs, finals, strict=True):
            run.log(metrics=final)
    student = replace(trained, encoding=evidence.encoding).registered
    beside = {**_beside(evidence, ensemble, boosting, student), **_fit_times(work, groups)}
    return evidence, student, beside


def _beside(
    evidence: Evidence, ensemble: Teacher, boosting: Family, student: StudentModule
) -> Metrics:
    """What a reader asks beside the comparison: the majority class, and what each model costs.

    Times are measured while nothing else is done, of the code that pulled models run.
    """
    dataset, averaging = evidence.dataset, evidence.config.averaging
    alone = Ensemble(encoding=ensemble.encoding, families=(boosting,))
    models = {
        "registered": footprint.served(student),
        "ensemble": own_models.served_teacher(ensemble, averaging),
        "boosting": own_models.served_teacher(alone, averaging),
    }
    rows, (parameters,) = dataset.features("test").head(footprint.MANY_ROWS), boosting.parameters
    beside = majority_metrics(dataset.labels("train"), dataset.labels("test"))
    if parameters:
        beside |= {"boosting_parameters": parameters}
    for name, model in models.items():
        beside |= footprint.speed(model, rows).metrics(name)
    return beside


def _fit_times(
    work: Work[DistillConfig], groups: Mapping[str, Sequence[StudentSetting]]
) -> Metrics:
    """Seconds of training: each kind's part of the students' population, and boosted trees."""
    every = sum(map(len, groups.values()))
    parts = {kind: work.times["students"] * len(some) / every for kind, some in groups.items()}
    return {f"{kind}_fit_s": s for kind, s in {**parts, "boosting": work.times[BOOSTING]}.items()}


def with_student(
    work: Work[C], lessons: TransferSet, seed: int
) -> tuple[Work[C], tuple[Trial, ...]]:
    """Choose a student where the recipe leaves a choice; the configuration then names it."""
    config, trials = chosen(work.config, lessons, seed=seed, fit=work.fit)
    if trials:
        work.listener.say(f"student chosen: {trial_text(trials[-1])}")
    return replace(work, config=config), trials


@contextmanager
def _student_runs(
    work: Work[DistillConfig], groups: Mapping[str, Sequence[StudentSetting]]
) -> Iterator[list[TrackedRun]]:
    """Open and describe one run per student, kind by kind; all end as the block ends."""
    name, epochs = work.dataset.table.name, work.config.student_epochs
    with ExitStack() as open_runs:
        runs: list[TrackedRun] = []
        for kind, some in groups.items():
            names = run_names(RUN_KINDS[kind].removesuffix("_baseline"), len(some))
            runs += open_runs.enter_context(work.children(RUN_KINDS[kind], names))
        for run, member in zip(runs, chain(*groups.values()), strict=True):
            work.describe(
                run,
                note=notes.student_note(name, member, epochs=epochs),
                member_seed=member.seed,
                alpha=member.alpha,
                student_mixup=member.mixup,
            )
        yield runs


def _log_and_register(
    evidence: Evidence,
    ensemble: Teacher,
    student: StudentModule,
    beside: Metrics,
    run: TrackedRun,
    note: str,
) -> tuple[str, Metrics]:
    """Log the comparison and the student, register it last of all; return the version.

    With it comes ``beside`` and what the packaged student costs. Figures are drawn meanwhile: the
    store is waited for, they are not.
    """
    from kd_mlflow.report.page import document, page  # with matplotlib, which may wait

    config, dataset = evidence.config, evidence.dataset
    with ThreadPoolExecutor(max_workers=1) as draughtsman:
        drawing = draughtsman.submit(_drawn, evidence)
        model_id, costs = _log_model(evidence, student, run, beside)
        _log_findings(evidence, beside, run, note)
        pictures = drawing.result()
    beside = {**beside, **costs.metrics}
    report = document(evidence, costs, beside, made=_made(evidence, run), run_id=run.id)
    html = page(evidence, report, pictures, model_id=model_id)
    figures = {f"figures/{name}.png": picture.wide for name, picture in pictures.items()}
    run.files({**figures, REPORT: html.encode(), "report.json": report})
    ours = ensemble.run_id is not None
    version = register(
        run,
        model_name=config.model_name,
        model_id=model_id,
        target=dataset.table.target,
        identity=dataset.identity,
        content=student.content_digest(),
        card=notes.model_card(evidence, taught_by=ensemble.source, ours=ours, costs=costs),
    )
    return version, beside


def _made(evidence: Evidence, run: TrackedRun) -> list[tuple[str, str]]:
    """When, of what, by what and by whom a comparison was made."""
    identity, tags = evidence.dataset.identity, {**version_tags(), **source()}
    commit = tags.get("mlflow.source.git.commit")
    return [
        ("made", f"{now()[:16].replace('T', ' ')} UTC by {getuser()}, run {run.id}"),
        ("with", f"kd_mlflow {tags['kd.version']}{f', commit {commit[:12]}' if commit else ''}"),
        ("digests", f"table {identity.data_digest[:12]}, split {identity.split[:12]}"),
    ]


def _log_model(
    evidence: Evidence, student: StudentModule, run: TrackedRun, beside: Metrics
) -> tuple[str, footprint.Footprint]:
    """Log the student in all its forms, then its own metrics; return the model's id and costs."""
    config, dataset = evidence.config, evidence.dataset
    exported = None
    if config.export == "onnx":
        exported = onnx_student(student, student.encoding.encode(dataset.features("test")))
        run.files({own_models.ONNX: exported.content})
    write = partial(
        own_models.save_student,
        module=student,
        example=evidence.example,
        profile=evidence.profile,
        onnx=exported.content if exported else None,
    )
    params = StudentRecipe.part_of(config).as_text()
    model_id, model_bytes = own_models.log_student(run, write, params=params)
    costs = footprint.Footprint(
        speed=footprint.Speed.of("registered", beside),
        ensemble=footprint.Speed.of("ensemble", beside),
        model_bytes=model_bytes,
        environment_bytes=footprint.environment_bytes(own_models.requirements()),
    )
    summary = evidence.comparison.summary
    metrics = {name: value for name, value in summary.items() if name.startswith(OF_MODEL)}
    metrics |= costs.metrics | (exported.metrics if exported else {})
    run.log(metrics=metrics, model_id=model_id)
    return model_id, costs


def _log_findings(evidence: Evidence, beside: Metrics, run: TrackedRun, note: str) -> None:
    """Log what the comparison found of all its models, and which rows they saw."""
    comparison, split, table = evidence.comparison, evidence.dataset.split, evidence.dataset.table
    recalls = comparison.recall_by_class()
    found: dict[str, Any] = {"class_recall.json": recalls, "review.json": evidence.review()}
    if evidence.trials:
        found["student_menu.json"] = [asdict(trial) for trial in evidence.trials]
    run.files(found)
    seen = np.concatenate([split.train, split.val])
    columns = [column.name for column in evidence.encoding.columns]
    kept_rows.keep_trained_rows(run, row_hashes(table.features[columns].iloc[seen]))
    if table.groups is not None:
        kept_rows.keep_trained_groups(
            run, kept_rows.TrainedGroups(table.groups[seen], table.group_columns)
        )
    tested, scored = row_hashes(evidence.dataset.features("test"), exact=True), evidence.logits
    kept_rows.keep_answers(
        run, tested, class_probabilities(scored.students["distilled"][scored.registered])
    )
    own = (OF_MODEL, *footprint.Speed.names("ensemble"))  # logged with the model
    metrics = {
        name: value
        for name, value in {**comparison.summary, **beside}.items()
        if not name.startswith(own)
    }
    run.log(metrics=metrics, note=note)


def _drawn(evidence: Evidence) -> dict[str, Picture]:
    """Every figure as a picture; matplotlib is imported here, where there is something to draw."""
    from kd_mlflow.figures import gallery
    from kd_mlflow.figures.style import picture

    return {name: picture(figure) for name, figure in gallery.draw(evidence).items()}
