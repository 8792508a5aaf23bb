"""The sweep: temperature x alpha as one population, then sizes, both judged on validation rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kd_mlflow import card, figures, metrics
from kd_mlflow.calibration import fit_temperatures
from kd_mlflow.config import DistillConfig, SweepConfig
from kd_mlflow.curve_writer import CurveWriter
from kd_mlflow.dataset import Dataset
from kd_mlflow.errors import ConfigError
from kd_mlflow.evaluation import CRITERION, Figures, validation_figures
from kd_mlflow.options import text_value
from kd_mlflow.steps import Listener, describe_run, member_seeds
from kd_mlflow.students import Member, TransferSet, finish, student_task, transfer_set
from kd_mlflow.style import png
from kd_mlflow.summary import sweep_table
from kd_mlflow.teachers import Teacher, choose_run, fingerprint
from kd_mlflow.tracking import TrackedRun, Tracker
from kd_mlflow.training import History
from kd_mlflow.workers import Workers

SEED_STREAM = 1
"""The students of a sweep have the seeds of the students of ``distill``."""

ROUNDING = 1e-9
"""Accuracies are shares of whole rows; their sums are not exact."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting, and its figures: means over seeds, ``_sem`` their standard errors."""

    temperature: float
    alpha: float
    hidden: tuple[int, ...]
    figures: Figures

    @property
    def parameters(self) -> int:
        """Parameters of one student."""
        return int(self.figures["parameters"])


@dataclass(frozen=True, kw_only=True, repr=False)
class SweepResult:
    """A grid, the cell chosen of it, students of several sizes at its setting.

    ``smallest`` is the smallest size within the tolerance of the ensemble on validation rows, None
    where no size is.
    """

    run_id: str
    teachers: str
    ensemble: Figures
    cells: tuple[Cell, ...]
    chosen: Cell
    sizes: tuple[Cell, ...]
    smallest: Cell | None

    def __repr__(self) -> str:
        return sweep_table(self)


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """What both halves of a sweep share."""

    config: SweepConfig
    dataset: Dataset
    lessons: TransferSet
    ensemble_test_logits: Tensor
    test_inputs: Tensor
    seeds: Sequence[int]
    mark: str
    tracker: Tracker
    listener: Listener
    run: TrackedRun


def sweep_step(
    config: SweepConfig,
    dataset: Dataset,
    ensemble: Teacher,
    tracker: Tracker,
    listener: Listener,
) -> SweepResult:
    """Train the grid, choose a cell, train the sizes at its setting, log all."""
    mark = fingerprint(dataset.table.digest, config.as_text() | {"teachers": ensemble.identity})
    features = dataset.features("test")
    with tracker.run("sweep", f"sweep {dataset.table.name}") as run:
        lessons = transfer_set(config, dataset, ensemble)
        describe_run(run, config, dataset, mark, pool_rows=len(lessons.labels))
        run.log(tags=ensemble.tags)
        scene = _Scene(
            config=config,
            dataset=dataset,
            lessons=lessons,
            ensemble_test_logits=ensemble.score(features, config.averaging),
            test_inputs=ensemble.encoding.inputs(features),
            seeds=member_seeds(config.seed, SEED_STREAM, config.n_students),
            mark=mark,
            tracker=tracker,
            listener=listener,
            run=run,
        )
        grid = [(t, a) for t in config.temperatures for a in config.alphas]
        cells = _train_cells(scene, grid, config.student_hidden)
        chosen = min(cells, key=lambda cell: cell.figures[CRITERION])
        setting = [(chosen.temperature, chosen.alpha)]
        sizes = [cell for size in config.size_list() for cell in _train_cells(scene, setting, size)]
        level = _ensemble_figures(scene, ensemble.parameters)
        result = SweepResult(
            run_id=run.id,
            teachers=ensemble.source,
            ensemble=level,
            cells=tuple(cells),
            chosen=chosen,
            sizes=tuple(sizes),
            smallest=_smallest(
                sizes, level=level["ensemble_val_accuracy"] - config.tolerance - ROUNDING
            ),
        )
        _log(run, config, dataset, result)
    return result


def take_sweep(config: DistillConfig, tracker: Tracker, data_digest: str) -> DistillConfig:
    """Take temperature and alpha from the sweep that ``from_sweep`` names, if it names one.

    Raises ConfigError where temperature or alpha is given too, RunError where there is no sweep.
    """
    if not config.from_sweep:
        return config
    for name in ("temperature", "alpha"):
        default = DistillConfig.__dataclass_fields__[name].default
        if (given := getattr(config, name)) != default:
            raise ConfigError(
                f"from_sweep sets {name} too; received {given:g} beside it: give one of the two"
            )
    run = choose_run(tracker, "sweep", "a sweep", config.from_sweep, data_digest)
    return dataclasses.replace(
        config,
        from_sweep=run.info.run_id,
        temperature=float(run.data.params["kd.chosen_temperature"]),
        alpha=float(run.data.params["kd.chosen_alpha"]),
    )


def _train_cells(
    scene: _Scene, settings: Sequence[tuple[float, float]], hidden: tuple[int, ...]
) -> list[Cell]:
    """Train all seeds of all settings as one population; one run a setting."""
    config, k = scene.config, len(scene.seeds)
    members = [
        Member(seed=seed, temperature=t, alpha=alpha)
        for t, alpha in settings
        for seed in scene.seeds
    ]
    task = student_task(config, scene.lessons, members, hidden)
    widths = "-".join(map(str, hidden))
    label = f"{len(settings)} settings of {widths}"
    with scene.listener.training(label, len(members), config.student_epochs) as heard:
        history = task.fit(Workers.of(config), heard)
    population = finish(config, task, scene.lessons)
    rows = scene.lessons.rows.val.cpu()
    val, test = (torch.split(population.logits(x), k) for x in (rows, scene.test_inputs))
    cells = [
        Cell(
            temperature=t,
            alpha=alpha,
            hidden=hidden,
            figures=_figures(scene, val[i], test[i], population.parameters_per_member),
        )
        for i, (t, alpha) in enumerate(settings)
    ]
    names = [f"T{cell.temperature:g}-alpha{cell.alpha:g}-{widths}" for cell in cells]
    with scene.tracker.children("student", names, parent=scene.run) as runs:
        for run, cell in zip(runs, cells, strict=True):
            own = {
                "temperature": cell.temperature,
                "alpha": cell.alpha,
                "student_hidden": text_value(hidden),
            }
            note = card.cell_note(config, scene.dataset.table, own)
            describe_run(run, config, scene.dataset, scene.mark, note=note, **own)
        _write_curves(runs, history, k)
        for run, cell in zip(runs, cells, strict=True):
            run.log(metrics={n: v for n, v in cell.figures.items() if n not in history})
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


def _figures(scene: _Scene, val: Tensor, test: Tensor, parameters: int) -> Figures:
    """Means over seeds.  Shape: (seeds, rows, classes) each."""
    labels = scene.lessons.val_labels.cpu()
    test_labels = scene.dataset.labels("test")
    ensemble_classes = scene.lessons.val_logits.cpu().argmax(dim=1)
    cooled = val / fit_temperatures(val, labels)[:, None, None]
    by_seed = {
        "calibrated_val_loss": validation_figures(cooled, labels)["val_loss"],
        "val_accuracy": metrics.agreements(val, labels),
        "val_agreement": metrics.agreements(val, ensemble_classes),
        "test_accuracy": metrics.agreements(test, torch.from_numpy(test_labels)),
        "test_agreement": metrics.agreements(test, scene.ensemble_test_logits.argmax(dim=1)),
    }
    found: Figures = {"parameters": parameters}
    for name, values in by_seed.items():
        each = values.double().numpy()
        found[name] = float(each.mean())
        found[f"{name}_sem"] = metrics.standard_error(each)
    return found


def _ensemble_figures(scene: _Scene, parameters: int | None) -> Figures:
    labels, logits = scene.lessons.val_labels.cpu(), scene.lessons.val_logits.cpu()[None]
    cooled = logits / fit_temperatures(logits, labels)
    test_labels = scene.dataset.labels("test")
    hits = scene.ensemble_test_logits.argmax(dim=1).numpy() == test_labels
    return {
        "ensemble_val_accuracy": float(metrics.agreements(logits, labels)),
        "ensemble_calibrated_val_loss": float(validation_figures(cooled, labels)["val_loss"]),
        "ensemble_test_accuracy": float(np.mean(hits)),
        **({"ensemble_parameters": parameters} if parameters is not None else {}),
    }


def _smallest(sizes: Sequence[Cell], *, level: float) -> Cell | None:
    near = [cell for cell in sizes if cell.figures["val_accuracy"] >= level]
    return min(near, key=lambda cell: cell.parameters, default=None)


def _log(run: TrackedRun, config: SweepConfig, dataset: Dataset, result: SweepResult) -> None:
    chosen, smallest = result.chosen, result.smallest
    choice: dict[str, object] = {"temperature": chosen.temperature, "alpha": chosen.alpha}
    if smallest:
        choice["student_hidden"] = text_value(smallest.hidden)
    best = {f"chosen_{name}": value for name, value in chosen.figures.items()}
    small = smallest.figures if smallest else {}
    run.log(
        params={f"chosen_{name}": value for name, value in choice.items()},
        metrics={
            **result.ensemble,
            **best,
            **{f"smallest_{name}": value for name, value in small.items()},
        },
        note=card.sweep_note(config, dataset.table, choice, len(result.cells)),
    )
    losses = [cell.figures[CRITERION] for cell in result.cells]
    shape = (len(config.temperatures), len(config.alphas))
    grid = png(
        figures.heat_map(
            np.reshape(losses, shape),
            temperatures=config.temperatures,
            alphas=config.alphas,
            chosen=(chosen.temperature, chosen.alpha),
            seeds=config.n_students,
            rows=len(dataset.split.val),
        )
    )
    run.file(grid, "sweep_grid.png")
    if result.sizes:
        curve = png(
            figures.size_curve(
                [c.parameters for c in result.sizes],
                [c.figures["test_accuracy"] for c in result.sizes],
                [c.figures["test_accuracy_sem"] for c in result.sizes],
                ensemble=result.ensemble["ensemble_test_accuracy"],
                smallest=smallest.parameters if smallest else None,
                seeds=config.n_students,
                rows=len(dataset.split.test),
            )
        )
        run.file(curve, "sweep_sizes.png")
