"""The sweep: temperature x alpha as one population, then sizes, both judged on validation rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow.config.entry_points import DistillConfig, SweepConfig
from kd_mlflow.config.groups import DataOptions
from kd_mlflow.config.options import text_value
from kd_mlflow.distillation import students
from kd_mlflow.distillation.identity import STUDENT_STREAM, fingerprint, member_seeds
from kd_mlflow.distillation.logits import agreements, validation_metrics
from kd_mlflow.distillation.teachers import Teacher
from kd_mlflow.errors import ConfigError
from kd_mlflow.evaluation.comparison import CRITERION
from kd_mlflow.evaluation.intervals import standard_error
from kd_mlflow.evaluation.scores import Metrics
from kd_mlflow.figures import accuracy
from kd_mlflow.figures.style import png
from kd_mlflow.population.history import History
from kd_mlflow.population.selection import fit_temperatures
from kd_mlflow.report import notes
from kd_mlflow.report.command_results import Cell, SweepResult
from kd_mlflow.report.words import together
from kd_mlflow.steps.distill import with_student
from kd_mlflow.steps.work import Session, Work, begun, page_of
from kd_mlflow.table.dataset import Identity
from kd_mlflow.table.encoding import Encoding
from kd_mlflow.table.hashing import distinct_rows
from kd_mlflow.tracking.curves import CurveWriter
from kd_mlflow.tracking.lookup import choose_run
from kd_mlflow.tracking.open_run import TrackedRun
from kd_mlflow.tracking.runs import Tracker

ROUNDING = 1e-9
"""Accuracies are shares of whole rows; their sums are not exact."""


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """What both halves of a sweep share.

    ``test_inputs`` are of each distinct test row, ``test_rows`` which of them each row is.
    """

    work: Work[SweepConfig]
    lessons: students.TransferSet
    ensemble_test_logits: Tensor
    encoding: Encoding
    test_inputs: Tensor
    test_rows: NDArray[np.intp]
    seeds: Sequence[int]


def sweep_step(config: SweepConfig, session: Session, ensemble: Teacher) -> SweepResult:
    """Train the grid, choose a cell, train the sizes at its setting, log all."""
    dataset = session.dataset
    config = dataclasses.replace(config, teachers=ensemble.run_id or config.teachers)
    mark = fingerprint(dataset.identity, config.as_text() | {"teachers": ensemble.identity})
    features = dataset.features("test")
    first, rows = distinct_rows(features)
    asked = features.iloc[first]
    with begun("sweep", config, session, mark) as work:
        lessons = students.transfer_set(config, dataset, ensemble)
        seeds = member_seeds(config.seed, STUDENT_STREAM, config.n_students)
        work, _ = with_student(work, lessons, seeds[0])
        config = work.config
        encoding = lessons.binned(config.student_bins)
        work.describe(pool_rows=lessons.taught_rows)
        work.run.log(tags=ensemble.tags)
        scene = _Scene(
            work=work,
            lessons=lessons,
            ensemble_test_logits=ensemble.score(asked, config.averaging)[rows],
            encoding=encoding,
            test_inputs=encoding.inputs(asked),
            test_rows=rows,
            seeds=seeds,
        )
        grid = [(t, a) for t in config.temperatures for a in config.alphas]
        cells = _train_cells(scene, grid, config.student_hidden)
        chosen = min(cells, key=lambda cell: cell.metrics[CRITERION])
        setting = [(chosen.temperature, chosen.alpha)]
        sizes = [cell for size in config.size_list() for cell in _train_cells(scene, setting, size)]
        level = _ensemble_metrics(scene, ensemble.parameters)
        least = level["ensemble_val_accuracy"] - config.tolerance - ROUNDING
        near = [cell for cell in sizes if cell.metrics["val_accuracy"] >= least]
        unnamed = {} if isinstance(config.data, str | Path) else {"data": None}
        result = SweepResult(
            run_id=work.run.id,
            taught_by=ensemble.source,
            ensemble=level,
            cells=tuple(cells),
            chosen=chosen,
            sizes=tuple(sizes),
            smallest=min(near, key=lambda cell: cell.parameters, default=None),
            together=together(dataset),
            table=DataOptions.part_of(config).given() | unnamed,
            page=page_of(session.tracker, work.run),
        )
        _log(work, result)
    return result


def take_sweep(config: DistillConfig, tracker: Tracker, identity: Identity) -> DistillConfig:
    """Take temperature and alpha from the sweep that ``from_sweep`` names, if it names one.

    Its teachers too, where no others are named: they are what it was chosen for.
    Raises ConfigError where temperature or alpha is given too, RunError where there is no sweep.
    """
    if not config.from_sweep:
        return config
    for name in ("temperature", "alpha"):
        if (given := getattr(config, name)) is not None:
            raise ConfigError(
                f"from_sweep sets {name} too; received {given:g} beside it: give one of the two"
            )
    run = choose_run(tracker, "sweep", config.from_sweep, identity)
    found = run.data.params
    return dataclasses.replace(
        config,
        from_sweep=run.info.run_id,
        teachers=found["kd.teachers"] if config.teachers == "latest" else config.teachers,
        temperature=float(found["kd.chosen_temperature"]),
        alpha=float(found["kd.chosen_alpha"]),
    )


def _train_cells(
    scene: _Scene, settings: Sequence[tuple[float, float]], hidden: tuple[int, ...]
) -> list[Cell]:
    """Train all seeds of all settings as one population; one run per setting."""
    work, k = scene.work, len(scene.seeds)
    members = [
        students.StudentSetting(seed=seed, temperature=t, alpha=alpha)
        for t, alpha in settings
        for seed in scene.seeds
    ]
    task = students.student_task(work.config, scene.lessons, members, scene.encoding, hidden)
    widths, text = "-".join(map(str, hidden)), text_value(hidden)
    history = work.fit(task, f"{len(settings)} settings of {widths}")
    population = students.calibrated(work.config, task, scene.lessons)
    val, test = (
        torch.split(population.logits(x).cpu(), k) for x in (task.rows.val, scene.test_inputs)
    )
    cells = []
    for (t, alpha), own_val, own_test in zip(settings, val, test, strict=True):
        tested = own_test[:, scene.test_rows]
        metrics = _cell_metrics(scene, own_val, tested, population.parameters_per_member)
        cells.append(Cell(temperature=t, alpha=alpha, hidden=hidden, metrics=metrics))
    names = [f"T{cell.temperature:g}-alpha{cell.alpha:g}-{widths}" for cell in cells]
    with work.children("student", names) as runs:
        for run, cell in zip(runs, cells, strict=True):
            own = {"temperature": cell.temperature, "alpha": cell.alpha}
            note = notes.cell_note(work.dataset.table.name, seeds=k, hidden=text, **own)
            work.describe(run, note=note, **own, student_hidden=text)
        _write_curves(runs, history, k)
        for run, cell in zip(runs, cells, strict=True):
            run.log(metrics={n: v for n, v in cell.metrics.items() if n not in history})
    return cells


def _write_curves(runs: Sequence[TrackedRun], history: History, k: int) -> None:
    """Write each curve's mean over seeds.  Shape of a curve: (epochs, settings * k)."""
    with CurveWriter(runs) as writer:
        means = {
            name: curve.reshape(len(curve), len(runs), k).mean(axis=2)
            for name, curve in history.items()
        }
        for epoch in range(len(means["train_loss"])):
            values = {name: curve[epoch] for name, curve in means.items()}
            writer.on_epoch(slice(0, len(runs)), epoch + 1, values)


def _cell_metrics(scene: _Scene, val: Tensor, test: Tensor, parameters: int) -> Metrics:
    """Means over seeds.  Shape: (seeds, rows, classes) each."""
    labels = scene.lessons.val_labels.cpu()
    test_labels = scene.work.dataset.labels("test")
    ensemble_classes = scene.lessons.val_logits.cpu().argmax(dim=1)
    cooled = val / fit_temperatures(val, labels)[:, None, None]
    by_seed = {
        "calibrated_val_loss": validation_metrics(cooled, labels)["val_loss"],
        "val_accuracy": agreements(val, labels),
        "val_agreement": agreements(val, ensemble_classes),
        "test_accuracy": agreements(test, torch.from_numpy(test_labels)),
        "test_agreement": agreements(test, scene.ensemble_test_logits.argmax(dim=1)),
    }
    found: Metrics = {"parameters": parameters}
    for name, values in by_seed.items():
        each = values.double().numpy()
        found[name] = float(each.mean())
        found[f"{name}_sem"] = standard_error(each)
    return found


def _ensemble_metrics(scene: _Scene, parameters: int | None) -> Metrics:
    labels, logits = scene.lessons.val_labels.cpu(), scene.lessons.val_logits.cpu()[None]
    cooled = logits / fit_temperatures(logits, labels)
    test_labels = scene.work.dataset.labels("test")
    hits = scene.ensemble_test_logits.argmax(dim=1).numpy() == test_labels
    return {
        "ensemble_val_accuracy": float(agreements(logits, labels)),
        "ensemble_calibrated_val_loss": float(validation_metrics(cooled, labels)["val_loss"]),
        "ensemble_test_accuracy": float(np.mean(hits)),
        "majority_val_accuracy": float(np.bincount(labels).max() / len(labels)),
        **({"ensemble_parameters": parameters} if parameters is not None else {}),
    }


def _log(work: Work[SweepConfig], result: SweepResult) -> None:
    run, config, dataset = work.run, work.config, work.dataset
    chosen, smallest = result.chosen, result.smallest
    choice: dict[str, object] = {"temperature": chosen.temperature, "alpha": chosen.alpha}
    if smallest:
        choice["student_hidden"] = text_value(smallest.hidden)
    seeds, small = config.n_students, smallest.metrics if smallest else {}
    best = {f"chosen_{name}": value for name, value in chosen.metrics.items()}
    best |= {f"smallest_{name}": value for name, value in small.items()}
    run.log(
        params={f"chosen_{name}": value for name, value in choice.items()},
        metrics={**result.ensemble, **best},
        note=notes.sweep_note(dataset.table.name, result, seeds=seeds, tolerance=config.tolerance),
    )
    grid = accuracy.heat_map(
        {(cell.temperature, cell.alpha): cell.metrics[CRITERION] for cell in result.cells},
        chosen=(chosen.temperature, chosen.alpha),
        seeds=seeds,
        rows=len(dataset.split.val),
    )
    run.files({"sweep_grid.png": png(grid)})
    if result.sizes:
        each = [(c.parameters, c.metrics) for c in result.sizes]
        curve = accuracy.size_curve(
            [(own, found["test_accuracy"], found["test_accuracy_sem"]) for own, found in each],
            ensemble=result.ensemble["ensemble_test_accuracy"],
            smallest=smallest.parameters if smallest else None,
            seeds=seeds,
            rows=len(dataset.split.test),
        )
        run.files({"sweep_sizes.png": png(curve)})
