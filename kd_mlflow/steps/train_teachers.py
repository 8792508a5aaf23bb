"""The first step: train and log the ensemble, or reuse the same one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice

import numpy as np
import pandas as pd
import torch

from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.config.groups import EnsembleOptions, TrainingOptions
from kd_mlflow.distillation.families import Training, family_kind, teachers_fingerprint
from kd_mlflow.distillation.inputs import TeacherInputs
from kd_mlflow.distillation.logits import validation_metrics
from kd_mlflow.distillation.networks import MLP, NetworkTraining, hidden_layers
from kd_mlflow.distillation.teachers import Ensemble, assembled, evaluated, teacher_trainings
from kd_mlflow.evaluation.comparison import IMBALANCED_SHARE
from kd_mlflow.models.own_models import save_ensemble
from kd_mlflow.population.history import History, best_epochs
from kd_mlflow.report import notes
from kd_mlflow.report.leaderboard import TeacherResult
from kd_mlflow.report.training_results import TeachersResult
from kd_mlflow.report.words import together
from kd_mlflow.steps.rehearsal import check_memory, rehearse_families, rehearse_student
from kd_mlflow.steps.work import Session, Work, begun, run_names, workers_of
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding
from kd_mlflow.tracking.lookup import ENSEMBLE, find_ensemble, load_ensemble
from kd_mlflow.tracking.open_run import TrackedRun

OF_MODEL, OF_AVERAGES = "ensemble_test_", "_averaged_"
"""What metrics of the ensemble's own answers are called; of them, those that compare averages."""


def teachers_step(
    config: TeachersConfig, session: Session, check: Callable[[Encoding], None] = lambda _: None
) -> TeachersResult:
    """Return the finished ensemble of the same fingerprint, or train it now.

    ``check`` raises, by the encoding, what would otherwise fail after training.
    """
    dataset, tracker = session.dataset, session.tracker
    fingerprint = teachers_fingerprint(dataset.identity, config)
    found = None if config.force else find_ensemble(tracker, fingerprint=fingerprint)
    if not found:
        return _train_teachers(config, session, fingerprint, check)
    session.listener.say(f"ensemble reused: run {found.info.run_id} trained the same one")
    if tracker.attaches and session.parent is None:
        with tracker.run("teachers", "teachers") as run:
            work = Work(**vars(session), config=config, run=run, fingerprint=fingerprint)
            work.describe(note=notes.reused_note(found.info.run_id))
            run.log(metrics=found.data.metrics, tags={"kd.reused_run_id": found.info.run_id})
    run_id = found.info.run_id
    ensemble, children = load_ensemble(tracker, run_id), tracker.children_of(run_id)
    return TeachersResult(
        run_id=run_id,
        reused=True,
        ensemble=ensemble,
        teachers=tuple(
            TeacherResult(child.info.run_name, own["test_accuracy"], weight, dict(own))
            for child, weight in zip(children, ensemble.weights, strict=True)
            for own in [child.data.metrics]
        ),
        metrics=dict(found.data.metrics),
        imbalanced=_imbalanced(dataset),
        together=together(dataset),
    )


def _imbalanced(dataset: Dataset) -> bool:
    counts = np.bincount(dataset.table.labels)
    return bool(counts.max() > IMBALANCED_SHARE * counts.sum())


def _train_teachers(
    config: TeachersConfig, session: Session, fingerprint: str, check: Callable[[Encoding], None]
) -> TeachersResult:
    dataset = session.dataset
    given = TeacherInputs(config=config, dataset=dataset)
    check(given.encoding)
    check_memory(dataset, given.encoding, hidden_layers(config))
    trainings = teacher_trainings(given)
    for training in trainings:
        if isinstance(training, NetworkTraining):
            training.task.warm(workers_of(config))
    example = rehearse_student(dataset, given.encoding)
    rehearse_families(given)
    kinds = Counter(family_kind(each.name).runs for each in trainings for _ in each.seeds)
    names = [name for runs, k in kinds.items() for name in run_names(runs, k)]
    with begun("teachers", config, session, fingerprint) as work:
        work.describe()
        run = work.run
        with work.children("teacher", names) as members:
            rest = iter(members)
            own_runs = [list(islice(rest, len(training.seeds))) for training in trainings]
            for training, runs in zip(trainings, own_runs, strict=True):
                _describe_each(work, training, runs, teachers=len(members))
            trained = [
                work.fit(training, training.label, runs)
                for training, runs in zip(trainings, own_runs, strict=True)
            ]
            times = [work.times[t.label] / len(t.seeds) for t in trainings for _ in t.seeds]
            ensemble = assembled(given, trained, run_id=run.id)
            metrics = evaluated(ensemble, dataset, config.averaging)
            best = [int(epoch) for each in trained for epoch in best_epochs(each.history)]
            each = zip(members, metrics.members, ensemble.weights, best, strict=True)
            for member, final, weight, epoch in each:
                member.log(metrics={**final, "weight": weight, "best_epoch": epoch})
        work.log_table()
        histories = {t.label: each.history for t, each in zip(trainings, trained, strict=True)}
        curves = _curves(config, dataset, ensemble, histories)
        run.files({"figures/teacher_curves.png": curves})
        _log_ensemble(work, ensemble, example, metrics.ensemble)
    every = zip(names, metrics.members, ensemble.weights, times, strict=True)
    return TeachersResult(
        run_id=run.id,
        reused=False,
        ensemble=ensemble,
        teachers=tuple(
            TeacherResult(name, final["test_accuracy"], weight, final, fit_s)
            for name, final, weight, fit_s in every
        ),
        metrics=metrics.ensemble,
        imbalanced=_imbalanced(dataset),
        together=together(dataset),
    )


def _describe_each(
    work: Work[TeachersConfig], training: Training, runs: Sequence[TrackedRun], *, teachers: int
) -> None:
    name = work.dataset.table.name
    for member, seed in zip(runs, training.seeds, strict=True):
        note = notes.teacher_note(name, training.label, teachers=teachers, seed=seed)
        work.describe(member, note=note, member_seed=seed, **training.own_options)
        member.log(tags={"kd.family": training.name})


def _log_ensemble(
    work: Work[TeachersConfig],
    ensemble: Ensemble,
    example: pd.DataFrame,
    metrics: Mapping[str, float],
) -> None:
    """Log the ensemble as a model, then all metrics and the run's description."""
    config, dataset, run = work.config, work.dataset, work.run
    options = (EnsembleOptions.part_of(config), TrainingOptions.part_of(config))
    params = {name: text for each in options for name, text in each.as_text().items()}
    averaging = config.averaging
    write = partial(save_ensemble, ensemble=ensemble, averaging=averaging, example=example)
    # before the run's metrics: MLflow asks for the history of each one that it finds
    model_id = run.model(write, name=ENSEMBLE, params=params)
    own = {n: v for n, v in metrics.items() if n.startswith(OF_MODEL) and OF_AVERAGES not in n}
    run.log(metrics=own, model_id=model_id)
    note = notes.teachers_note(
        dataset,
        metrics,
        parts=ensemble.parts,
        hidden=hidden_layers(config) if MLP in config.teacher_families.split(",") else (),
        imbalanced=_imbalanced(dataset),
    )
    run.log(metrics={name: v for name, v in metrics.items() if name not in own}, note=note)


def _curves(
    config: TeachersConfig, dataset: Dataset, ensemble: Ensemble, histories: Mapping[str, History]
) -> bytes:
    """The teachers' curves, where each stopped, and the ensemble's level on validation rows."""
    from kd_mlflow.figures.style import png  # with matplotlib, which training needs not wait for
    from kd_mlflow.figures.training_curves import teacher_curves

    logits = ensemble.score(dataset.features("val"), config.averaging)
    labels = torch.from_numpy(dataset.labels("val"))
    level = {name: float(v) for name, v in validation_metrics(logits[None], labels).items()}
    return png(teacher_curves(histories, ensemble=level, rows=len(labels)))
