"""What sweep, columns, predict, history and rollback return, and how they show it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import click
import pandas as pd

from kd_mlflow.config.options import text_value
from kd_mlflow.evaluation.comparison import CRITERION
from kd_mlflow.evaluation.scores import Metrics
from kd_mlflow.registry.moves import Period
from kd_mlflow.registry.records import PROMOTE
from kd_mlflow.report.closing import Page, Shown, aligned, next_steps, table_text
from kd_mlflow.report.markdown import one_line, percent
from kd_mlflow.report.words import accuracy_with_error
from kd_mlflow.table.columns import ColumnReport

NAME_LENGTH, LINE_LENGTH, WHY_LENGTH = 40, 400, 200
"""Characters of a name, of a column's line, of a reason in a history, which the version's tags and
its promotion's run have whole."""

SHOWN_CLASSES = 8


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
        means = "test accuracy, means over seeds ± standard errors"
        loss = f"{ensemble['ensemble_calibrated_val_loss']:.4f}"
        level = (percent(ensemble[f"ensemble_{side}_accuracy"]) for side in ("val", "test"))
        lines = {
            "": ["val log loss", "val accuracy", means],
            **{_setting(cell): _cell_columns(cell) for cell in self.cells},
            **{
                f"{text_value(cell.hidden)}: {cell.parameters:,} parameters": _cell_columns(cell)
                for cell in self.sizes
            },
            "ensemble": [loss, *level],
        }
        best = [("least validation log loss", _setting(self.chosen))]
        if self.sizes:
            words = text_value(smallest.hidden) if smallest else "none of these sizes"
            if smallest and "ensemble_parameters" in ensemble:
                words += f", {ensemble['ensemble_parameters'] / smallest.parameters:.0f}x smaller"
            best.append(("smallest within tolerance", words))
            most = ensemble["majority_val_accuracy"]
            if smallest and smallest.metrics["val_accuracy"] <= most:
                told = f"the most frequent class alone has {percent(most)}: look at the log loss"
                best.append(("warning", f"accuracy tells no sizes apart, {told}"))
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
    error = metrics[f"{CRITERION}_sem"]
    loss = f"{metrics[CRITERION]:.4f}" + (f" ± {error:.4f}" if error else "")
    return [loss, *(accuracy_with_error(metrics, f"{side}_accuracy") for side in ("val", "test"))]


@dataclass(frozen=True, kw_only=True, repr=False)
class ColumnsResult(Shown):
    """How each column of a table is read.

    Fields:
        table: what the table is called
        rows: how many it has
        target: the name of its label column
        label: what that holds, or why it can be no label
        columns: each other column, in the table's order
    """

    table: str
    rows: int
    target: str
    label: str
    columns: tuple[ColumnReport, ...]

    def __repr__(self) -> str:
        """One line a column, in the table's order."""
        lines = [
            (one_line(column.name, NAME_LENGTH), one_line(column.line(), LINE_LENGTH))
            for column in self.columns
        ]
        label = (one_line(self.target, NAME_LENGTH), one_line(self.label, LINE_LENGTH))
        head = (one_line(self.table, NAME_LENGTH), f"{self.rows:,} rows")
        return table_text([head, label, *lines])


@dataclass(frozen=True, kw_only=True, repr=False)
class PredictResult(Shown):
    """Rows that were scored, and where their answers are.

    Fields:
        table: what the table is called
        rows: how many it has
        out: the file with the answers
        model: what answered, by name, version and aliases
        resolved: its address, an alias resolved to its version
        predicted: rows by the class that was predicted
        reasons: columns named for each row
        seconds: how long it took, without loading the model
    """

    table: str
    rows: int
    out: str
    model: str
    resolved: str
    predicted: Mapping[str, int]
    reasons: int
    seconds: float

    def __repr__(self) -> str:
        """What answered, what it said, and where that is."""
        shares = [
            f"{one_line(name, NAME_LENGTH)} {percent(count / self.rows)}"
            for name, count in list(self.predicted.items())[:SHOWN_CLASSES]
        ]
        more = len(self.predicted) - SHOWN_CLASSES
        shares += [f"{more} classes more"] if more > 0 else []
        speed = f"{self.rows / self.seconds:,.0f} a second" if self.seconds else ""
        lines = [
            ("scored", f"{self.rows:,} rows of {one_line(self.table, NAME_LENGTH)}, {speed}"),
            ("by", self.model),
            ("predicted", ", ".join(shares)),
        ]
        why = (
            f"{self.reasons} per row: the predicted class's log odds, less those with that "
            "column at its training median or most frequent category"
        )
        lines += [("reasons", why if self.reasons else ""), ("written to", self.out)]
        return table_text(lines)


@dataclass(frozen=True, kw_only=True, repr=False)
class Rollback:
    """What a rollback did.

    Fields:
        model_name: the registered model
        restored: the version that is in production again
        replaced: the version that was there before
    """

    model_name: str
    restored: str
    replaced: str

    def __iter__(self) -> Iterator[str]:
        """The two versions, for ``restored, replaced = kd.rollback()``."""
        return iter((self.restored, self.replaced))

    def __repr__(self) -> str:
        """What moved, as a sentence."""
        return (
            f"{self.model_name}: production is version {self.restored} again; version "
            f"{self.replaced} is now previous, and rolled_back: no plain promote takes it again"
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class History(Shown):
    """Who was in production under a registered model, and who is.

    Fields:
        model_name: the registered model
        production: the version in production, None where there is none
        periods: each time in production, the oldest first
        settled: what was found half done and finished or undone, None where nothing was
    """

    model_name: str
    production: str | None
    periods: tuple[Period, ...]
    settled: str | None = None

    def __repr__(self) -> str:
        """Who was in production, the newest first: since when, for how long, and why."""
        now = datetime.now(UTC)
        lines = [("", ["since (UTC)", "for", "why"])]
        for period in reversed(self.periods):
            mark = " (now)" if period.until is None and period.version == self.production else ""
            since = period.since[:19].replace("T", " ") if period.since else "not recorded"
            why = "no record: set by other means, or its record was deleted"
            if period.kind is not None:
                verb = "promoted" if period.kind == PROMOTE else "rolled back to"
                why = f"{verb} by {period.by}: {one_line(period.reason or '', WHY_LENGTH)}"
            lines.append((f"version {period.version}{mark}", [since, _lasted(period, now), why]))
        rows = aligned(lines) if self.periods else [("", "nothing was in production yet")]
        named = [("registered model", self.model_name), ("settled", self.settled or "")]
        return table_text([*named, *rows])


def _lasted(period: Period, now: datetime) -> str:
    """How long a period lasted, or lasts, in its largest two units."""
    if period.since is None:
        return "not known"
    end = datetime.fromisoformat(period.until) if period.until else now
    seconds = max(0, int((end - datetime.fromisoformat(period.since)).total_seconds()))
    parts = dict(zip(("d", "h", "min", "s"), pd.Timedelta(seconds, "s").components, strict=False))
    first = next((i for i, n in enumerate(parts.values()) if n), len(parts) - 1)
    return " ".join(f"{n} {unit}" for unit, n in list(parts.items())[first : first + 2])
