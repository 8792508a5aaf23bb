"""What a check of the gate is: a question, its threshold, its answer; and the limits of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question of the gate and its answer.

    Fields:
        name: what it is called
        passed: None where the question was not asked or has no answer: that stops nothing
        reason: the answer in a sentence
        threshold: the number that decides, None where none does
        metrics: the numbers that were compared
        question: what the check asks; the gate fills it in
    """

    name: str
    passed: bool | None
    reason: str
    threshold: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    question: str = ""


@dataclass(frozen=True, kw_only=True)
class GateLimits:
    """What a candidate must reach: the thresholds of all checks, as the options of that name."""

    gate_metric: str
    max_accuracy_gap: float
    max_log_loss_gap: float
    min_compression: float
    allow_worse_than_baseline: bool
    policy: str
    margin: float
    allow_schema_change: bool
    max_ece: float
    max_latency_ms: float
    min_class_recall: float


def unasked(name: str, why: str) -> Check:
    """A question that was not asked, or has no answer."""
    return Check(name=name, passed=None, reason=f"{name} not checked: {why}")


def failed(name: str, reason: str) -> Check:
    """A question whose answer is no, without numbers."""
    return Check(name=name, passed=False, reason=reason)
