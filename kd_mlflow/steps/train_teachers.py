"""The first step: train and log the ensemble, or reuse the same one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.config.groups import EnsembleOptions, TrainingOptions
from kd_mlflow.config.rules import BOOSTING
from kd_mlflow.distillation.families import Trained, Training
from kd_mlflow.distillation.identity import teachers_fingerprint
from kd_mlflow.distillation.logits import validation_metrics
from kd_mlflow.distillation.teachers import (
    Ensemble,
    assembled,
    evaluated,
    teacher_trainings,
    teachers_encoding,
)
from kd_mlflow.evaluation.comparison import (
    IMBALANCED_SHARE,
)
from kd_mlflow.models.ensemble_model import log_ensemble
from kd_mlflow.population.checkpoints import Checkpoints
from kd_mlflow.population.workers import Workers
from kd_mlflow.report import notes
from kd_mlflow.report.teachers_result import TeacherResult, TeachersResult
from kd_mlflow.steps.listener import Listener
from kd_mlflow.steps.rehearsal import check_memory, rehearse_student
from kd_mlflow.steps.resumed import resumable
from kd_mlflow.steps.tracked import (
    BALANCE,
    describe_run,
    followed,
    numbered,
    run_name,
    workers_of,
)
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.tracking.lookup import find_ensemble, load_ensemble
from kd_mlflow.tracking.open_run import TrackedRun
from kd_mlflow.tracking.runs import Run, Tracker

CURVES = "figures/teacher_curves.png"

OF_MODEL, OF_AVERAGES = "ensemble_test_", "_averaged_"
"""What metrics of the ensemble's own answers are called; of them, those that compare averages."""


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
    ensemble = load_ensemble(tracker, run_id)
    return TeachersResult(
        run_id=run_id,
        reused=True,
        ensemble=ensemble,
        teachers=tuple(
            TeacherResult(child.info.run_name, child.data.metrics["test_accuracy"], weight)
            for child, weight in zip(tracker.children_of(run_id), ensemble.weights, strict=True)
        ),
        metrics=dict(run.data.metrics),
        imbalanced=_imbalanced(dataset),
    )


def _imbalanced(dataset: Dataset) -> bool:
    counts = np.bincount(dataset.table.labels)
    return bool(counts.max() > IMBALANCED_SHARE * counts.sum())


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
    example = rehearse_student(dataset, encoding)
    trainings = teacher_trainings(config, dataset)
    names = _names(trainings)
    with (
        resumable(config, mark, listener) as resumed,
        tracker.run("teachers", run_name("teachers", dataset), parent=parent) as run,
    ):
        describe_run(run, config, dataset, mark)
        resumed.begin(run, listener)
        with tracker.children("teacher", names, parent=run) as members:
            _describe_each(trainings, members, config, dataset, mark)
            trained = _train_each(
                trainings, members, workers_of(config), listener, resumed.checkpoints
            )
            ensemble = assembled(config, dataset, trained, run_id=run.id)
            metrics = evaluated(ensemble, dataset, config.averaging)
            best = [int(epoch) for each in trained for epoch in each.best]
            for member, final, weight, epoch in zip(
                members, metrics.members, ensemble.weights, best, strict=True
            ):
                member.log(metrics={**final, "weight": weight, "best_epoch": epoch})
        run.document(dataset.split.balance(dataset.table), BALANCE)
        run.file(_curves(config, dataset, ensemble, trainings, trained), CURVES)
        note = _note(ensemble, dataset, config, metrics.ensemble)
        _log_ensemble(ensemble, run, config, example=example, metrics=metrics.ensemble, note=note)
    return TeachersResult(
        run_id=run.id,
        reused=False,
        ensemble=ensemble,
        teachers=tuple(
            TeacherResult(name, final["test_accuracy"], weight)
            for name, final, weight in zip(names, metrics.members, ensemble.weights, strict=True)
        ),
        metrics=metrics.ensemble,
        imbalanced=_imbalanced(dataset),
    )


def _names(trainings: Sequence[Training]) -> list[str]:
    """Names of the teachers' runs: networks are numbered through, boosted models too."""
    families = [training.name for training in trainings for _ in training.seeds]
    boosted = families.count(BOOSTING)
    return numbered("teacher", len(families) - boosted) + numbered("boosting", boosted)


def _own_runs(
    trainings: Sequence[Training], members: Sequence[TrackedRun]
) -> Iterator[tuple[Training, Sequence[TrackedRun]]]:
    """Each family's training with its members' runs."""
    start = 0
    for training in trainings:
        end = start + len(training.seeds)
        yield training, members[start:end]
        start = end


def _describe_each(
    trainings: Sequence[Training],
    members: Sequence[TrackedRun],
    config: TeachersConfig,
    dataset: Dataset,
    mark: str,
) -> None:
    """Describe the runs of each family's members."""
    for training, runs in _own_runs(trainings, members):
        for member, seed in zip(runs, training.seeds, strict=True):
            note = notes.teacher_note(
                dataset.table.name, training.label, teachers=len(members), seed=seed
            )
            describe_run(member, config, dataset, mark, note=note, member_seed=seed)
            member.log(tags={"kd.family": training.name})


def _train_each(
    trainings: Sequence[Training],
    members: Sequence[TrackedRun],
    workers: Workers,
    listener: Listener,
    checkpoints: Checkpoints,
) -> list[Trained]:
    """Train each family into the runs of its members."""
    trained = []
    for training, runs in _own_runs(trainings, members):
        own = checkpoints.below(training.label)
        with followed(runs, listener, label=training.label, epochs=training.epochs) as on_epoch:
            trained.append(training.fit(workers, on_epoch, own))
    return trained


def _note(
    ensemble: Ensemble, dataset: Dataset, config: TeachersConfig, metrics: Mapping[str, float]
) -> str:
    """The description of the ensemble's run."""
    return notes.teachers_note(
        dataset,
        metrics,
        parts=ensemble.parts,
        hidden=config.teacher_hidden,
        imbalanced=_imbalanced(dataset),
    )


def _log_ensemble(
    ensemble: Ensemble,
    run: TrackedRun,
    config: TeachersConfig,
    *,
    example: pd.DataFrame,
    metrics: Mapping[str, float],
    note: str,
) -> None:
    """Log the ensemble as a model with example rows, then all metrics: those of its answers as its.

    ``note`` describes the run.
    """
    options = (EnsembleOptions.part_of(config), TrainingOptions.part_of(config))
    model_id = log_ensemble(
        run,
        ensemble,
        averaging=config.averaging,
        example=example,
        params={name: text for each in options for name, text in each.as_text().items()},
    )
    own = {n: v for n, v in metrics.items() if n.startswith(OF_MODEL) and OF_AVERAGES not in n}
    run.log(metrics=own, model_id=model_id)
    others = {name: value for name, value in metrics.items() if name not in own}
    run.log(metrics=others, note=note)


def _curves(
    config: TeachersConfig,
    dataset: Dataset,
    ensemble: Ensemble,
    trainings: Sequence[Training],
    trained: Sequence[Trained],
) -> bytes:
    """The teachers' curves, where each stopped, and the ensemble's level on validation rows."""
    from kd_mlflow.figures.style import png  # with matplotlib, which training needs not wait for
    from kd_mlflow.figures.training_curves import teacher_curves

    logits = ensemble.score(dataset.features("val"), config.averaging)
    labels = torch.from_numpy(dataset.labels("val"))
    level = {name: float(v) for name, v in validation_metrics(logits[None], labels).items()}
    histories = {t.label: each.history for t, each in zip(trainings, trained, strict=True)}
    return png(teacher_curves(histories, ensemble=level, rows=len(labels)))
