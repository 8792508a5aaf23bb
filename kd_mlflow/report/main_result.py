"""What ``main`` returns, and its closing table."""

from __future__ import annotations

from dataclasses import dataclass

from kd_mlflow.report.closing import next_steps, table_text
from kd_mlflow.report.decision import Decision, decision_rows
from kd_mlflow.report.distill_result import (
    DistillResult,
    distill_rows,
    imbalance_rows,
    warning_rows,
)
from kd_mlflow.report.teachers_result import TeachersResult, teachers_rows


@dataclass(frozen=True, kw_only=True, repr=False)
class MainResult:
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

    def __repr__(self) -> str:
        """Everything that ``main`` found, and what to do next."""
        return table_text(
            warning_rows(self.distill)
            + imbalance_rows(self.distill)
            + teachers_rows(self.taught)
            + distill_rows(self.distill)
            + decision_rows(self.decision)
        ) + next_steps(
            self.distill.page,
            f"models:/{self.distill.model_name}@production" if self.decision.promoted else None,
        )
