"""What a sweep returns, and its closing table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kd_mlflow.config.options import text_value
from kd_mlflow.evaluation.comparison import CRITERION
from kd_mlflow.evaluation.scores import Metrics
from kd_mlflow.report.closing import aligned, table_text
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
class SweepResult:
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
    """

    run_id: str
    taught_by: str
    ensemble: Metrics
    cells: tuple[Cell, ...]
    chosen: Cell
    sizes: tuple[Cell, ...]
    smallest: Cell | None
    together: Sequence[tuple[str, str]] = ()

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
        return table_text([*self.together, *aligned(list(lines.items())), *best, *runs]) + (
            "\n\nuse it:  -e distill -P from_sweep=latest"
        )


def _setting(cell: Cell) -> str:
    return f"T {cell.temperature:g}, alpha {cell.alpha:g}"


def _cell_columns(cell: Cell) -> list[str]:
    metrics = cell.metrics
    loss = f"{metrics[CRITERION]:.4f} ± {metrics[f'{CRITERION}_sem']:.4f}"
    return [loss, *(accuracy_with_error(metrics, f"{side}_accuracy") for side in ("val", "test"))]
