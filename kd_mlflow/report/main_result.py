"""What ``main`` returns, and its closing table."""

from __future__ import annotations

from dataclasses import dataclass

from kd_mlflow.report.closing import Shown, next_steps, table_text, wrapped
from kd_mlflow.report.decision import Decision, decision_html, decision_line, gate_text
from kd_mlflow.report.distill_result import (
    DistillResult,
    answer_html,
    answer_text,
    distill_rows,
    imbalance_rows,
)
from kd_mlflow.report.leaderboard import other_metrics_text, worth_text
from kd_mlflow.report.teachers_result import TeachersResult, teachers_rows
from kd_mlflow.report.words import one_line

VERDICT_LENGTH = 2000
"""Characters of a verdict, which is a tag."""


@dataclass(frozen=True, kw_only=True, repr=False)
class MainResult(Shown):
    """What the three steps of ``main`` found.

    Fields:
        taught: the ensemble
        distill: the students
        decision: the promotion
    """

    taught: TeachersResult
    distill: DistillResult
    decision: Decision

    def refuse(self) -> None:
        """Raise RegistryError where the gate rejected the student."""
        self.decision.refuse()

    @property
    def verdict(self) -> str:
        """Approved or rejected, and why, in a sentence."""
        decision = self.decision
        why = "" if decision.passed else f"; because {decision.reason}"
        worth = worth_text(self.distill.comparison, self.distill.beside)
        return one_line(f"{decision_line(decision)}{why}; {worth}", VERDICT_LENGTH)

    def _repr_html_(self) -> str:
        """The decision, every check, every model beside each other."""
        return decision_html(self.decision) + answer_html(self.distill)

    def __repr__(self) -> str:
        """Everything that ``main`` found; the last lines are the answer."""
        details = table_text(
            imbalance_rows(self.distill) + teachers_rows(self.taught) + distill_rows(self.distill)
        )
        decision = self.decision
        why = [] if decision.passed else wrapped(f"because {decision.reason}")
        uri = f"models:/{self.distill.model_name}@production" if decision.promoted else None
        answer = [decision_line(decision), *why, answer_text(self.distill), "", gate_text(decision)]
        others = other_metrics_text(self.distill.comparison)
        links = next_steps(self.distill.page, uri).removeprefix("\n")  # the gate's column goes on
        return "\n".join([details, others, "", *answer]) + links
