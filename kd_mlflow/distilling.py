"""The second step: students against an ensemble, compared, the first one registered."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from kd_mlflow import card, registry
from kd_mlflow.config import DistillConfig, StudentRecipe
from kd_mlflow.dataset import Dataset
from kd_mlflow.evaluation import Comparison, evaluate_students
from kd_mlflow.models import Population
from kd_mlflow.packaging import StudentModule, log_student
from kd_mlflow.steps import BALANCE, Listener, describe_run, member_seeds, numbered, train
from kd_mlflow.students import Member, finish, student_task, transfer_set
from kd_mlflow.summary import distill_table
from kd_mlflow.teachers import Teacher, fingerprint
from kd_mlflow.tracking import TrackedRun, Tracker
from kd_mlflow.workers import Workers

RUN_KINDS = {
    "distilled": "student",
    "baseline": "baseline",
    "strong_baseline": "strong_baseline",
}
"""What each kind of student is called as a run."""

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
) -> DistillResult:
    """Train students and baselines, compare them with the ensemble, register the first student."""
    mark = fingerprint(dataset.table.digest, config.as_text() | {"teachers": ensemble.identity})
    groups = student_groups(config, member_seeds(config.seed, SEED_STREAM, config.n_students))
    with tracker.run("distill", f"distill {dataset.table.name}", parent=parent) as run:
        lessons = transfer_set(config, dataset, ensemble)
        describe_run(run, config, dataset, mark, pool_rows=len(lessons.labels))
        run.tags(ensemble.tags)
        with ExitStack() as open_runs:
            runs, members = [], []
            for kind, some in groups.items():
                name = RUN_KINDS[kind]
                opened = tracker.children(name, numbered(name, len(some)), parent=run)
                runs += open_runs.enter_context(opened)
                members += some
            for member_run, member in zip(runs, members, strict=True):
                describe_run(
                    member_run,
                    config,
                    dataset,
                    mark,
                    member_seed=member.seed,
                    alpha=member.alpha,
                    student_mixup=member.mixup,
                )
                member_run.describe(card.student_note(config, dataset.table, member))
            task = student_task(config, lessons, members, config.student_hidden)
            train(task, runs, Workers.of(config), label="students", listener=listener)
            population = finish(config, task, lessons)
            comparison = _compare(config, population, list(groups), dataset, ensemble)
            finals = [final for each in comparison.students.values() for final in each]
            for member_run, final in zip(runs, finals, strict=True):
                member_run.metrics(final)
        student = StudentModule(ensemble.encoding, population.member(0))
        version = _log_and_register(config, dataset, ensemble, student, comparison, run)
    return DistillResult(
        run_id=run.id,
        teachers=ensemble.source,
        teachers_run_id=ensemble.tags.get("kd.teachers_run_id"),
        comparison=comparison,
        model_name=config.model_name,
        version=version,
        test_rows=len(dataset.split.test),
    )


def _log_and_register(
    config: DistillConfig,
    dataset: Dataset,
    ensemble: Teacher,
    student: StudentModule,
    comparison: Comparison,
    run: TrackedRun,
) -> str:
    """Log the comparison and the student, register it last of all; return the version."""
    table, split = dataset.table, dataset.split
    model_id = log_student(run, module=student, example=dataset.features("train"))
    run.document(split.balance(table), BALANCE)
    run.metrics(comparison.summary)
    run.describe(card.distill_note(config, table, comparison))
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
) -> Comparison:
    features = dataset.features("test")
    inputs = ensemble.encoding.inputs(features)
    logits = population.logits(inputs).chunk(len(kinds))
    return evaluate_students(
        dict(zip(kinds, logits, strict=True)),
        ensemble.score(features, config.averaging),
        dataset.labels("test"),
        student_parameters=population.parameters_per_member,
        ensemble_parameters=ensemble.parameters,
    )
