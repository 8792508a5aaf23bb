"""What a sweep returns, and its closing table."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from kd_mlflow.config.options import text_value
from kd_mlflow.evaluation.comparison import CRITERION
from kd_mlflow.evaluation.scores import Metrics
from kd_mlflow.report.closing import Page, Shown, aligned, next_steps, table_text
from kd_mlflow.report.words import accuracy_with_error, percent

SWEEP_COLUMNS = [
    "val log loss",
    "val accuracy",
    "test accuracy, means over seeds ± standard errors",
]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Students of one temperature, alpha and size.

    Fields:
        temperature: T of the soft targets
        alpha: the weight of the soft loss
        hidden: widths of the hidden layers
        metrics: means over seeds, and by ``_sem`` their standard errors
    """

    temperature: float
    alpha: float
    hidden: tuple[int, ...]
    metrics: Metrics

    @property
    def parameters(self) -> int:
        """Parameters of one student."""
        return int(self.metrics["parameters"])


@dataclass(frozen=True, kw_only=True, repr=False)
class SweepResult(Shown):
    """A grid of settings, the cell chosen of it, and sizes at its setting.

    Fields:
        run_id: the run of the sweep
        taught_by: the teachers in words
        ensemble: what the ensemble is worth
        cells: the grid
        chosen: the cell of least validation log loss
        sizes: students of several sizes at the chosen setting
        smallest: the smallest size within the tolerance of the ensemble, None where none is
        together: how the table is split by its own columns, as rows of the closing table
        table: options that say which table this is, by name; data is None of a table in memory
        page: where its run is shown
    """

    run_id: str
    taught_by: str
    ensemble: Metrics
    cells: tuple[Cell, ...]
    chosen: Cell
    sizes: tuple[Cell, ...]
    smallest: Cell | None
    together: Sequence[tuple[str, str]] = ()
    table: Mapping[str, Any] = field(default_factory=dict)
    page: Page | None = None

    def __repr__(self) -> str:
        """The grid, the sizes, and what was chosen."""
        ensemble, smallest = self.ensemble, self.smallest
        level = [
            f"{ensemble['ensemble_calibrated_val_loss']:.4f}",
            percent(ensemble["ensemble_val_accuracy"]),
            percent(ensemble["ensemble_test_accuracy"]),
        ]
        lines = {
            "": SWEEP_COLUMNS,
            **{_setting(cell): _cell_columns(cell) for cell in self.cells},
            **{
                f"{text_value(cell.hidden)}: {cell.parameters:,} parameters": _cell_columns(cell)
                for cell in self.sizes
            },
            "ensemble": level,
        }
        best = [("least validation log loss", _setting(self.chosen))]
        if self.sizes:
            words = text_value(smallest.hidden) if smallest else "none of these sizes"
            if smallest and "ensemble_parameters" in ensemble:
                words += f", {ensemble['ensemble_parameters'] / smallest.parameters:.0f}x smaller"
            best.append(("smallest within tolerance", words))
        runs = [("sweep run", self.run_id), ("teachers", self.taught_by)]
        table = table_text([*self.together, *aligned(list(lines.items())), *best, *runs])
        return table + next_steps(self.page) + f"\nuse   {self._next_call()}"

    def _next_call(self) -> str:
        """What distils with the setting chosen, for the way that this was called."""
        given = {**self.table, "from_sweep": self.run_id}
        texts = {name: text_value(value) for name, value in given.items()}
        if "MLFLOW_RUN_ID" in os.environ:
            options = (f"-P {shlex.quote(f'{name}={text}')}" for name, text in texts.items())
            return f"mlflow run . -e distill {' '.join(options)}"
        if click.get_current_context(silent=True):
            named = {name.replace("_", "-"): shlex.quote(text) for name, text in texts.items()}
            return f"kd-mlflow distill {' '.join(f'--{n} {text}' for n, text in named.items())}"
        words = (f"{name}={'table' if v is None else repr(v)}" for name, v in given.items())
        return f"kd.distill({', '.join(words)})"


def _setting(cell: Cell) -> str:
    return f"T {cell.temperature:g}, alpha {cell.alpha:g}"


def _cell_columns(cell: Cell) -> list[str]:
    metrics = cell.metrics
    loss = f"{metrics[CRITERION]:.4f} ± {metrics[f'{CRITERION}_sem']:.4f}"
    return [loss, *(accuracy_with_error(metrics, f"{side}_accuracy") for side in ("val", "test"))]
