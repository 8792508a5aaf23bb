"""A decision of the gate: what ``promote`` returns, its closing table, ``promotion.md``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kd_mlflow.errors import RegistryError
from kd_mlflow.evaluation.checks import Check
from kd_mlflow.evaluation.gate import verdict
from kd_mlflow.report.closing import Row, table_text
from kd_mlflow.report.words import safe

ANSWERS = {True: "passed", False: "**failed**", None: "not checked"}


@dataclass(frozen=True, kw_only=True, repr=False)
class Decision:
    """What the gate said of a version, and what came of it.

    Fields:
        model_name: the registered model
        version: the number of the version
        passed: the gate's verdict
        promoted: whether production was moved, which a dry run does not
        reason: why it passed, or which checks failed
        checks: every check with its answer
        replaced: the version in whose place it came or would come, None where there was none
        note: the description of the promotion's run
    """

    model_name: str
    version: str
    passed: bool
    promoted: bool
    reason: str
    checks: tuple[Check, ...]
    replaced: str | None
    note: str

    def refuse(self) -> None:
        """Raise RegistryError where the version was rejected."""
        if not self.passed:
            raise RegistryError(f"rejected, and strict is true: {self.reason}")

    def __repr__(self) -> str:
        """What the gate said."""
        rows = [(f"gate: {check.name}", _check_text(check)) for check in self.checks]
        return table_text(rows + decision_rows(self))


def _check_text(check: Check) -> str:
    verdict = {True: "passed: ", False: "failed: ", None: ""}[check.passed]
    return verdict + check.reason


def decision_rows(decision: Decision) -> list[Row]:
    """Whether production was moved, and why."""
    if not decision.passed:
        return [("promoted", f"no: {decision.reason}")]
    if not decision.promoted:
        before = f" in place of version {decision.replaced}" if decision.replaced else ""
        return [("promoted", f"no, a dry run; version {decision.version} would be{before}")]
    replaced = f", replacing version {decision.replaced}" if decision.replaced else ""
    return [("promoted", f"yes, version {decision.version}{replaced}: {decision.reason}")]


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
