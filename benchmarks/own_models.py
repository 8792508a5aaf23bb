"""The project's own models in benchmarks/tables.py: what ``main`` trains, without its store."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import mlflow
import torch
from measured import Floats, Measured, folder_bytes, latency_ms
from torch import Tensor

from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.config.groups import StudentRecipe
from kd_mlflow.distillation.identity import STUDENT_STREAM, member_seeds
from kd_mlflow.distillation.menu import baselines_named, chosen, fit_here
from kd_mlflow.distillation.student_module import StudentModule
from kd_mlflow.distillation.students import calibrated, student_groups, student_task, transfer_set
from kd_mlflow.distillation.teachers import Ensemble, train_ensemble
from kd_mlflow.models.own_models import save_student
from kd_mlflow.population.network import Population
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding

STEPS: dict[str, dict[str, Any]] = {
    "today": {"teacher_patience": 0},
    "stops": {},
    "boosting": {"teacher_families": "mlp,boosting"},
    "inputs": {"teacher_families": "mlp,boosting", "teacher_bins": None},
    "weights": {"teacher_families": "mlp,boosting", "teacher_bins": None, "weighting": "greedy"},
}
"""Ensembles from networks on plain inputs to the whole recipe: what each step adds."""


def ensemble_step(dataset: Dataset, step: str, *, seed: int) -> Measured:
    """Train an ensemble of the recipe ``best`` as far as a step."""
    options = {"teacher_families": "mlp", "teacher_bins": 0, "weighting": "equal", **STEPS[step]}
    config = TeachersConfig(seed=seed, **options).resolved(len(dataset.split.train))
    start = time.perf_counter()
    ensemble = train_ensemble(config, dataset)
    train_s = time.perf_counter() - start
    return _measured_ensemble(ensemble, config.averaging, dataset, train_s)


def own_models(dataset: Dataset, *, recipe: str, seed: int, students: int) -> dict[str, Measured]:
    """Train what ``main`` trains: the ensemble, then students of each kind as one population.

    A student's time is the ensemble's, its soft targets', the menu's and its share of its
    population's; a baseline's is that share alone.
    """
    start = time.perf_counter()
    ensemble, averaging = _ensemble(dataset, recipe, seed)
    ensemble_s = time.perf_counter() - start
    options = StudentRecipe(recipe=recipe, n_students=students, seed=seed)
    options = options.resolved(len(dataset.split.train))
    seeds = member_seeds(seed, STUDENT_STREAM, students)
    lessons = transfer_set(options, dataset, ensemble)
    options, _ = chosen(options, lessons, seed=seeds[0], fit=fit_here)
    options = baselines_named(options, lessons, seed=seeds[0], fit=fit_here)
    groups, encoding = student_groups(options, seeds), lessons.binned(options.student_bins)
    taught_s = time.perf_counter() - start
    members = [member for group in groups.values() for member in group]
    task = student_task(options, lessons, members, encoding, options.student_hidden)
    task.fit()
    population = calibrated(options, task, lessons)
    share_s = (time.perf_counter() - start - taught_s) / len(members)
    found = {"ensemble": _measured_ensemble(ensemble, averaging, dataset, ensemble_s)}
    for i, kind in enumerate(groups):
        of_kind = population.members(slice(i * students, (i + 1) * students))
        train_s = share_s + (taught_s if kind == "distilled" else 0.0)
        found[KINDS[kind]] = _measured_students(of_kind, encoding, dataset, train_s)
    return found


KINDS = {"distilled": "student", "baseline": "baseline", "strong_baseline": "strong_baseline"}
"""What the package's kinds of student are called here."""

OWN = ("ensemble", *KINDS.values())


def own_names(recipe: str, rows: int) -> list[str]:
    """Which models a recipe has for so many training rows: no strong baseline without mixup."""
    strong = StudentRecipe(recipe=recipe).resolved(rows).student_mixup
    return [name for name in OWN if strong or name != "strong_baseline"]


def _ensemble(dataset: Dataset, recipe: str, seed: int) -> tuple[Ensemble, str]:
    config = TeachersConfig(recipe=recipe, seed=seed).resolved(len(dataset.split.train))
    return train_ensemble(config, dataset), config.averaging


def _measured_ensemble(
    ensemble: Ensemble, averaging: str, dataset: Dataset, train_s: float
) -> Measured:
    rows = dataset.features("test")
    with tempfile.TemporaryDirectory() as folder:
        ensemble.save(Path(folder))
        size = folder_bytes(Path(folder))
    return Measured(
        probabilities=_softmax(ensemble.score(rows, averaging)[None]),
        train_s=train_s,
        latency_ms=latency_ms(lambda row: ensemble.score(row, averaging), rows),
        size_bytes=size,
        fitted_numbers=ensemble.parameters,
    )


def _measured_students(
    population: Population, encoding: Encoding, dataset: Dataset, train_s: float
) -> Measured:
    """Measure students of one kind; the first one's package tells size and latency."""
    rows = dataset.features("test")
    with tempfile.TemporaryDirectory() as folder:
        module, example = StudentModule(encoding, population.member(0)), rows.head(2)
        save_student(Path(folder), module, example=example)
        size = folder_bytes(Path(folder))
        latency = latency_ms(mlflow.pyfunc.load_model(folder).predict, rows)
    return Measured(
        probabilities=_softmax(population.logits(encoding.inputs(rows))),
        train_s=train_s,
        latency_ms=latency,
        size_bytes=size,
        fitted_numbers=population.parameters_per_member,
    )


def _softmax(logits: Tensor) -> Floats:
    return torch.softmax(logits.double(), dim=-1).numpy()
