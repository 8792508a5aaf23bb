"""The second step: students against an ensemble, compared, the first one registered."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from kd_mlflow import card, gallery, registry, report
from kd_mlflow.config import DistillConfig, StudentRecipe
from kd_mlflow.dataset import Dataset
from kd_mlflow.evaluation import Answers, Comparison, evaluate_students
from kd_mlflow.gallery import Evidence
from kd_mlflow.models import Population
from kd_mlflow.packaging import StudentModule, log_student
from kd_mlflow.steps import BALANCE, Listener, describe_run, member_seeds, numbered, train
from kd_mlflow.students import Member, TransferSet, finish, student_task, transfer_set
from kd_mlflow.style import png
from kd_mlflow.summary import distill_table
from kd_mlflow.teachers import Teacher, fingerprint
from kd_mlflow.tracking import TrackedRun, Tracker
from kd_mlflow.training import History
from kd_mlflow.workers import Workers

RUN_KINDS = {
    "distilled": "student",
    "baseline": "baseline",
    "strong_baseline": "strong_baseline",
}
"""What each kind of student is called as a kind of run."""

SEED_STREAM = 1
"""Keeps students' seeds apart from teachers'."""


@dataclass(frozen=True, kw_only=True, repr=False)
class DistillResult:
    """A comparison and the version that its first student became.

    ``teachers`` says who taught; ``teachers_run_id`` is None where that is no ensemble of ours.
    """

    run_id: str
    teachers: str
    teachers_run_id: str | None
    comparison: Comparison
    model_name: str
    version: str
    test_rows: int

    def __repr__(self) -> str:
        return distill_table(self)


def student_groups(config: StudentRecipe, seeds: Sequence[int]) -> dict[str, list[Member]]:
    """Students by kind, each kind with the same seeds.

    A baseline is a student whose alpha is 0 and who sees the table's rows alone; a strong one mixes
    them and their labels too.
    """
    t = config.temperature
    groups = {
        "distilled": [Member(seed=s, temperature=t, alpha=config.alpha) for s in seeds],
        "baseline": [Member(seed=s, temperature=t, alpha=0.0, taught=False) for s in seeds],
    }
    if config.student_mixup:
        groups["strong_baseline"] = [
            replace(member, mixup=config.student_mixup) for member in groups["baseline"]
        ]
    return groups


def distill_step(
    config: DistillConfig,
    dataset: Dataset,
    ensemble: Teacher,
    tracker: Tracker,
    listener: Listener,
    parent: TrackedRun | None = None,
    *,
    teacher_accuracies: Sequence[float] = (),
) -> DistillResult:
    """Train students and baselines, compare them with the ensemble, register the first student.

    ``teacher_accuracies`` on test rows are for figures; empty where they are not known.
    """
    mark = fingerprint(dataset.table.digest, config.as_text() | {"teachers": ensemble.identity})
    groups = student_groups(config, member_seeds(config.seed, SEED_STREAM, config.n_students))
    with tracker.run("distill", f"distill {dataset.table.name}", parent=parent) as run:
        lessons = transfer_set(config, dataset, ensemble)
        describe_run(run, config, dataset, mark, pool_rows=len(lessons.labels))
        run.log(tags=ensemble.tags)
        with ExitStack() as open_runs:
            runs, members = [], []
            for kind, some in groups.items():
                names = numbered(RUN_KINDS[kind].removesuffix("_baseline"), len(some))
                opened = tracker.children(RUN_KINDS[kind], names, parent=run)
                runs += open_runs.enter_context(opened)
                members += some
            for member_run, member in zip(runs, members, strict=True):
                _describe_member(member_run, member, config, dataset, mark)
            task = student_task(config, lessons, members, config.student_hidden)
            history = train(task, runs, Workers.of(config), label="students", listener=listener)
            population = finish(config, task, lessons)
            evidence = _compare(
                config,
                population,
                list(groups),
                dataset,
                ensemble,
                history=history,
                lessons=lessons,
                teacher_accuracies=teacher_accuracies,
            )
            finals = [each for some in evidence.comparison.students.values() for each in some]
            for member_run, final in zip(runs, finals, strict=True):
                member_run.log(metrics=final)
        student = StudentModule(ensemble.encoding, population.member(0))
        version = _log_and_register(evidence, ensemble, student, run)
    return DistillResult(
        run_id=run.id,
        teachers=ensemble.source,
        teachers_run_id=ensemble.tags.get("kd.teachers_run_id"),
        comparison=evidence.comparison,
        model_name=config.model_name,
        version=version,
        test_rows=len(dataset.split.test),
    )


def _describe_member(
    run: TrackedRun, member: Member, config: DistillConfig, dataset: Dataset, mark: str
) -> None:
    describe_run(
        run,
        config,
        dataset,
        mark,
        note=card.student_note(config, dataset.table, member),
        member_seed=member.seed,
        alpha=member.alpha,
        student_mixup=member.mixup,
    )


def _log_and_register(
    evidence: Evidence, ensemble: Teacher, student: StudentModule, run: TrackedRun
) -> str:
    """Log the comparison and the student, register it last of all; return the version."""
    config, dataset, comparison = evidence.config, evidence.dataset, evidence.comparison
    table, split = dataset.table, dataset.split
    example, params = dataset.features("train"), StudentRecipe.part_of(config).as_text()
    model_id = log_student(run, module=student, example=example, params=params)
    run.document(split.balance(table), BALANCE)
    of_model = {n: v for n, v in comparison.summary.items() if n.startswith("registered_")}
    of_run = {n: v for n, v in comparison.summary.items() if n not in of_model}
    run.log(metrics=of_run, note=card.distill_note(config, table, comparison))
    run.log(metrics=of_model, model_id=model_id)
    pictures = {name: png(figure) for name, figure in gallery.draw(evidence).items()}
    for name, picture in pictures.items():
        run.file(picture, f"figures/{name}.png")
    run.file(report.page(evidence, pictures, model_id=model_id).encode(), "report.html")
    return registry.register(
        run.client,
        model_name=config.model_name,
        model_id=model_id,
        run_id=run.id,
        digest=table.digest,
        card=card.model_card(
            config,
            table,
            split,
            comparison,
            model_name=config.model_name,
            teachers=ensemble.source,
            ours="kd.teachers_run_id" in ensemble.tags,
        ),
    )


def _compare(
    config: DistillConfig,
    population: Population,
    kinds: Sequence[str],
    dataset: Dataset,
    ensemble: Teacher,
    *,
    history: History,
    lessons: TransferSet,
    teacher_accuracies: Sequence[float],
) -> Evidence:
    """Score the test rows once and keep what figures and report show of it."""
    features = dataset.features("test")
    inputs = ensemble.encoding.inputs(features)
    logits = population.logits(inputs).chunk(len(kinds))
    answers = Answers(
        labels=dataset.labels("test"),
        ensemble=ensemble.score(features, config.averaging),
        students=dict(zip(kinds, logits, strict=True)),
    )
    comparison = evaluate_students(
        answers.students,
        answers.ensemble,
        answers.labels,
        student_parameters=population.parameters_per_member,
        ensemble_parameters=ensemble.parameters,
    )
    return Evidence(
        config=config,
        dataset=dataset,
        encoding=ensemble.encoding,
        comparison=comparison,
        answers=answers,
        history=history,
        lessons=lessons,
        teacher_accuracies=teacher_accuracies,
    )
