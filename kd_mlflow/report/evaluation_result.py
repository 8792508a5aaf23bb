"""What an evaluation returns, what it found as phrases, its closing table and description."""

from __future__ import annotations

from dataclasses import dataclass

from kd_mlflow.errors import EvaluationError
from kd_mlflow.evaluation.drift import ColumnDrift
from kd_mlflow.evaluation.findings import Findings, Histogram
from kd_mlflow.evaluation.intervals import Interval
from kd_mlflow.report import words
from kd_mlflow.report.closing import Page, Row, Shown, aligned, next_steps, table_text
from kd_mlflow.report.markdown import markdown_table, one_line, percent, safe, whole_blocks
from kd_mlflow.report.notes import NOTE_LENGTH
from kd_mlflow.report.review import bounded_loss, bounded_share, class_cells

SHARES = ("accuracy", "balanced_accuracy")
"""Metrics that are written in percent."""

NAMED_COLUMNS = 5
LISTED_COLUMNS = LISTED_CLASSES = 10
NAME_LENGTH = 40

DRIFT_COLUMNS = [
    *("PSI", "chance below", "gaps (training)", "unseen (training)"),
    *("out of range", "largest change"),
]
CLASS_COLUMNS = ["rows", "recall, 95 %", "precision, 95 %"]


def metric_text(name: str, interval: Interval) -> str:
    """Write a metric with its interval, in percent where it is a share of right answers.

    >>> metric_text("accuracy", Interval(value=0.9, low=0.88, high=0.92))
    '90.00 % (95 % interval 88.00 to 92.00)'
    """
    write = bounded_share if name in SHARES else bounded_loss
    return write(interval, "95 % interval ")


def estimate_text(findings: Findings) -> str:
    """Say which accuracy the confidence predicts, that it is an estimate, and on what it rests."""
    return (
        f"{metric_text('accuracy', findings.estimate)}; an estimate: the mean confidence, which "
        "holds if the model is calibrated on these rows"
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
        move = f"{name}: {short(column.move.before)} to {short(column.move.now)}"
    return [
        _number(column.psi),
        _number(column.chance),
        _beside(column.gaps, column.gaps_before),
        _beside(column.unseen, column.unseen_before),
        _beside(column.outside, None),
        move,
    ]


def pair_text(findings: Findings) -> str:
    """Compare with the other model on the same rows; empty where there is none."""
    pair = findings.pair
    if pair is None:
        return ""
    same = f"both answer alike on {percent(pair.agreement)} of the rows"
    if pair.accuracy is None or pair.accuracy_gain is None or pair.loss_gain is None:
        return same
    gains = words.both_gains_text(pair.accuracy_gain, pair.loss_gain)
    balanced = f", balanced {percent(pair.balanced_accuracy)}" if pair.balanced_accuracy else ""
    gained = f"{percent(pair.accuracy)}{balanced}; gain over it {gains}"
    return f"{gained}; {same}; McNemar's p {pair.mcnemar_p:.3g}"


def labels_text(findings: Findings) -> str:
    """Say how many rows have labels, and how many of those are of classes not known."""
    if not findings.labelled_rows:
        return "no labels"
    some = findings.labelled_rows < findings.rows
    text = f"{findings.labelled_rows:,} have a label" if some else "all have a label"
    if findings.unknown_labels:
        text += (
            f"; {findings.unknown_labels:,} of them are of no class that the model knows: wrong "
            "answers in accuracy and ECE, left out elsewhere"
        )
    return text


def evaluation_note(findings: Findings) -> str:
    """Describe an evaluation's run, in Markdown."""
    broken = [limit for limit in findings.limits if not limit.passed]
    metrics = _metrics(findings)
    blocks = [
        *(f"**{limit.name} is not kept:** {safe(limit.reason, 600)}." for limit in broken),
        f"**{safe(findings.model)}** on **{safe(findings.table)}**, "
        f"{findings.rows:,} rows; {labels_text(findings)}.",
        f"Shifted columns: {safe(shift_text(findings), 400)}.",
        markdown_table(["metric", "value"], metrics) if metrics else "",
        f"Estimated accuracy: {estimate_text(findings)}.",
        *(f"{safe(note, 600)}." for note in findings.notes),
    ]
    if findings.pair and findings.against:
        blocks.append(f"Against {safe(findings.against)}: {pair_text(findings)}.")
    return whole_blocks(blocks, NOTE_LENGTH)


def _metrics(findings: Findings) -> list[Row]:
    return [
        (name.replace("_", " "), metric_text(name, found))
        for name, found in findings.metrics.items()
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def short(share: float) -> str:
    """Write a share with one decimal."""
    return f"{100 * share:.1f} %"


def _beside(now: float | None, before: float | None) -> str:
    """A share, and in brackets the training rows' where it is another."""
    if now is None:
        return "-"
    if before is None or short(before) == short(now):
        return short(now)
    return f"{short(now)} ({short(before)})"


@dataclass(frozen=True, kw_only=True, repr=False)
class EvaluationResult(Shown):
    """What an evaluation found.

    Fields:
        run_id: its run
        model: the address of what was scored, an alias resolved to its version
        findings: what was found
        pickles: files of the models that are pickles
        page: where its run is shown
    """

    run_id: str
    model: str
    findings: Findings
    pickles: tuple[str, ...] = ()
    page: Page | None = None

    @property
    def kept(self) -> bool:
        """Whether every limit that was set is kept."""
        return self.findings.kept

    def refuse(self) -> None:
        """Raise EvaluationError where a limit that was set is not kept."""
        broken = [limit for limit in self.findings.limits if not limit.passed]
        if broken:
            reasons = "; ".join(f"{limit.name} is not kept: {limit.reason}" for limit in broken)
            raise EvaluationError(f"{reasons} (strict is true)")

    def __repr__(self) -> str:
        """What was found, the most shifted columns first, and where to look at it."""
        findings = self.findings
        table = f"{one_line(findings.table)}, {findings.rows:,} rows; {labels_text(findings)}"
        against = f"{one_line(findings.against or '', 120)}: {pair_text(findings)}"
        rows = [
            ("model", one_line(findings.model, 120)),
            ("table", table),
            ("loaded from pickles", "; ".join(self.pickles)),
            *(("note", note) for note in findings.notes),
            ("shifted columns", shift_text(findings)),
            *_drift_rows(findings),
            *_metric_rows(findings),
            ("against", against if findings.pair else ""),
            *(
                (limit.name, f"{'kept' if limit.passed else 'not kept'}: {limit.reason}")
                for limit in findings.limits
            ),
            ("evaluation run", self.run_id),
        ]
        return table_text(rows) + next_steps(self.page)


def _drift_rows(findings: Findings) -> list[Row]:
    cells = {
        one_line(column.name, NAME_LENGTH): drift_cells(
            column, findings.histograms.get(column.name)
        )
        for column in findings.drift[:LISTED_COLUMNS]
    }
    more = len(findings.drift) - LISTED_COLUMNS
    left_out = f"and {more:,} more columns, in drift.json" if more > 0 else ""
    return [*aligned([("", DRIFT_COLUMNS), *cells.items()]), ("", left_out)]


def _metric_rows(findings: Findings) -> list[Row]:
    estimate = ("estimated accuracy", estimate_text(findings))
    if not findings.metrics:
        return [estimate]
    rarest = sorted(findings.classes, key=lambda each: each.rows)[:LISTED_CLASSES]
    classes = {f"class {one_line(each.name, NAME_LENGTH)}": class_cells(each) for each in rarest}
    more = len(findings.classes) - len(rarest)
    return [
        *_metrics(findings),
        estimate,
        ("the estimate is", estimate_error_text(findings)),
        *aligned([("", CLASS_COLUMNS), *classes.items()]),
        ("", f"and {more:,} more classes, in evaluation.json" if more > 0 else ""),
    ]
