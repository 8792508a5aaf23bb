"""What a distillation returns, and its closing table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kd_mlflow.distillation.menu import Trial
from kd_mlflow.evaluation.comparison import Comparison
from kd_mlflow.evaluation.scores import Metrics
from kd_mlflow.report.closing import Row, next_steps, table_text
from kd_mlflow.report.words import (
    accuracy_with_error,
    both_gains_text,
    both_gaps_text,
    kind_text,
    majority_text,
    one_line,
    p_values,
    percent,
    rarest_classes,
    recall_text,
    recovered_text,
    threshold_text,
    trial_text,
    warning_text,
)

RAREST_CLASSES = 10
"""Classes whose recall stands in the closing table of an imbalanced table."""


@dataclass(frozen=True, kw_only=True, repr=False)
class DistillResult:
    """A comparison, and the version that its registered student became.

    Fields:
        run_id: the run of the comparison
        taught_by: the teachers in words
        teachers_run_id: the run of the ensemble, None where other models teach
        comparison: students, baselines and ensemble on the test rows
        model_name: the registered model
        version: the number of its new version
        test_rows: how many rows were compared on
        faster: how many times longer one row takes the ensemble
        trials: the students that were tried before, the kept one last
        note: the description of the run
        page: the run's address on the tracking server, None where there is no server
        together: how the table is split by its own columns, as rows of the closing table
    """

    run_id: str
    taught_by: str
    teachers_run_id: str | None
    comparison: Comparison
    model_name: str
    version: str
    test_rows: int
    faster: float
    trials: Sequence[Trial] = ()
    note: str = ""
    page: str | None = None
    together: Sequence[tuple[str, str]] = ()

    def __repr__(self) -> str:
        """The comparison and the registered version."""
        runs = [("distill run", self.run_id), ("teachers", self.taught_by)]
        rows = warning_rows(self) + imbalance_rows(self) + distill_rows(self) + runs
        return table_text(rows) + next_steps(self.page, f"models:/{self.model_name}@candidate")


def distill_rows(result: DistillResult) -> list[Row]:
    """What the students are worth beside their ensemble, their baselines and boosted trees."""
    metrics, comparison = result.comparison.summary, result.comparison
    seeds = len(comparison.students["distilled"])
    baselines = [
        (
            f"{kind_text(kind)} students",
            accuracy_with_error(metrics, f"{kind}_test_accuracy"),
        )
        for kind in comparison.gains
    ]
    gains = [
        (f"gain over {kind_text(kind)}", both_gains_text(gain, comparison.loss_gains[kind]))
        for kind, gain in comparison.gains.items()
    ]
    boosting = [("boosted trees alone", percent(metrics["boosting_test_accuracy"]))]
    if comparison.over_boosting:
        gains.append(("gain over boosted trees", both_gains_text(*comparison.over_boosting)))
    return [
        ("", f"test accuracy on {result.test_rows:,} rows, {seeds} seeds, ± standard error"),
        *result.together,
        *([("decided", decided)] if (decided := threshold_text(comparison)) else []),
        ("ensemble", percent(metrics["ensemble_test_accuracy"])),
        ("distilled students", accuracy_with_error(metrics, "distilled_test_accuracy")),
        *baselines,
        *(boosting if comparison.over_boosting else []),
        *gains,
        ("gap to the ensemble", both_gaps_text(comparison.gap, comparison.loss_gap)),
        ("knowledge recovered", recovered_text(comparison)),
        *_beside_accuracy(comparison),
        ("registered, McNemar's p", p_values(comparison)),
        ("agreement", percent(metrics["test_agreement"])),
        *([("student chosen", trial_text(result.trials[-1]))] if result.trials else []),
        ("student parameters", f"{metrics['student_parameters']:,.0f}"),
        ("compression ratio", _compression_text(metrics, result.faster)),
        (
            "registered",
            f"{result.model_name} version {result.version}, "
            f"{percent(metrics['registered_test_accuracy'])}",
        ),
    ]


def warning_rows(result: DistillResult) -> list[Row]:
    """What must be read before anything else: that a baseline is better, or all answers alike."""
    warning = warning_text(result.comparison)
    return [("warning", warning)] if warning else []


def _compression_text(metrics: Metrics, faster: float) -> str:
    ratio = metrics.get("compression_ratio")
    numbers = (
        "unknown: the teachers' parameters cannot be counted" if ratio is None else f"{ratio:.1f}x"
    )
    return f"{numbers}; one row {faster:.1f} times faster"


def imbalance_rows(result: DistillResult) -> list[Row]:
    """Balanced accuracy and the rarest classes' recall; nothing of a table without a majority."""
    comparison = result.comparison
    if not comparison.imbalanced:
        return []
    names, rows = list(comparison.class_rows), list(comparison.class_rows.values())
    places, metrics = rarest_classes(comparison), comparison.summary
    balanced = [
        (kind_text(who), percent(metrics[f"{who}_test_balanced_accuracy"]))
        for who in comparison.recalls
    ]
    recalls = [
        (
            f"{one_line(names[place], 30)}, {rows[place]:,} rows",
            " / ".join(recall_text(recalls[place]) for recalls in comparison.recalls.values()),
        )
        for place in places[:RAREST_CLASSES]
    ]
    more = len(places) - RAREST_CLASSES
    return [
        ("", f"balanced accuracy on test rows: {majority_text(comparison)}"),
        *balanced,
        ("", f"recall by class: {' / '.join(map(kind_text, comparison.recalls))}"),
        *recalls,
        *([("", f"and {more:,} more, in class_recall.json")] if more > 0 else []),
    ]


def _beside_accuracy(comparison: Comparison) -> list[Row]:
    """Metrics that class imbalance cannot flatter, of ensemble and students."""
    boosting = ["boosting"] if comparison.over_boosting else []
    metrics, models = comparison.summary, ("ensemble", *comparison.students, *boosting)
    names = ["balanced_accuracy", "roc_auc", "average_precision", "log_loss", "ece"]
    if comparison.imbalanced:
        names.remove("balanced_accuracy")  # stands above
    return [
        (
            name.replace("_", " "),
            " / ".join(f"{metrics[f'{who}_test_{name}']:.4f}" for who in models)
            + f"  ({' / '.join(models).replace('_', ' ')})",
        )
        for name in names
        if f"ensemble_test_{name}" in metrics
    ]
