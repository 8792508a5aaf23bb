"""A decision of the gate: what ``promote`` returns, its closing table, ``promotion.md``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kd_mlflow.errors import RegistryError
from kd_mlflow.evaluation.checks import Check
from kd_mlflow.report.closing import (
    Page,
    Shown,
    html_table,
    html_text,
    next_steps,
    table_text,
    wrapped,
)
from kd_mlflow.report.words import markdown_table, safe

MARKS = {True: "ok", False: "NO", None: "--"}
"""How a check was answered, on a terminal; -- where it was not asked, or has no answer."""

ANSWERS = {True: "passed", False: "**failed**", None: "not checked"}


@dataclass(frozen=True, kw_only=True, repr=False)
class Decision(Shown):
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
        page: where that run is shown, None of a dry run
    """

    model_name: str
    version: str
    passed: bool
    promoted: bool
    reason: str
    checks: tuple[Check, ...]
    replaced: str | None
    note: str
    page: Page | None = None

    def refuse(self) -> None:
        """Raise RegistryError where the version was rejected."""
        if not self.passed:
            raise RegistryError(f"rejected, and strict is true: {self.reason}")

    def __repr__(self) -> str:
        """What came of it, why, and what the gate said."""
        uri = f"models:/{self.model_name}@production" if self.promoted else None
        links = next_steps(self.page, uri)
        return "\n".join([outcome_text(self), "", gate_text(self)]) + links

    def _repr_html_(self) -> str:
        return decision_html(self)


def outcome_text(decision: Decision) -> str:
    """What came of it and, of a rejection, why."""
    why = [] if decision.passed else wrapped(f"because {decision.reason}")
    return "\n".join([decision_line(decision), *why])


def decision_html(decision: Decision) -> str:
    """What came of it, why, and every check."""
    why = [] if decision.passed else [f"because {decision.reason}"]
    rows = [(check.name, [MARKS[check.passed], check.reason]) for check in decision.checks]
    return html_text(decision_line(decision), *why) + html_table(["gate", "because"], rows)


def decision_line(decision: Decision) -> str:
    """What came of a decision, in a line."""
    named = f"{decision.model_name} version {decision.version}"
    if not decision.passed:
        return f"REJECTED  {named} does not go into production"
    if not decision.promoted:
        before = f" in place of version {decision.replaced}" if decision.replaced else ""
        return f"PASSED, a dry run  {named} would go into production{before}"
    replaced = f", replacing version {decision.replaced}" if decision.replaced else ""
    return f"APPROVED  {named} is in production{replaced}"


def gate_text(decision: Decision) -> str:
    """Every check of a decision: a mark, what is checked, and the answer."""
    return table_text(
        [
            (
                f"{'' if i else 'gate':4}  {MARKS[check.passed]}  {check.name}",
                check.reason.removeprefix(f"{check.name} not checked: "),
            )
            for i, check in enumerate(decision.checks)
        ]
    )


def decision_page(decision: Decision, standing: str | None) -> str:
    """Every check of a decision, in Markdown: question, answer, sentence, threshold, numbers."""
    checks, said = decision.checks, "passed" if decision.passed else "rejected"
    about = f"version {standing} in production" if standing else "nothing in production"
    answers = [(e.name, e.question, ANSWERS[e.passed], safe(e.reason, 1000)) for e in checks]
    numbers = [(name, f"{value:.6g}") for name, value in _numbers(checks).items()]
    blocks = [
        f"# {safe(decision.model_name)}, version {decision.version}: {said}",
        f"The gate's answers, with {about}. Whether production was moved, the run's tag "
        "`kd.promotion` says.",
        markdown_table(["check", "asks", "answer", "because"], answers),
        markdown_table(["number", "value"], numbers),
    ]
    return "\n\n".join(blocks) + "\n"


def _numbers(checks: Sequence[Check]) -> dict[str, float]:
    """Thresholds of what was asked, and all numbers that were compared."""
    found: dict[str, float] = {}
    for check in checks:
        if check.passed is not None and check.threshold is not None:
            found[f"{check.name}, threshold"] = check.threshold
        found |= check.metrics
    return found
