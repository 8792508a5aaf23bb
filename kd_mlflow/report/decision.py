"""A decision of the gate as a page, ``promotion.md``; and who was in production, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from kd_mlflow.evaluation.checks import Check
from kd_mlflow.evaluation.gate import verdict
from kd_mlflow.report.words import safe

ANSWERS = {True: "passed", False: "**failed**", None: "not checked"}


def decision_page(
    model_name: str, version: str, standing: str | None, checks: Sequence[Check]
) -> str:
    """Every check of a decision, in Markdown: question, answer, sentence, threshold, numbers."""
    passed, _ = verdict(checks)
    about = f"version {standing} in production" if standing else "nothing in production"
    lines = [
        f"# {safe(model_name)}, version {version}: {'passed' if passed else 'rejected'}",
        "",
        f"The gate's answers, with {about}. Whether production was moved, the run's tag "
        "`kd.promotion` says.",
        "",
        "| check | asks | answer | because |",
        "|---|---|---|---|",
        *(
            f"| {check.name} | {check.question} | {ANSWERS[check.passed]} "
            f"| {safe(check.reason, 1000)} |"
            for check in checks
        ),
        "",
        "| number | value |",
        "|---|---|",
        *(f"| {name} | {value:.6g} |" for name, value in _numbers(checks).items()),
    ]
    return "\n".join(lines) + "\n"


def _numbers(checks: Sequence[Check]) -> dict[str, float]:
    """Thresholds of what was asked, and all numbers that were compared."""
    found: dict[str, float] = {}
    for check in checks:
        if check.passed is not None and check.threshold is not None:
            found[f"{check.name}, threshold"] = check.threshold
        found |= check.metrics
    return found
