"""The straight line: data -> teachers -> soft targets -> students -> evaluation -> registry.

One function an entry point. Each takes its configuration and a listener for progress, and returns
what it found as data; printing is the command line's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow import card, metrics, registry
from kd_mlflow import teachers as ensembles
from kd_mlflow.config import (
    DataOptions,
    DistillConfig,
    MainConfig,
    Options,
    PromoteConfig,
    RollbackConfig,
    TeachersConfig,
)
from kd_mlflow.data import Split, Table, load_table, split_rows
from kd_mlflow.encoding import Encoding, Scaler, fit_encoding
from kd_mlflow.errors import DataError, RegistryError
from kd_mlflow.evaluation import Comparison, Figures, evaluate_ensemble, evaluate_students
from kd_mlflow.losses import DistillationLoss, LabelLoss, hard_loss
from kd_mlflow.models import Population
from kd_mlflow.packaging import StudentModule, log_student
from kd_mlflow.registry import Decision, TestRows
from kd_mlflow.teachers import Ensemble
from kd_mlflow.tracking import CurveWriter, TrackedRun, Tracker, data_set_input
from kd_mlflow.training import Evaluate, OnEpoch, Rows, Schedule, fit, ignore_epoch

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

BALANCE = "class_balance.json"
"""Rows a class on each side of the split, beside every ensemble and comparison."""

TEACHERS_STREAM, STUDENTS_STREAM = 0, 1
"""Keep the members' seeds of two populations apart."""


class Listener(Protocol):
    """Hears how the work goes on."""

    def say(self, text: str) -> None:
        """Take one line."""

    def training(self, label: str, members: int, epochs: int) -> AbstractContextManager[OnEpoch]:
        """Follow a training; the block gets a function that takes each epoch's figures."""


class Silence:
    """The null listener."""

    def say(self, text: str) -> None:
        """Drop the line."""

    def training(self, label: str, members: int, epochs: int) -> AbstractContextManager[OnEpoch]:
        """Follow nothing."""
        return nullcontext(ignore_epoch)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A table and its split."""

    table: Table
    split: Split

    def features(self, side: str) -> pd.DataFrame:
        """Feature columns of one side: train, val or test."""
        rows: pd.DataFrame = self.table.features.iloc[getattr(self.split, side)]
        return rows

    def labels(self, side: str) -> NDArray[np.int64]:
        """Class numbers of one side.  Shape: (n,)."""
        labels: NDArray[np.int64] = self.table.labels[getattr(self.split, side)]
        return labels

    def test_rows(self) -> TestRows:
        """Test rows with their labels as they stand in the table."""
        classes = np.array(self.table.classes, dtype=object)
        return TestRows(features=self.features("test"), labels=classes[self.labels("test")])


@dataclass(frozen=True, kw_only=True)
class TeachersResult:
    """An ensemble, trained now or reused, and its figures on test rows."""

    run_id: str
    reused: bool
    ensemble: Ensemble
    teacher_accuracies: tuple[float, ...]
    figures: Figures


@dataclass(frozen=True, kw_only=True)
class DistillResult:
    """A comparison and the version that its first student became."""

    run_id: str
    teachers_run_id: str
    comparison: Comparison
    model_name: str
    version: str
    test_rows: int


@dataclass(frozen=True, kw_only=True)
class MainResult:
    """All three steps."""

    teachers: TeachersResult
    distill: DistillResult
    decision: Decision


def read_dataset(config: DataOptions) -> Dataset:
    """Read and split the table that a configuration names."""
    table = load_table(config.data, config.target)
    return Dataset(table=table, split=split_rows(table, config.val_fraction))


def run_teachers(config: TeachersConfig, listener: Listener = Silence()) -> TeachersResult:
    """Entry point ``teachers``: train and log the ensemble, or reuse the same one."""
    dataset = read_dataset(config)
    return _teachers(config, dataset, Tracker(), listener)


def run_distill(config: DistillConfig, listener: Listener = Silence()) -> DistillResult:
    """Entry point ``distill``: train students against an ensemble and register the first one."""
    dataset, tracker = read_dataset(config), Tracker()
    run = ensembles.choose_ensemble(tracker, config.teachers, dataset.table.digest)
    ensemble = ensembles.load_ensemble(tracker, run.info.run_id)
    return _distill(config, dataset, ensemble, run.info.run_id, tracker, listener)


def run_promote(config: PromoteConfig, listener: Listener = Silence()) -> Decision:
    """Entry point ``promote``: gate a version; move ``production`` to it where it passes."""
    tracker = Tracker()
    version = registry.find_version(tracker.client, config.model_name, config.version)
    run = _run_of(tracker, version)
    return _promote(config, version, run, _dataset_of(run), tracker, listener)


def run_rollback(config: RollbackConfig, listener: Listener = Silence()) -> tuple[str, str]:
    """Entry point ``rollback``: return the version restored and the one it replaced."""
    tracker = Tracker()
    with tracker.run("rollback", "rollback") as run:
        run.params(config.as_text())
        restored, replaced = registry.rollback(tracker.client, config.model_name)
        run.describe(
            f"**{config.model_name}**: production moved back from {replaced} to {restored}."
        )
    return restored, replaced


def run_main(config: MainConfig, listener: Listener = Silence()) -> MainResult:
    """Entry point ``main``: the three steps in one process, as children of one run."""
    dataset, tracker = read_dataset(config), Tracker()
    teachers_config = TeachersConfig.part_of(config)
    with tracker.run("pipeline", f"pipeline {dataset.table.name}") as parent:
        _describe_run(parent, config, dataset)
        taught = _teachers(teachers_config, dataset, tracker, listener, parent)
        distilled = _distill(
            config.for_distill(taught.run_id),
            dataset,
            taught.ensemble,
            taught.run_id,
            tracker,
            listener,
            parent,
        )
        version = registry.find_version(tracker.client, config.model_name, distilled.version)
        decision = _promote(
            config.for_promote(distilled.version),
            version,
            tracker.get(distilled.run_id),
            dataset,
            tracker,
            listener,
            parent,
        )
        parent.tags({"kd.teachers_run_id": taught.run_id, "kd.distill_run_id": distilled.run_id})
        parent.describe(
            card.distill_note(
                config.for_distill(taught.run_id), dataset.table, distilled.comparison
            )
            + f"\nVersion {decision.version} of **{decision.model_name}** was "
            f"{'promoted' if decision.promoted else 'rejected'}: {decision.reason}.\n"
        )
    return MainResult(teachers=taught, distill=distilled, decision=decision)


def _teachers(
    config: TeachersConfig,
    dataset: Dataset,
    tracker: Tracker,
    listener: Listener,
    parent: TrackedRun | None = None,
) -> TeachersResult:
    mark = ensembles.teachers_fingerprint(dataset.table.digest, config)
    found = None if config.force else ensembles.find_ensemble(tracker, fingerprint=mark)
    if found:
        listener.say(f"ensemble reused: run {found.info.run_id} trained the same one")
        if tracker.attaches and parent is None:
            with tracker.run("teachers", "teachers", reused_run_id=found.info.run_id) as run:
                _describe_run(run, config, dataset, mark)
                run.metrics(found.data.metrics)
                run.describe(f"Reused: run {found.info.run_id} trained the same ensemble.")
        return _reused(tracker, found)
    return _train_teachers(config, dataset, mark, tracker, listener, parent)


def _reused(tracker: Tracker, run: Run) -> TeachersResult:
    run_id = run.info.run_id
    members = tracker.children_of(run_id)
    return TeachersResult(
        run_id=run_id,
        reused=True,
        ensemble=ensembles.load_ensemble(tracker, run_id),
        teacher_accuracies=tuple(member.data.metrics["test_accuracy"] for member in members),
        figures=dict(run.data.metrics),
    )


def _train_teachers(
    config: TeachersConfig,
    dataset: Dataset,
    mark: str,
    tracker: Tracker,
    listener: Listener,
    parent: TrackedRun | None,
) -> TeachersResult:
    encoding = fit_encoding(
        dataset.features("train"),
        target=dataset.table.target,
        classes=dataset.table.classes,
        max_categories=config.max_categories,
    )
    rows = _rows(encoding, dataset)
    seeds = _member_seeds(config.seed, TEACHERS_STREAM, config.n_teachers)
    population = Population.initialised(
        (rows.train.shape[1], *config.teacher_hidden, len(encoding.classes)),
        seeds=seeds,
        dropout=config.dropout,
    ).to(rows.train.device)
    labels, val_labels = _label_tensors(dataset, rows.train.device)
    names = [f"teacher-{i:02d}" for i in range(1, config.n_teachers + 1)]
    with tracker.run("teachers", f"teachers {dataset.table.name}", parent=parent) as run:
        _describe_run(run, config, dataset, mark)
        with tracker.children("teacher", names, parent=run) as members:
            for member, seed in zip(members, seeds, strict=True):
                _describe_run(member, config, dataset, mark, member_seed=seed)
                member.describe(card.teacher_note(config, dataset.table, seed))
            _train(
                population,
                rows,
                LabelLoss(labels),
                runs=members,
                schedule=_schedule(config, config.teacher_epochs, config.teacher_weight_decay),
                seeds=seeds,
                evaluate=lambda logits: _validation_figures(logits, val_labels),
                label="teachers",
                listener=listener,
            )
            ensemble = Ensemble(encoding=encoding, population=population.cpu())
            figures = evaluate_ensemble(
                ensemble.member_logits(dataset.features("test")),
                dataset.labels("test"),
                parameters=population.parameters_per_member,
            )
            for member, final in zip(members, figures.members, strict=True):
                member.metrics(final)
        run.document(dataset.split.balance(dataset.table), BALANCE)
        run.folder(ensemble.save, ensembles.ARTIFACT)
        run.metrics(figures.ensemble)
        run.describe(card.teachers_note(config, dataset.table, dataset.split, figures.ensemble))
    return TeachersResult(
        run_id=run.id,
        reused=False,
        ensemble=ensemble,
        teacher_accuracies=tuple(final["test_accuracy"] for final in figures.members),
        figures=figures.ensemble,
    )


def _distill(
    config: DistillConfig,
    dataset: Dataset,
    ensemble: Ensemble,
    teachers_run_id: str,
    tracker: Tracker,
    listener: Listener,
    parent: TrackedRun | None = None,
) -> DistillResult:
    encoding, n = ensemble.encoding, config.n_students
    mark = ensembles.fingerprint(dataset.table.digest, config.as_text())
    seeds = _member_seeds(config.seed, STUDENTS_STREAM, n)
    with tracker.run("distill", f"distill {dataset.table.name}", parent=parent) as run:
        _describe_run(run, config, dataset, mark)
        run.tags({"kd.teachers_run_id": teachers_run_id})
        students = tracker.children("student", _numbered("student", n), parent=run)
        baselines = tracker.children("baseline", _numbered("baseline", n), parent=run)
        with students as distilled, baselines as plain:
            members = [*distilled, *plain]
            alphas = [config.alpha] * n + [0.0] * n
            for member, seed, alpha in zip(members, seeds * 2, alphas, strict=True):
                _describe_run(member, config, dataset, mark, member_seed=seed, alpha=alpha)
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
        run.document(dataset.split.balance(dataset.table), BALANCE)
        module = StudentModule(encoding, population.member(0))
        example = dataset.features("train")
        model_id = log_student(run, module=module, encoding=encoding, example=example)
        run.metrics(comparison.summary)
        run.describe(card.distill_note(config, dataset.table, comparison))
        version = registry.register(
            tracker.client,
            model_name=config.model_name,
            model_id=model_id,
            run_id=run.id,
            digest=dataset.table.digest,
            card=card.model_card(
                config, dataset.table, dataset.split, comparison, model_name=config.model_name
            ),
        )
    return DistillResult(
        run_id=run.id,
        teachers_run_id=teachers_run_id,
        comparison=comparison,
        model_name=config.model_name,
        version=version,
        test_rows=len(dataset.split.test),
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
    rows = _rows(encoding, dataset)
    device = rows.train.device
    pairs = list(seeds) * 2
    population = Population.initialised(
        (rows.train.shape[1], *config.student_hidden, len(encoding.classes)), seeds=pairs
    ).to(device)
    labels, val_labels = _label_tensors(dataset, device)
    ensemble_classes = ensemble.logits(dataset.features("val")).argmax(dim=1).to(device)
    loss = DistillationLoss(
        ensemble.logits(dataset.features("train")).to(device),
        labels,
        temperature=torch.full((len(pairs),), config.temperature, device=device),
        alpha=torch.tensor(alphas, device=device),
    )
    _train(
        population,
        rows,
        loss,
        runs=runs,
        schedule=_schedule(config, config.student_epochs, config.student_weight_decay),
        seeds=pairs,
        evaluate=lambda logits: {
            **_validation_figures(logits, val_labels),
            "val_agreement": metrics.agreements(logits, ensemble_classes),
        },
        label="students",
        listener=listener,
    )
    return population.cpu()


def _compare(population: Population, dataset: Dataset, ensemble: Ensemble) -> Comparison:
    n = population.k // 2
    features = dataset.features("test")
    encoded = torch.from_numpy(ensemble.encoding.encode(features))
    logits = population.logits(Scaler(ensemble.encoding)(encoded))
    return evaluate_students(
        logits[:n],
        logits[n:],
        ensemble.logits(features),
        dataset.labels("test"),
        student_parameters=population.parameters_per_member,
        ensemble_parameters=ensemble.parameters,
    )


def _promote(
    config: PromoteConfig,
    version: ModelVersion,
    distill_run: Run,
    data: Dataset | str,
    tracker: Tracker,
    listener: Listener,
    parent: TrackedRun | None = None,
) -> Decision:
    """Gate a version; ``data`` is a sentence where its table is not to be had."""
    seen = registry.version_in_production(tracker.client, config.model_name)
    digest = distill_run.data.tags["kd.data_digest"]
    mark = ensembles.fingerprint(digest, config.as_text())
    with tracker.run("promotion", f"promotion version {version.version}", parent=parent) as run:
        run.params(config.as_text())
        run.tags({"kd.fingerprint": mark, "kd.data_digest": digest})
        rows: TestRows | str = data if isinstance(data, str) else data.test_rows()
        if isinstance(data, Dataset):
            run.data_set(data_set_input(data.table, data.split))
        checks = registry.gate(
            version,
            distill_run,
            rows,
            metric=config.gate_metric,
            max_accuracy_gap=config.max_accuracy_gap,
            min_compression=config.min_compression,
        )
        for check in checks:
            run.metrics({f"gate.{check.name}": float(check.passed), **check.figures})
        decision = registry.decide(tracker.client, version, checks, seen=seen)
        verdict = "promoted" if decision.promoted else "rejected"
        run.tags({"kd.promotion": verdict, "kd.model_version": decision.version})
        run.describe(
            f"Version {decision.version} of **{decision.model_name}** {verdict}: "
            f"{decision.reason}.\n"
        )
    return decision


def _run_of(tracker: Tracker, version: ModelVersion) -> Run:
    """The run that a version came from.  Raises RegistryError where it is none of ours."""
    run_id = version.tags.get("kd.run_id")
    run = tracker.get(run_id) if run_id else None
    needed = {"registered_test_accuracy", "ensemble_test_accuracy", "compression_ratio"}
    if run is None or not needed <= run.data.metrics.keys():
        raise RegistryError(
            f"version {version.version} of {version.name!r} has no distill run to judge it by; "
            "only versions that distill registered can be promoted"
        )
    return run


def _dataset_of(run: Run) -> Dataset | str:
    """Read a run's table again, or say why its test rows are not to be had."""
    params = run.data.params
    try:
        dataset = read_dataset(
            DataOptions(
                data=params["kd.data"],
                target=params["kd.target"],
                val_fraction=float(params["kd.val_fraction"]),
            )
        )
    except DataError as error:
        return f"the test rows cannot be read again: {error}"
    if dataset.table.digest != run.data.tags["kd.data_digest"]:
        return f"the table {params['kd.data']} changed since the version was trained"
    return dataset


def _describe_run(
    run: TrackedRun, config: Options, dataset: Dataset, mark: str | None = None, **own: object
) -> None:
    """Log what every run has: configuration, fingerprint, digest, data set."""
    table = dataset.table
    mark = mark or ensembles.fingerprint(table.digest, config.as_text())
    sides = {f"{name}_rows": len(rows) for name, rows in vars(dataset.split).items()}
    run.params({**config.as_text(), "data": table.source, **sides, **own})
    run.tags({"kd.fingerprint": mark, "kd.data_digest": table.digest})
    run.data_set(data_set_input(table, dataset.split))


def _train(
    population: Population,
    rows: Rows,
    loss: LabelLoss | DistillationLoss,
    *,
    runs: Sequence[TrackedRun],
    schedule: Schedule,
    seeds: Sequence[int],
    evaluate: Evaluate,
    label: str,
    listener: Listener,
) -> None:
    """Train a population while its curves go to its runs and to the listener."""
    progress = listener.training(label, population.k, schedule.epochs)
    with CurveWriter(runs) as curves, progress as heard:

        def on_epoch(members: slice, epoch: int, values: dict[str, NDArray[np.float64]]) -> None:
            curves.on_epoch(members, epoch, values)
            heard(members, epoch, values)

        fit(
            population,
            rows,
            loss,
            schedule=schedule,
            seeds=seeds,
            evaluate=evaluate,
            on_epoch=on_epoch,
        )


def _rows(encoding: Encoding, dataset: Dataset) -> Rows:
    """Scaled inputs of the train and validation rows, on the device that trains."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scaler = Scaler(encoding)

    def inputs(side: str) -> Tensor:
        scaled: Tensor = scaler(torch.from_numpy(encoding.encode(dataset.features(side))))
        return scaled.to(device)

    return Rows(train=inputs("train"), val=inputs("val"))


def _label_tensors(dataset: Dataset, device: torch.device) -> tuple[Tensor, Tensor]:
    train, val = (torch.from_numpy(dataset.labels(side)).to(device) for side in ("train", "val"))
    return train, val


def _validation_figures(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    loss = hard_loss(logits, labels.expand(logits.shape[0], -1))
    return {"val_loss": loss, "val_accuracy": metrics.agreements(logits, labels)}


def _schedule(config: TeachersConfig | DistillConfig, epochs: int, weight_decay: float) -> Schedule:
    return Schedule(
        epochs=epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=weight_decay,
        decay=config.schedule,
    )


def _member_seeds(seed: int, stream: int, k: int) -> list[int]:
    """Seeds of a population's members; the first ones do not depend on how many follow."""
    drawn = np.random.SeedSequence(entropy=seed, spawn_key=(stream,)).generate_state(k)
    return [int(value) for value in drawn]


def _numbered(name: str, k: int) -> list[str]:
    return [f"{name}-{i:02d}" for i in range(1, k + 1)]
