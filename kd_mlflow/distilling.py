"""The second step: students against an ensemble, compared, the first one registered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kd_mlflow import card, metrics, registry
from kd_mlflow.config import DistillConfig
from kd_mlflow.dataset import Dataset, label_tensors, training_rows
from kd_mlflow.evaluation import Comparison, evaluate_students
from kd_mlflow.losses import DistillationLoss
from kd_mlflow.models import Population
from kd_mlflow.packaging import StudentModule, log_student
from kd_mlflow.steps import (
    BALANCE,
    Listener,
    describe_run,
    member_seeds,
    numbered,
    schedule_of,
    train_population,
    validation_figures,
)
from kd_mlflow.teachers import Ensemble, fingerprint
from kd_mlflow.tracking import TrackedRun, Tracker

SEED_STREAM = 1
"""Keeps students' seeds apart from teachers'."""


@dataclass(frozen=True, kw_only=True)
class DistillResult:
    """A comparison and the version that its first student became."""

    run_id: str
    teachers_run_id: str
    comparison: Comparison
    model_name: str
    version: str
    test_rows: int


def distill_step(
    config: DistillConfig,
    dataset: Dataset,
    ensemble: Ensemble,
    teachers_run_id: str,
    tracker: Tracker,
    listener: Listener,
    parent: TrackedRun | None = None,
) -> DistillResult:
    """Train students and baselines, compare them with the ensemble, register the first student."""
    encoding, n = ensemble.encoding, config.n_students
    mark = fingerprint(dataset.table.digest, config.as_text())
    seeds = member_seeds(config.seed, SEED_STREAM, n)
    with tracker.run("distill", f"distill {dataset.table.name}", parent=parent) as run:
        describe_run(run, config, dataset, mark)
        run.tags({"kd.teachers_run_id": teachers_run_id})
        students = tracker.children("student", numbered("student", n), parent=run)
        baselines = tracker.children("baseline", numbered("baseline", n), parent=run)
        with students as distilled, baselines as plain:
            members = [*distilled, *plain]
            alphas = [config.alpha] * n + [0.0] * n
            for member, seed, alpha in zip(members, seeds * 2, alphas, strict=True):
                describe_run(member, config, dataset, mark, member_seed=seed, alpha=alpha)
                member.describe(card.student_note(config, dataset.table, seed, alpha))
            population = _train_students(
                config,
                dataset,
                ensemble,
                runs=members,
                seeds=seeds,
                alphas=alphas,
                listener=listener,
            )
            comparison = _compare(population, dataset, ensemble)
            for member, final in zip(
                members, comparison.distilled + comparison.baseline, strict=True
            ):
                member.metrics(final)
        student = StudentModule(encoding, population.member(0))
        version = _log_and_register(config, dataset, student, comparison, run)
    return DistillResult(
        run_id=run.id,
        teachers_run_id=teachers_run_id,
        comparison=comparison,
        model_name=config.model_name,
        version=version,
        test_rows=len(dataset.split.test),
    )


def _log_and_register(
    config: DistillConfig,
    dataset: Dataset,
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
        card=card.model_card(config, table, split, comparison, model_name=config.model_name),
    )


def _train_students(
    config: DistillConfig,
    dataset: Dataset,
    ensemble: Ensemble,
    *,
    runs: Sequence[TrackedRun],
    seeds: Sequence[int],
    alphas: Sequence[float],
    listener: Listener,
) -> Population:
    """Train distilled students and baselines as one population: a baseline's alpha is 0."""
    encoding = ensemble.encoding
    rows = training_rows(encoding, dataset)
    device = rows.train.device
    pairs = list(seeds) * 2
    population = Population.initialised(
        (rows.train.shape[1], *config.student_hidden, len(encoding.classes)), seeds=pairs
    ).to(device)
    labels, val_labels = label_tensors(dataset, device)
    ensemble_classes = ensemble.logits(rows.val).argmax(dim=1).to(device)
    loss = DistillationLoss(
        ensemble.logits(rows.train).to(device),
        labels,
        temperature=torch.full((len(pairs),), config.temperature, device=device),
        alpha=torch.tensor(alphas, device=device),
    )
    train_population(
        population,
        rows,
        loss,
        runs=runs,
        schedule=schedule_of(config, config.student_epochs, config.student_weight_decay),
        seeds=pairs,
        evaluate=lambda logits: {
            **validation_figures(logits, val_labels),
            "val_agreement": metrics.agreements(logits, ensemble_classes),
        },
        label="students",
        listener=listener,
    )
    return population.cpu()


def _compare(population: Population, dataset: Dataset, ensemble: Ensemble) -> Comparison:
    n = population.k // 2
    inputs = ensemble.encoding.inputs(dataset.features("test"))
    logits = population.logits(inputs)
    return evaluate_students(
        logits[:n],
        logits[n:],
        ensemble.logits(inputs),
        dataset.labels("test"),
        student_parameters=population.parameters_per_member,
        ensemble_parameters=ensemble.parameters,
    )
