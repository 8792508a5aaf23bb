"""The first step: train and log the ensemble, or reuse the same one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from kd_mlflow.config import TeachersConfig
from kd_mlflow.distillation.identity import teachers_fingerprint
from kd_mlflow.distillation.teachers import Ensemble, teacher_task, teachers_encoding
from kd_mlflow.evaluation.comparison import (
    IMBALANCED_SHARE,
    evaluate_ensemble,
    validation_metrics,
)
from kd_mlflow.figures.style import png
from kd_mlflow.figures.training_curves import teacher_curves
from kd_mlflow.population.training import History
from kd_mlflow.report import notes
from kd_mlflow.steps.listener import Listener
from kd_mlflow.steps.rehearsal import check_memory, rehearse_student
from kd_mlflow.steps.results import TeachersResult
from kd_mlflow.steps.tracked import (
    BALANCE,
    describe_run,
    numbered,
    run_name,
    train,
    workers_of,
)
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.tracking.lookup import ENSEMBLE, find_ensemble, load_ensemble, teacher_accuracies
from kd_mlflow.tracking.open_run import TrackedRun
from kd_mlflow.tracking.runs import Run, Tracker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = "figures/teacher_curves.png"


def teachers_step(
    config: TeachersConfig,
    dataset: Dataset,
    tracker: Tracker,
    listener: Listener,
    parent: TrackedRun | None = None,
) -> TeachersResult:
    """Return the finished ensemble of the same fingerprint, or train it now."""
    mark = teachers_fingerprint(dataset.identity, config)
    found = None if config.force else find_ensemble(tracker, fingerprint=mark)
    if found:
        listener.say(f"ensemble reused: run {found.info.run_id} trained the same one")
        if tracker.attaches and parent is None:
            with tracker.run("teachers", "teachers", reused_run_id=found.info.run_id) as run:
                describe_run(run, config, dataset, mark, note=notes.reused_note(found.info.run_id))
                run.log(metrics=found.data.metrics)
        return _reused(tracker, found, dataset)
    return _train_teachers(config, dataset, mark, tracker, listener, parent)


def _reused(tracker: Tracker, run: Run, dataset: Dataset) -> TeachersResult:
    run_id = run.info.run_id
    return TeachersResult(
        run_id=run_id,
        reused=True,
        ensemble=load_ensemble(tracker, run_id),
        teacher_accuracies=teacher_accuracies(tracker, run_id),
        metrics=dict(run.data.metrics),
        imbalanced=_imbalanced(dataset),
    )


def _imbalanced(dataset: Dataset) -> bool:
    counts = np.bincount(dataset.table.labels)
    return bool(counts.max() > IMBALANCED_SHARE * counts.sum())


def _curves(
    config: TeachersConfig, dataset: Dataset, ensemble: Ensemble, history: History
) -> Figure:
    """The teachers' curves and the ensemble's level on validation rows."""
    logits = ensemble.logits(ensemble.encoding.inputs(dataset.features("val")), config.averaging)
    labels = torch.from_numpy(dataset.labels("val"))
    level = {name: float(v) for name, v in validation_metrics(logits[None], labels).items()}
    return teacher_curves(history, ensemble=level, rows=len(labels))


def _describe_teacher(
    run: TrackedRun, seed: int, config: TeachersConfig, dataset: Dataset, mark: str
) -> None:
    note = notes.teacher_note(
        dataset.table.name, teachers=config.n_teachers, epochs=config.teacher_epochs, seed=seed
    )
    describe_run(run, config, dataset, mark, note=note, member_seed=seed)


def _train_teachers(
    config: TeachersConfig,
    dataset: Dataset,
    mark: str,
    tracker: Tracker,
    listener: Listener,
    parent: TrackedRun | None,
) -> TeachersResult:
    encoding = teachers_encoding(config, dataset)
    check_memory(dataset, encoding, members=config.n_teachers, hidden=config.teacher_hidden)
    rehearse_student(dataset, encoding)
    task = teacher_task(config, encoding, dataset)
    names = numbered("teacher", config.n_teachers)
    with tracker.run("teachers", run_name("teachers", dataset), parent=parent) as run:
        describe_run(run, config, dataset, mark)
        with tracker.children("teacher", names, parent=run) as members:
            for member, seed in zip(members, task.seeds, strict=True):
                _describe_teacher(member, seed, config, dataset, mark)
            history = train(task, members, workers_of(config), label="teachers", listener=listener)
            ensemble = Ensemble(encoding=encoding, population=task.population.cpu(), run_id=run.id)
            metrics = evaluate_ensemble(
                ensemble.member_logits(encoding.inputs(dataset.features("test"))),
                dataset.labels("test"),
                parameters=ensemble.population.parameters_per_member,
                averaging=config.averaging,
            )
            for member, final in zip(members, metrics.members, strict=True):
                member.log(metrics=final)
        run.document(dataset.split.balance(dataset.table), BALANCE)
        run.folder(ensemble.save, ENSEMBLE)
        run.file(png(_curves(config, dataset, ensemble, history)), CURVES)
        note = notes.teachers_note(
            dataset,
            metrics.ensemble,
            teachers=config.n_teachers,
            hidden=config.teacher_hidden,
            epochs=config.teacher_epochs,
            imbalanced=_imbalanced(dataset),
        )
        run.log(metrics=metrics.ensemble, note=note)
    return TeachersResult(
        run_id=run.id,
        reused=False,
        ensemble=ensemble,
        teacher_accuracies=tuple(final["test_accuracy"] for final in metrics.members),
        metrics=metrics.ensemble,
        imbalanced=_imbalanced(dataset),
    )
