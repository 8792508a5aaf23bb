"""What a check of the gate is: a question, its threshold, its answer; and the limits of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

CheckName: TypeAlias = Literal[
    "accuracy",
    "baseline",
    "compression",
    "reproduction",
    "task",
    "production",
    "max_ece",
    "max_latency_ms",
    "min_class_recall",
]

QUESTIONS: Mapping[CheckName, str] = {
    "accuracy": "Is it nearly as good as its ensemble?",
    "baseline": "Is no baseline, trained without teachers, measurably better?",
    "compression": "Is it so much smaller than its ensemble?",
    "reproduction": "Does the registered artifact, in a clean process, answer as was logged?",
    "task": "Does it predict what production predicts, from columns that callers send already?",
    "production": "Is it good enough beside production, on the same rows?",
    "max_ece": "Are its probabilities calibrated?",
    "max_latency_ms": "Does it answer one row in time?",
    "min_class_recall": "Does it find enough rows of every class?",
}
"""What each check asks."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question of the gate and its answer.

    Fields:
        name: what it is called
        passed: None where the question was not asked or has no answer: that stops nothing
        reason: the answer in a sentence
        threshold: the number that decides, None where none does
        metrics: the numbers that were compared
    """

    name: CheckName
    passed: bool | None
    reason: str
    threshold: float | None = None
    metrics: Mapping[str, float]

    @property
    def question(self) -> str:
        """What the check asks."""
        return QUESTIONS[self.name]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a candidate must reach: the thresholds of all checks, as the options of that name."""

    gate_metric: str
    max_accuracy_gap: float
    min_compression: float
    allow_worse_than_baseline: bool
    policy: str
    margin: float
    allow_schema_change: bool
    max_ece: float
    max_latency_ms: float
    min_class_recall: float


def unasked(name: CheckName, why: str) -> Check:
    """A question that was not asked, or has no answer."""
    return Check(name=name, passed=None, reason=f"{name} not checked: {why}", metrics={})


def failed(name: CheckName, reason: str) -> Check:
    """A question whose answer is no, without numbers."""
    return Check(name=name, passed=False, reason=reason, metrics={})
