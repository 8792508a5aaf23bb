"""What an evaluation returns, and its closing table."""

from __future__ import annotations

from dataclasses import dataclass

from kd_mlflow.errors import EvaluationError
from kd_mlflow.evaluation.findings import Findings
from kd_mlflow.report.closing import Page, Row, Shown, aligned, next_steps, table_text
from kd_mlflow.report.evaluation_words import (
    CLASS_COLUMNS,
    DRIFT_COLUMNS,
    LISTED_COLUMNS,
    class_cells,
    drift_cells,
    estimate_error_text,
    estimate_text,
    labels_text,
    limit_text,
    listed_columns,
    metric_text,
    pair_text,
    shift_text,
)
from kd_mlflow.report.words import one_line

LISTED_CLASSES = 10
NAME_LENGTH = 40


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
        pickles = [("loaded from pickles", "; ".join(self.pickles))] if self.pickles else []
        rows = [
            ("model", one_line(findings.model, 120)),
            ("table", table),
            *pickles,
            *(("note", note) for note in findings.notes),
            ("shifted columns", shift_text(findings)),
            *_drift_rows(findings),
            *_metric_rows(findings),
            *_pair_rows(findings),
            *(
                (limit.name, limit_text(bool(limit.passed), limit.reason))
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
        for column in listed_columns(findings)
    }
    more = len(findings.drift) - LISTED_COLUMNS
    left_out = [("", f"and {more:,} more columns, in drift.json")] if more > 0 else []
    return [*aligned([("", DRIFT_COLUMNS), *cells.items()]), *left_out]


def _metric_rows(findings: Findings) -> list[Row]:
    estimate = ("estimated accuracy", estimate_text(findings))
    if not findings.metrics:
        return [estimate]
    metrics = [
        (name.replace("_", " "), metric_text(name, interval))
        for name, interval in findings.metrics.items()
    ]
    rarest = sorted(findings.classes, key=lambda each: each.rows)[:LISTED_CLASSES]
    classes = {f"class {one_line(each.name, NAME_LENGTH)}": class_cells(each) for each in rarest}
    more = len(findings.classes) - len(rarest)
    return [
        *metrics,
        estimate,
        ("the estimate is", estimate_error_text(findings)),
        *aligned([("", CLASS_COLUMNS), *classes.items()]),
        *([("", f"and {more:,} more classes, in evaluation.json")] if more > 0 else []),
    ]


def _pair_rows(findings: Findings) -> list[Row]:
    if findings.against is None or findings.pair is None:
        return []
    return [("against", f"{one_line(findings.against, 120)}: {pair_text(findings)}")]
