"""What an evaluation found as phrases: for the closing table, the run's description, the page."""

from __future__ import annotations

from collections.abc import Sequence

from kd_mlflow.evaluation.drift import ColumnDrift
from kd_mlflow.evaluation.findings import Findings, Histogram
from kd_mlflow.evaluation.intervals import Interval
from kd_mlflow.evaluation.scores import ClassScores
from kd_mlflow.report.review_words import bounded_share
from kd_mlflow.report.words import both_gains_text, one_line, percent, safe, whole_blocks

NOTE_LENGTH = 8000
"""Characters of a description: MLflow stores it as a tag and cuts the rest."""

SHARES = ("accuracy", "balanced_accuracy")
"""Metrics that are written in percent."""

NAMED_COLUMNS = 5
LISTED_COLUMNS = 10

DRIFT_COLUMNS = [
    "PSI",
    "chance below",
    "gaps (training)",
    "unseen (training)",
    "out of range",
    "largest change",
]
CLASS_COLUMNS = ["rows", "recall, 95 %", "precision, 95 %"]


def metric_text(name: str, interval: Interval) -> str:
    """Write a metric with its interval, in percent where it is a share of right answers.

    >>> metric_text("accuracy", Interval(value=0.9, low=0.88, high=0.92))
    '90.00 % (95 % interval 88.00 to 92.00)'
    """
    if name in SHARES:
        return share_text(interval)
    return f"{interval.value:.4f} (95 % interval {interval.low:.4f} to {interval.high:.4f})"


def share_text(interval: Interval) -> str:
    """Write a share with its interval in percent."""
    low, high = 100 * interval.low, 100 * interval.high
    return f"{percent(interval.value)} (95 % interval {low:.2f} to {high:.2f})"


def estimate_text(findings: Findings) -> str:
    """Say which accuracy the confidence predicts, that it is an estimate, and on what it rests."""
    return (
        f"{share_text(findings.estimate)}; an estimate: the mean confidence, which holds if the "
        "model is calibrated on these rows"
    )


def estimate_error_text(findings: Findings) -> str:
    """Say how far the estimate is from what the labels say."""
    off = findings.estimate.value - findings.metrics["accuracy"].value
    return f"{100 * off:+.2f} points from the accuracy on the labels"


def shift_text(findings: Findings) -> str:
    """Say how many columns have shifted and name the most shifted first."""
    if not findings.profiled:
        return "not known: the model came without a profile of its training rows"
    shifted, columns = findings.shifted, len(findings.drift)
    if not shifted:
        return f"none of {columns}"
    names = ", ".join(one_line(column.name) for column in shifted[:NAMED_COLUMNS])
    more = len(shifted) - NAMED_COLUMNS
    return f"{len(shifted)} of {columns}: {names}{f' and {more:,} more' if more > 0 else ''}"


def drift_cells(column: ColumnDrift, histogram: Histogram | None) -> list[str]:
    """A column's cells below ``DRIFT_COLUMNS``; - for what is not known or does not apply."""
    move = "-"
    if column.move and column.shifted and histogram:
        name = one_line(histogram.names[column.move.place], 30)
        move = f"{name}: {_short(column.move.before)} to {_short(column.move.now)}"
    return [
        _number(column.psi),
        _number(column.chance),
        _beside(column.gaps, column.gaps_before),
        _beside(column.unseen, column.unseen_before),
        _beside(column.outside, None),
        move,
    ]


def class_cells(each: ClassScores) -> list[str]:
    """A class's cells below ``CLASS_COLUMNS``; - for what has no rows."""
    return [
        f"{each.rows:,}",
        *map(bounded_share, (each.recall, each.precision)),
    ]


def pair_text(findings: Findings) -> str:
    """Compare with the other model on the same rows; empty where there is none."""
    pair = findings.pair
    if pair is None:
        return ""
    same = f"both answer alike on {percent(pair.agreement)} of the rows"
    if pair.accuracy is None or pair.accuracy_gain is None or pair.loss_gain is None:
        return same
    gains = both_gains_text(pair.accuracy_gain, pair.loss_gain)
    return (
        f"{percent(pair.accuracy)}; gain over it {gains}; {same}; McNemar's p {pair.mcnemar_p:.3g}"
    )


def labels_text(findings: Findings) -> str:
    """Say how many rows have labels, and how many of those are of classes not known."""
    if not findings.labelled_rows:
        return "no labels"
    text = "all have a label"
    if findings.labelled_rows < findings.rows:
        text = f"{findings.labelled_rows:,} have a label"
    if findings.unknown_labels:
        text += (
            f"; {findings.unknown_labels:,} of them are of no class that the model knows: wrong "
            "answers in accuracy and ECE, left out elsewhere"
        )
    return text


def limit_text(kept: bool, reason: str) -> str:
    """Say whether a limit is kept, and why."""
    return f"{'kept' if kept else 'not kept'}: {reason}"


def listed_columns(findings: Findings) -> Sequence[ColumnDrift]:
    """Columns that a short list shows: the most shifted ones."""
    return findings.drift[:LISTED_COLUMNS]


def evaluation_note(findings: Findings) -> str:
    """Describe an evaluation's run, in Markdown."""
    broken = [limit for limit in findings.limits if not limit.passed]
    blocks = [
        *(f"**{limit.name} is not kept:** {safe(limit.reason, 600)}." for limit in broken),
        f"**{safe(findings.model)}** on **{safe(findings.table)}**, {findings.rows:,} rows; "
        f"{labels_text(findings)}.",
        f"Shifted columns: {safe(shift_text(findings), 400)}.",
        *([_metrics_table(findings)] if findings.metrics else []),
        f"Estimated accuracy: {estimate_text(findings)}.",
        *(f"{safe(note, 600)}." for note in findings.notes),
    ]
    if findings.pair and findings.against:
        blocks.append(f"Against {safe(findings.against)}: {pair_text(findings)}.")
    return whole_blocks(blocks, NOTE_LENGTH)


def _metrics_table(findings: Findings) -> str:
    lines = [
        f"| {name.replace('_', ' ')} | {metric_text(name, interval)} |"
        for name, interval in findings.metrics.items()
    ]
    return "\n".join(["| metric | value |", "|---|---|", *lines])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _short(share: float) -> str:
    return f"{100 * share:.1f} %"


def _beside(now: float | None, before: float | None) -> str:
    """A share, and in brackets the training rows' where it is another."""
    if now is None:
        return "-"
    if before is None or _short(before) == _short(now):
        return _short(now)
    return f"{_short(now)} ({_short(before)})"
