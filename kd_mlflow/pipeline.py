"""The straight line: data -> teachers -> soft targets -> students -> evaluation -> registry.

One function an entry point. Each takes its configuration and a listener for progress, and returns
what it found as data; printing is the command line's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from kd_mlflow import card, registry
from kd_mlflow.config import (
    DistillConfig,
    MainConfig,
    PromoteConfig,
    RollbackConfig,
    SweepConfig,
    TeachersConfig,
)
from kd_mlflow.dataset import Dataset, read_dataset
from kd_mlflow.distilling import DistillResult, distill_step
from kd_mlflow.external import load_models
from kd_mlflow.promoting import dataset_of, distill_run_of, promote_step
from kd_mlflow.registry import Decision, Rollback
from kd_mlflow.steps import Listener, Silence, describe_run
from kd_mlflow.summary import main_table
from kd_mlflow.sweeping import SweepResult, sweep_step, take_sweep
from kd_mlflow.teachers import Teacher, choose_ensemble, load_ensemble
from kd_mlflow.teaching import (
    TeachersResult,
    teacher_accuracies,
    teachers_encoding,
    teachers_step,
)
from kd_mlflow.tracking import Tracker


@dataclass(frozen=True, kw_only=True, repr=False)
class MainResult:
    """All three steps."""

    teachers: TeachersResult
    distill: DistillResult
    decision: Decision

    def __repr__(self) -> str:
        return main_table(self)


C = TypeVar("C", TeachersConfig, DistillConfig, SweepConfig, MainConfig)


def _read(config: C) -> tuple[Dataset, C]:
    """Read the table that a configuration names and fill what it leaves to the recipe."""
    dataset = read_dataset(config)
    return dataset, config.resolved(len(dataset.split.train))


def run_teachers(config: TeachersConfig, listener: Listener = Silence()) -> TeachersResult:
    """Entry point ``teachers``: train and log the ensemble, or reuse the same one."""
    dataset, config = _read(config)
    return teachers_step(config, dataset, Tracker(), listener)


def _teacher(teachers: str, dataset: Dataset, tracker: Tracker) -> Teacher:
    """Resolve the option ``teachers``: model URIs have a slash or a comma, run ids have none."""
    if "/" in teachers or "," in teachers:
        encoding = teachers_encoding(TeachersConfig(), dataset)
        return load_models(tracker, teachers, encoding, dataset.features("train"))
    run = choose_ensemble(tracker, teachers, dataset.table.digest)
    return load_ensemble(tracker, run.info.run_id)


def run_distill(config: DistillConfig, listener: Listener = Silence()) -> DistillResult:
    """Entry point ``distill``: train students against an ensemble and register the first one."""
    (dataset, config), tracker = _read(config), Tracker()
    config = take_sweep(config, tracker, dataset.table.digest)
    teacher = _teacher(config.teachers, dataset, tracker)
    run_id = teacher.tags.get("kd.teachers_run_id")
    accuracies = teacher_accuracies(tracker, run_id) if run_id else ()
    return distill_step(config, dataset, teacher, tracker, listener, teacher_accuracies=accuracies)


def run_sweep(config: SweepConfig, listener: Listener = Silence()) -> SweepResult:
    """Entry point ``sweep``: choose temperature and alpha, and see how small a student can be."""
    (dataset, config), tracker = _read(config), Tracker()
    teacher = _teacher(config.teachers, dataset, tracker)
    return sweep_step(config, dataset, teacher, tracker, listener)


def run_promote(config: PromoteConfig) -> Decision:
    """Entry point ``promote``: gate a version; move ``production`` to it where it passes."""
    tracker = Tracker()
    version = registry.find_version(tracker.client, config.model_name, config.version)
    run = distill_run_of(tracker, version)
    return promote_step(config, version, run, dataset_of(run, config.data), tracker)


def run_rollback(config: RollbackConfig) -> Rollback:
    """Entry point ``rollback``: return the version restored and the one it replaced."""
    tracker = Tracker()
    with tracker.run("rollback", "rollback") as run:
        run.log(params=config.as_text())
        moved = registry.rollback(tracker.client, config.model_name)
        run.log(
            note=f"**{config.model_name}**: production moved back from {moved.replaced} "
            f"to {moved.restored}."
        )
    return moved


def load_production(model_name: str) -> Any:
    """Load the version in production as a pyfunc model."""
    return registry.load_production(Tracker().client, model_name)


def run_main(config: MainConfig, listener: Listener = Silence()) -> MainResult:
    """Entry point ``main``: the three steps in one process, as children of one run."""
    (dataset, config), tracker = _read(config), Tracker()
    teachers_config = TeachersConfig.part_of(config)
    with tracker.run("pipeline", f"pipeline {dataset.table.name}") as parent:
        describe_run(parent, config, dataset)
        taught = teachers_step(teachers_config, dataset, tracker, listener, parent)
        distilled = distill_step(
            config.for_distill(taught.run_id),
            dataset,
            taught.ensemble,
            tracker,
            listener,
            parent,
            teacher_accuracies=taught.teacher_accuracies,
        )
        version = registry.find_version(tracker.client, config.model_name, distilled.version)
        decision = promote_step(
            config.for_promote(distilled.version),
            version,
            tracker.get(distilled.run_id),
            dataset,
            tracker,
            parent,
        )
        parent.log(
            tags={"kd.teachers_run_id": taught.run_id, "kd.distill_run_id": distilled.run_id},
            note=card.distill_note(
                config.for_distill(taught.run_id), dataset.table, distilled.comparison
            )
            + f"\nVersion {decision.version} of **{decision.model_name}** was "
            f"{'promoted' if decision.promoted else 'rejected'}: {decision.reason}.\n",
        )
    return MainResult(teachers=taught, distill=distilled, decision=decision)
