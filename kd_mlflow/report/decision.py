"""A decision of the gate: what ``promote`` returns, its closing table, ``promotion.md``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kd_mlflow.errors import RegistryError
from kd_mlflow.evaluation.checks import Check
from kd_mlflow.report import closing
from kd_mlflow.report.closing import Page, Shown
from kd_mlflow.report.markdown import markdown_table, safe

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
        return f"{self.outcome_text()}\n\n{self.gate_text()}" + closing.next_steps(self.page, uri)

    def html(self) -> str:
        """What came of it, why, and every check."""
        why = [] if self.passed else [f"because {self.reason}"]
        rows = [(check.name, [MARKS[check.passed], check.reason]) for check in self.checks]
        table = closing.html_table((["gate", "because"], rows))
        return closing.html_text(self.line(), *why) + table

    def line(self) -> str:
        """What came of it, in a line."""
        named = f"{self.model_name} version {self.version}"
        if not self.passed:
            return f"REJECTED  {named} does not go into production"
        if not self.promoted:
            before = f" in place of version {self.replaced}" if self.replaced else ""
            return f"PASSED, a dry run  {named} would go into production{before}"
        replaced = f", replacing version {self.replaced}" if self.replaced else ""
        return f"APPROVED  {named} is in production{replaced}"

    def outcome_text(self) -> str:
        """What came of it and, of a rejection, why."""
        why = [] if self.passed else closing.wrapped(f"because {self.reason}")
        return "\n".join([self.line(), *why])

    def gate_text(self) -> str:
        """Every check: a mark, what is checked, and the answer."""
        rows = [
            (
                f"{'' if i else 'gate':4}  {MARKS[check.passed]}  {check.name}",
                check.reason.removeprefix(f"{check.name} not checked: "),
            )
            for i, check in enumerate(self.checks)
        ]
        return closing.table_text(rows)


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
