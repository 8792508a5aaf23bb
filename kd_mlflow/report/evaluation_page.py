"""The page of an evaluation: one self-contained file in the style of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_mlflow.evaluation.drift import LARGE, MODERATE
from kd_mlflow.evaluation.findings import Findings, predicted_shares
from kd_mlflow.figures.style import Picture
from kd_mlflow.report import evaluation_result, words
from kd_mlflow.report.page import METRIC_ROWS, environment

LISTED_COLUMNS = 60
LISTED_CLASSES = 40


def evaluation_page(findings: Findings, pictures: Mapping[str, Picture], *, uri: str) -> str:
    """Write the page as HTML that needs no network and no script.

    ``pictures``: by the names that ``figures.drift.draw`` gives them; ``uri`` is the
    address of the model.
    """
    template = environment().get_template("evaluation.html")
    return template.render(
        words=words,
        says=evaluation_result,
        found=findings,
        uri=uri,
        metrics=findings.logged(),
        metric_rows={name: METRIC_ROWS[name] for name in findings.metrics},
        levels=(MODERATE, LARGE),
        drift=_drift(findings),
        classes=_classes(findings),
        pictures=pictures,
    )


def _drift(findings: Findings) -> dict[str, Any]:
    """Cells of each column, the most shifted first."""
    shown, histograms = findings.drift[:LISTED_COLUMNS], findings.histograms
    cells = [evaluation_result.drift_cells(each, histograms.get(each.name)) for each in shown]
    return {
        "heads": evaluation_result.DRIFT_COLUMNS,
        "rows": [(each.name, each.shifted, own) for each, own in zip(shown, cells, strict=True)],
        "more": len(findings.drift) - len(shown),
    }


def _classes(findings: Findings) -> dict[str, Any]:
    """Each class: its share in training and among the predictions, recall and precision."""
    predicted = predicted_shares(findings.scores)
    trained = findings.class_shares or (None,) * len(predicted)
    rows = [
        (
            each.name,
            "-" if before is None else f"{100 * before:.1f} %",
            f"{100 * now:.1f} %",
            evaluation_result.class_cells(each) if findings.metrics else [],
        )
        for each, before, now in zip(findings.classes, trained, predicted, strict=True)
    ]
    heads = evaluation_result.CLASS_COLUMNS if findings.metrics else []
    more = max(0, len(rows) - LISTED_CLASSES)
    return {"heads": heads, "rows": rows[:LISTED_CLASSES], "more": more}
