"""The first step: train and log the ensemble, or reuse the same one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kd_mlflow import card
from kd_mlflow.config import TeachersConfig
from kd_mlflow.curves import teacher_curves
from kd_mlflow.dataset import Dataset, label_tensors, training_rows
from kd_mlflow.encoding import Encoding, fit_encoding
from kd_mlflow.evaluation import Figures, evaluate_ensemble, validation_figures
from kd_mlflow.losses import LabelLoss
from kd_mlflow.models import Population
from kd_mlflow.sampling import Sampling
from kd_mlflow.steps import (
    BALANCE,
    Listener,
    describe_run,
    member_seeds,
    numbered,
    train,
)
from kd_mlflow.style import png
from kd_mlflow.summary import teachers_table
from kd_mlflow.teachers import (
    ARTIFACT,
    Ensemble,
    find_ensemble,
    load_ensemble,
    teachers_fingerprint,
)
from kd_mlflow.tracking import TrackedRun, Tracker
from kd_mlflow.training import History, Schedule, Task
from kd_mlflow.workers import Workers

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Run

CURVES = "figures/teacher_curves.png"

SEED_STREAM = 0
"""Keeps teachers' seeds apart from students'."""


@dataclass(frozen=True, kw_only=True, repr=False)
class TeachersResult:
    """An ensemble, trained now or reused, and its figures on test rows."""

    run_id: str
    reused: bool
    ensemble: Ensemble
    teacher_accuracies: tuple[float, ...]
    figures: Figures

    def __repr__(self) -> str:
        return teachers_table(self)


def teachers_encoding(config: TeachersConfig, dataset: Dataset) -> Encoding:
    """What a table's training rows say about its columns."""
    return fit_encoding(
        dataset.features("train"),
        target=dataset.table.target,
        classes=dataset.table.classes,
        max_categories=config.max_categories,
        scaling=config.scaling,
    )


def teacher_task(config: TeachersConfig, encoding: Encoding, dataset: Dataset) -> Task:
    """The training of the ensemble's members."""
    rows = training_rows(encoding, dataset)
    labels, val_labels = label_tensors(dataset, rows.train.device)
    seeds = member_seeds(config.seed, SEED_STREAM, config.n_teachers)
    population = Population.initialised(
        (rows.train.shape[1], *config.teacher_hidden, len(encoding.classes)),
        seeds=seeds,
        dropout=config.dropout,
    )
    return Task(
        population=population.to(rows.train.device),
        rows=rows,
        loss=LabelLoss(labels),
        schedule=Schedule.of(
            config, epochs=config.teacher_epochs, weight_decay=config.teacher_weight_decay
        ),
        seeds=seeds,
        sampling=Sampling.whole(len(labels), config.n_teachers, mixup=config.teacher_mixup),
        evaluate=lambda logits: validation_figures(logits, val_labels),
    )


def teachers_step(
    config: TeachersConfig,
    dataset: Dataset,
    tracker: Tracker,
    listener: Listener,
    parent: TrackedRun | None = None,
) -> TeachersResult:
    """Return the finished ensemble of the same fingerprint, or train it now."""
    mark = teachers_fingerprint(dataset.table.digest, config)
    found = None if config.force else find_ensemble(tracker, fingerprint=mark)
    if found:
        listener.say(f"ensemble reused: run {found.info.run_id} trained the same one")
        if tracker.attaches and parent is None:
            with tracker.run("teachers", "teachers", reused_run_id=found.info.run_id) as run:
                note = f"Reused: run {found.info.run_id} trained the same ensemble."
                describe_run(run, config, dataset, mark, note=note)
                run.log(metrics=found.data.metrics)
        return _reused(tracker, found)
    return _train_teachers(config, dataset, mark, tracker, listener, parent)


def _reused(tracker: Tracker, run: Run) -> TeachersResult:
    run_id = run.info.run_id
    return TeachersResult(
        run_id=run_id,
        reused=True,
        ensemble=load_ensemble(tracker, run_id),
        teacher_accuracies=teacher_accuracies(tracker, run_id),
        figures=dict(run.data.metrics),
    )


def teacher_accuracies(tracker: Tracker, run_id: str) -> tuple[float, ...]:
    """Test accuracy of each teacher of an ensemble's run."""
    return tuple(run.data.metrics["test_accuracy"] for run in tracker.children_of(run_id))


def _curves(
    config: TeachersConfig, dataset: Dataset, ensemble: Ensemble, history: History
) -> Figure:
    """The teachers' curves and the ensemble's level on validation rows."""
    logits = ensemble.logits(ensemble.encoding.inputs(dataset.features("val")), config.averaging)
    labels = torch.from_numpy(dataset.labels("val"))
    level = {name: float(v) for name, v in validation_figures(logits[None], labels).items()}
    return teacher_curves(history, ensemble=level, rows=len(labels))


def _train_teachers(
    config: TeachersConfig,
    dataset: Dataset,
    mark: str,
    tracker: Tracker,
    listener: Listener,
    parent: TrackedRun | None,
) -> TeachersResult:
    encoding = teachers_encoding(config, dataset)
    task = teacher_task(config, encoding, dataset)
    names = numbered("teacher", config.n_teachers)
    with tracker.run("teachers", f"teachers {dataset.table.name}", parent=parent) as run:
        describe_run(run, config, dataset, mark)
        with tracker.children("teacher", names, parent=run) as members:
            for member, seed in zip(members, task.seeds, strict=True):
                note = card.teacher_note(config, dataset.table, seed)
                describe_run(member, config, dataset, mark, note=note, member_seed=seed)
            history = train(task, members, Workers.of(config), label="teachers", listener=listener)
            ensemble = Ensemble(encoding=encoding, population=task.population.cpu(), run_id=run.id)
            figures = evaluate_ensemble(
                ensemble.member_logits(encoding.inputs(dataset.features("test"))),
                dataset.labels("test"),
                parameters=ensemble.population.parameters_per_member,
                averaging=config.averaging,
            )
            for member, final in zip(members, figures.members, strict=True):
                member.log(metrics=final)
        run.document(dataset.split.balance(dataset.table), BALANCE)
        run.folder(ensemble.save, ARTIFACT)
        run.file(png(_curves(config, dataset, ensemble, history)), CURVES)
        note = card.teachers_note(config, dataset.table, dataset.split, figures.ensemble)
        run.log(metrics=figures.ensemble, note=note)
    return TeachersResult(
        run_id=run.id,
        reused=False,
        ensemble=ensemble,
        teacher_accuracies=tuple(final["test_accuracy"] for final in figures.members),
        figures=figures.ensemble,
    )
