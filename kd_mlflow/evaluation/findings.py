"""Everything that an evaluation found of one model on one table, as data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from kd_mlflow.evaluation.checks import Check
from kd_mlflow.evaluation.drift import ColumnDrift
from kd_mlflow.evaluation.intervals import Interval
from kd_mlflow.evaluation.metrics import Counts
from kd_mlflow.evaluation.scores import NO_LABEL, UNKNOWN, ClassScores, Paired, RowScores

LOGGED_COLUMNS = 100
"""Columns whose index is a metric of the run, the most shifted first; drift.json has all."""

METRIC_NAME = re.compile(r"[\w\-. /]{1,200}", re.ASCII)
"""What MLflow takes as a part of a metric's name."""


class Histogram(NamedTuple):
    """A column's counts in the training rows and in the table, bin by bin, gaps first."""

    names: Sequence[str]
    before: Counts
    now: Counts


@dataclass(frozen=True, kw_only=True)
class Findings:
    """One model on one table.

    Fields:
        model: what was scored, in words
        table: the table's name
        target: its label column, empty without one
        scores: the answers row by row
        metrics: with their intervals; empty without labels
        classes: in the model's order
        class_shares: the training rows' by class, empty where they are not known
        estimate: the accuracy that a calibrated model of this confidence would have
        drift: by column, the most shifted first
        histograms: counts by column; none of models of other origins
        against: the model compared with, None where there is none
        pair: the comparison with it
        limits: those that were set, and whether they are kept
        notes: sentences that a reader must know
    """

    model: str
    table: str
    target: str
    scores: RowScores
    metrics: Mapping[str, Interval]
    classes: tuple[ClassScores, ...]
    class_shares: tuple[float, ...]
    estimate: Interval
    drift: tuple[ColumnDrift, ...]
    histograms: Mapping[str, Histogram]
    against: str | None
    pair: Paired | None
    limits: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def rows(self) -> int:
        """How many rows were scored."""
        return len(self.scores)

    @property
    def labelled_rows(self) -> int:
        """How many of them have a label."""
        return int((self.scores.labels != NO_LABEL).sum())

    @property
    def unknown_labels(self) -> int:
        """How many of them have a label that is no class of the model."""
        return int((self.scores.labels == UNKNOWN).sum())

    @property
    def kept(self) -> bool:
        """Whether every limit that was set is kept."""
        return all(limit.passed for limit in self.limits)

    @property
    def profiled(self) -> bool:
        """Whether the training rows are known, so that columns have an index."""
        return any(column.psi is not None for column in self.drift)

    @property
    def shifted(self) -> tuple[ColumnDrift, ...]:
        """Columns that moved by more than chance, the most shifted first."""
        return tuple(column for column in self.drift if column.shifted)

    def logged(self) -> dict[str, float]:
        """The numbers that the run logs, by name."""
        found: dict[str, float | None] = {"rows": self.rows}
        found["mean_confidence"] = self.estimate.value
        bounded: dict[str, Interval | None] = {"estimated_accuracy": self.estimate, **self.metrics}
        if self.metrics:
            found["labelled_rows"] = self.labelled_rows
            found["unknown_labels"] = self.unknown_labels
            found["estimate_error"] = self.estimate.value - self.metrics["accuracy"].value
        if pair := self.pair:
            found |= {"agreement": pair.agreement, "against_accuracy": pair.accuracy}
            found["against_balanced_accuracy"] = pair.balanced_accuracy
            found["mcnemar_p"] = pair.mcnemar_p
            bounded |= {"accuracy_gain": pair.accuracy_gain, "log_loss_gain": pair.loss_gain}
        for name, interval in bounded.items():
            found |= interval.named(name) if interval else {}
        known = {name: value for name, value in found.items() if value is not None}
        finite = {n: v for n, v in known.items() if np.isfinite(v)}  # one row's loss has no bounds
        return finite | self._logged_drift()

    def document(self) -> dict[str, Any]:
        """Metrics, classes, comparison and limits as a JSON document."""
        return {
            "model": self.model,
            "against": self.against,
            "table": self.table,
            "rows": self.rows,
            "metrics": {name: asdict(interval) for name, interval in self.metrics.items()},
            "estimated_accuracy": asdict(self.estimate),
            "classes": [asdict(each) for each in self.classes],
            "pair": None if self.pair is None else asdict(self.pair),
            "limits": [
                {"name": limit.name, "kept": limit.passed, "reason": limit.reason}
                for limit in self.limits
            ],
            "notes": list(self.notes),
        }

    def drift_document(self) -> list[dict[str, Any]]:
        """Each column with its shares, its index and its counts as a JSON document."""
        return [
            {
                **asdict(column),
                "move": None if column.move is None else column.move._asdict(),
                "shifted": column.shifted,
                **self._counts(column.name),
            }
            for column in self.drift
        ]

    def _counts(self, name: str) -> dict[str, list[Any]]:
        histogram = self.histograms.get(name)
        if histogram is None:
            return {}
        before, now = histogram.before.tolist(), histogram.now.tolist()
        return {"bins": list(histogram.names), "before": before, "now": now}

    def _logged_drift(self) -> dict[str, float]:
        known = [(column.name, column.psi) for column in self.drift if column.psi is not None]
        if not known:
            return {}
        named = [(name, psi) for name, psi in known if METRIC_NAME.fullmatch(name)]
        return {
            "max_psi": max(psi for _, psi in known),
            "shifted_columns": len(self.shifted),
            **{f"psi.{name}": psi for name, psi in named[:LOGGED_COLUMNS]},
        }


def predicted_shares(scores: RowScores) -> list[float]:
    """Which share of the rows each class is predicted for."""
    counts = np.bincount(scores.predicted, minlength=scores.classes)
    return [float(count) / len(scores) for count in counts]
