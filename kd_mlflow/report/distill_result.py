"""What a distillation returns, and its closing table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kd_mlflow.distillation.menu import Trial
from kd_mlflow.evaluation.comparison import Comparison
from kd_mlflow.evaluation.scores import Metrics
from kd_mlflow.report.closing import Page, Row, Shown, html_text, next_steps, table_text, wrapped
from kd_mlflow.report.leaderboard import (
    leaderboard_html,
    leaderboard_text,
    other_metrics_text,
    worth_text,
)
from kd_mlflow.report.words import (
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
class DistillResult(Shown):
    """A comparison, and the version that its registered student became.

    Fields:
        run_id: the run of the comparison
        taught_by: the teachers in words
        teachers_run_id: the run of the ensemble, None where other models teach
        comparison: students, baselines and ensemble on the test rows
        model_name: the registered model
        version: the number of its new version
        test_rows: how many rows were compared on
        trials: the students that were tried before, the kept one last
        note: the description of the run
        page: where its run is shown
        together: how the table is split by its own columns, as rows of the closing table
        beside: what the comparison has not, by its metrics' names: the majority class, times, sizes
        never: which classes the registered student never predicts, empty where there is none
    """

    run_id: str
    taught_by: str
    teachers_run_id: str | None
    comparison: Comparison
    model_name: str
    version: str
    test_rows: int
    trials: Sequence[Trial] = ()
    note: str = ""
    page: Page | None = None
    together: Sequence[tuple[str, str]] = ()
    beside: Metrics = field(default_factory=dict)
    never: str = ""

    def __repr__(self) -> str:
        """The comparison in detail, then what was registered, what it is worth beside what."""
        runs = [("distill run", self.run_id), ("teachers", self.taught_by)]
        details = imbalance_rows(self) + distill_rows(self) + runs
        whole = [table_text(details), other_metrics_text(self.comparison), "", _title(self)]
        return "\n".join([*whole, answer_text(self)]) + next_steps(
            self.page, f"models:/{self.model_name}@candidate"
        )

    def _repr_html_(self) -> str:
        """What was registered, what it is worth, every model beside each other."""
        return html_text(_title(self)) + answer_html(self)


def _title(result: DistillResult) -> str:
    return f"REGISTERED  {result.model_name} version {result.version} waits for promotion"


def answer_html(result: DistillResult) -> str:
    """What ``answer_text`` says, as HTML."""
    worth = worth_text(result.comparison, result.beside)
    warnings = filter(None, [warning_text(result.comparison), result.never])
    said = html_text(f"{result.test_rows:,} test rows", worth, *(f"warning: {w}" for w in warnings))
    return said + leaderboard_html(result.comparison, result.beside)


def answer_text(result: DistillResult) -> str:
    """What the students are worth: a sentence, and every model beside each other."""
    comparison, warning = result.comparison, warning_text(result.comparison)
    seeds = len(comparison.students["distilled"])
    means = f"; means of {seeds} seeds ± standard error" if seeds > 1 else ""
    head = f"{result.test_rows:,} test rows{means}"
    worth = wrapped(worth_text(comparison, result.beside))
    warned = [
        line for text in (warning, result.never) if text for line in wrapped(f"warning: {text}")
    ]
    table = leaderboard_text(comparison, result.beside)
    return "\n".join([*worth, *warned, "", head, table])


def distill_rows(result: DistillResult) -> list[Row]:
    """What the students gain, and what else there is to know beside the table of models."""
    metrics, comparison = result.comparison.summary, result.comparison
    gains = [
        (f"gain over {kind_text(kind)}", both_gains_text(gain, comparison.loss_gains[kind]))
        for kind, gain in comparison.gains.items()
    ]
    if comparison.over_boosting:
        gains.append(("gain over boosted trees", both_gains_text(*comparison.over_boosting)))
    return [
        *result.together,
        *([("decided", decided)] if (decided := threshold_text(comparison)) else []),
        *gains,
        ("beside the ensemble", both_gaps_text(comparison.gap, comparison.loss_gap)),
        ("knowledge recovered", recovered_text(comparison)),
        ("registered, McNemar's p", p_values(comparison)),
        ("agreement", percent(metrics["test_agreement"])),
        *([("student chosen", trial_text(result.trials[-1]))] if result.trials else []),
        ("student parameters", f"{metrics['student_parameters']:,.0f}"),
        ("compression ratio", _compression_text(metrics, result.beside)),
        (
            "registered",
            f"{result.model_name} version {result.version}, "
            f"{percent(metrics['registered_test_accuracy'])}",
        ),
    ]


def _compression_text(metrics: Metrics, beside: Metrics) -> str:
    ratio = metrics.get("compression_ratio")
    numbers = (
        "unknown: the teachers' parameters cannot be counted" if ratio is None else f"{ratio:.1f}x"
    )
    if "registered_latency_ms" not in beside:
        return numbers
    one = beside["ensemble_latency_ms"] / beside["registered_latency_ms"]
    many = beside["registered_rows_per_s"] / beside["ensemble_rows_per_s"]
    return f"{numbers}; one row {one:.1f}, many {many:.1f} times faster"


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
