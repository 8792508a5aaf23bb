"""What the report shows a reviewer, as the template takes it: cells, bars, what unfolds."""

from __future__ import annotations

from typing import Any

from kd_mlflow.distillation.evidence import Evidence
from kd_mlflow.distillation.footprint import Footprint
from kd_mlflow.distillation.review import MOST_ROWS
from kd_mlflow.report import review_words, words
from kd_mlflow.table.columns import left_out_text
from kd_mlflow.table.profile import CallerSchema

LISTED_CLASSES = 40
OPEN_IMPORTANCES = 10
OPEN_COLUMNS, LISTED_COLUMNS = 20, 200
"""Columns of the table of what to send that are seen at once, and those that unfold."""


def facts(evidence: Evidence, costs: Footprint | None) -> list[tuple[str, str]]:
    """What a reader wants to know at once, beside the figures; nothing of what is not known."""
    config, left_out = evidence.config, left_out_text(evidence.dataset.table.columns)
    return [
        *([("owner", words.one_line(config.owner, 200))] if config.owner else []),
        *([("licence", words.one_line(config.licence, 200))] if config.licence else []),
        ("decides", decides(evidence)),
        *([("left out", left_out.removeprefix("left out: "))] if left_out else []),
        *([("costs", review_words.footprint_text(costs))] if costs else []),
    ]


def decides(evidence: Evidence) -> str:
    """Which class the student predicts."""
    rule = str(evidence.config.decision_threshold)
    classes = evidence.dataset.table.classes
    return review_words.decision_text(evidence.encoding.threshold, classes, rule)


def classes(evidence: Evidence) -> dict[str, Any]:
    """Rows, recall and precision of each class, of student and ensemble."""
    scores = evidence.class_scores
    rows = [
        (
            each[0].name,
            each[0].rows,
            [review_words.share_parts(s) for one in each for s in (one.recall, one.precision)],
        )
        for each in zip(*scores.values(), strict=True)
    ]
    if len(rows) > LISTED_CLASSES:
        rows.sort(key=lambda row: -row[1])
    more = max(0, len(rows) - LISTED_CLASSES)
    return {"models": list(scores), "rows": rows[:LISTED_CLASSES], "more": more}


def weights(evidence: Evidence) -> dict[str, Any]:
    """What weights make of the recall of each class, of the most frequent ones."""
    rows = sorted(evidence.weights, key=lambda each: -each.rows)
    return {"rows": rows[:LISTED_CLASSES], "more": max(0, len(rows) - LISTED_CLASSES)}


def importances(evidence: Evidence) -> dict[str, Any]:
    """What shuffling each column costs each model, and how long its bar is."""
    found = evidence.importances
    models = list(found[0].rise) if found else []
    most = max((each.rise[who].value for each in found for who in models), default=0.0)
    rows = [
        (
            each.column,
            [
                (
                    review_words.bounded_loss(each.rise[who]),
                    max(0.0, 100 * each.rise[who].value / (most or 1.0)),
                )
                for who in models
            ],
        )
        for each in found
    ]
    columns = len(evidence.encoding.columns)
    return {
        "models": models,
        "rows": rows[:OPEN_IMPORTANCES],
        "folded": rows[OPEN_IMPORTANCES:],
        "left_out": columns - len(rows),
        "val_rows": min(MOST_ROWS, len(evidence.dataset.split.val)),
    }


def sent(schema: CallerSchema) -> dict[str, Any]:
    """What a caller must send: a line per column, the first ones of many unfolded."""
    rows = [
        (
            column.name,
            review_words.KINDS[column.kind],
            review_words.range_text(column),
            review_words.gaps_text(column),
            column.filled,
        )
        for column in schema.columns[:LISTED_COLUMNS]
    ]
    return {
        "rows": rows[:OPEN_COLUMNS],
        "folded": rows[OPEN_COLUMNS:],
        "more": max(0, len(schema.columns) - LISTED_COLUMNS),
    }
