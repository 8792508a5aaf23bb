"""Every model of a comparison beside each other: what it is worth and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from kd_mlflow.evaluation.comparison import Comparison
from kd_mlflow.evaluation.intervals import ACCURACY, LOG_LOSS, known_difference, reverse
from kd_mlflow.report import words
from kd_mlflow.report.closing import Table

NAMES = {"distilled": "student", "boosting": "boosted trees", "majority": "majority class"}
"""Models whose names in metrics are not what people call them."""

KINDS = ("ensemble", "distilled", "registered", "baseline", "strong_baseline", "boosting")
"""Models whose metrics the run of a pipeline has too."""

METRICS = ("accuracy", "log_loss", "roc_auc", "balanced_accuracy", "average_precision", "ece")
"""What a model is worth, by the names of metrics without the model's and ``test``."""

COLUMNS = ("model", *METRICS, "parameters", "weight", "fit_s", "latency_ms", "bytes")
"""Columns of the leaderboard as a file; a cell is empty where nothing was measured."""

HEADS = {"roc_auc": "ROC AUC", "balanced_accuracy": "balanced", "average_precision": "avg. prec."}
"""Heads of columns whose metric has too long a name, or one in capitals."""

Line = dict[str, Any]
"""A line of the leaderboard by ``COLUMNS``: a model's name and numbers, None where unknown."""


class TeacherResult(NamedTuple):
    """One teacher of an ensemble.

    Fields:
        name: its run's name
        accuracy: on the test rows
        weight: its share of the ensemble
        metrics: those of its run, by their names there
        fit_s: its part of its family's training in seconds, None where that was not now
    """

    name: str
    accuracy: float
    weight: float
    metrics: Mapping[str, float]
    fit_s: float | None = None


def models(comparison: Comparison, beside: Mapping[str, float]) -> dict[str, Line]:
    """The ensemble, each kind of student, boosted trees, the majority class, if known.

    By what their metrics' names begin with.
    """
    known = {**comparison.summary, **beside}
    names = ("ensemble", *comparison.students, "boosting", "majority")
    return {name: _line(name, known) for name in names if f"{name}_test_accuracy" in known}


def _line(name: str, known: Mapping[str, float]) -> Line:
    student = f"{name}_test_accuracy_sem" in known
    served = "registered" if name == "distilled" else name
    return dict.fromkeys(COLUMNS) | {
        "model": name_of(name),
        **{metric: known.get(f"{name}_test_{metric}") for metric in METRICS},
        "parameters": known.get("student_parameters" if student else f"{name}_parameters"),
        "fit_s": known.get(f"{name}_fit_s"),
        "latency_ms": known.get(f"{served}_latency_ms"),
        "bytes": known.get("registered_model_bytes") if name == "distilled" else None,
    }


def name_of(kind: str) -> str:
    """What people call a model whose metrics' names begin so."""
    return NAMES.get(kind, words.kind_text(kind))


def worth_text(comparison: Comparison, beside: Mapping[str, float]) -> str:
    """Say in a sentence what students are worth beside ensemble and baseline, and cost.

    By log loss where classes are predicted by a threshold or weights: these were chosen for the
    student, and at them the accuracy of another model says little.
    """
    gap, gain, summary = reverse(comparison.gap), comparison.gains["baseline"], comparison.summary
    measure, name, whose, what = ACCURACY, "accuracy", "its ensemble", ""
    if words.threshold_text(comparison):
        gap, gain = reverse(comparison.loss_gap), comparison.loss_gains["baseline"]
        measure, name, whose, what = LOG_LOSS, "log loss", "its ensemble's", "log loss "
    alone = "the same network without a teacher"
    none = f"no measurable gain in {name} over {alone}"
    same = f"{name} not measurably different from its ensemble's"
    said = [
        (what if gap.decided else "") + known_difference(gap, measure, same, than=whose),
        (what if gain.decided else "") + known_difference(gain, measure, none, than=alone),
    ]
    if "compression_ratio" in summary:
        said.append(words.smaller_text(summary["compression_ratio"]))
    if latency := beside.get("registered_latency_ms"):
        said.append(f"{ms_text(latency)} ms a row")
    return "; ".join(said)


def third_metric(comparison: Comparison) -> str:
    """What to show besides: the ROC AUC of two balanced classes, else the balanced accuracy."""
    two = "ensemble_test_roc_auc" in comparison.summary
    return "roc_auc" if two and not comparison.imbalanced else "balanced_accuracy"


def leaderboard_rows(
    comparison: Comparison, beside: Mapping[str, float], teachers: Sequence[TeacherResult] = ()
) -> list[Line]:
    """Every model in a line, the teachers first: metrics, size, share of the ensemble, costs."""
    each = [
        dict.fromkeys(COLUMNS)
        | {
            "model": teacher.name,
            **{metric: teacher.metrics.get(f"test_{metric}") for metric in METRICS},
            "parameters": teacher.metrics.get("parameters"),
            "weight": teacher.weight,
            "fit_s": teacher.fit_s,
        }
        for teacher in teachers
    ]
    return [*each, *models(comparison, beside).values()]


def leaderboard_csv(rows: Sequence[Line]) -> str:
    """The lines of a leaderboard as a CSV file, which MLflow's pages show as a table."""
    table = pd.DataFrame(rows, columns=COLUMNS, dtype=object)
    return str(table.to_csv(index=False, lineterminator="\n"))


def headline_metrics(comparison: Comparison, beside: Mapping[str, float]) -> dict[str, float]:
    """Of all metrics of a comparison those that a list of runs should show, by their names."""
    known = {**comparison.summary, **beside}
    shown = [f"{name}_test_{m}" for name in KINDS for m in ("accuracy", "log_loss", "roc_auc")]
    shown += ["accuracy_gap", "log_loss_gap", "student_parameters", "compression_ratio"]
    return {name: known[name] for name in [*shown, "registered_latency_ms"] if name in known}


def leaderboard(comparison: Comparison, beside: Mapping[str, float]) -> Table:
    """What each model is worth and what it costs."""
    third, known, lines = third_metric(comparison), {**comparison.summary, **beside}, []
    for name, row in models(comparison, beside).items():
        accuracy = words.accuracy_with_error(known, f"{name}_test_accuracy")
        cells = [
            accuracy if " ± " in accuracy else f"{accuracy}{'':7}",
            _cell(row["log_loss"]),
            _cell(row[third]),
            f"{row['parameters']:,.0f}" if row["parameters"] else "",
            ms_text(row["latency_ms"]),
        ]
        lines.append((row["model"], cells))
    return [f"accuracy{'':7}", "log loss", HEADS[third], "numbers", "ms a row"], lines


def other_metrics(comparison: Comparison) -> Table:
    """The metrics that the leaderboard leaves out, model by model."""
    others = ("balanced_accuracy", "roc_auc", "average_precision", "ece")
    shown = [m for m in others if f"ensemble_test_{m}" in comparison.summary]
    each = models(comparison, {}).values()
    lines = [(row["model"], [_cell(row[metric]) for metric in shown]) for row in each]
    return [HEADS.get(metric, metric.upper()) for metric in shown], lines


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def ms_text(latency_ms: float | None) -> str:
    """Write a time with the digits that it deserves; empty where it is not known.

    >>> ms_text(0.0612), ms_text(17.04), ms_text(None)
    ('0.06', '17.0', '')
    """
    if latency_ms is None:
        return ""
    return f"{latency_ms:.{2 if latency_ms < 10 else 1}f}"
