"""What a candidate must pass before it goes into production: asks, moves nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kd_mlflow.errors import Unavailable
from kd_mlflow.evaluation.challenge import Challenge, Task, production_check, task_check
from kd_mlflow.evaluation.checks import (
    Answer,
    Check,
    accuracy_check,
    baseline_check,
    calibration_check,
    compression_check,
    latency_check,
    recall_check,
    reproduction_check,
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the checks hold a candidate to; 0 switches the last three off."""

    gate_metric: str = "accuracy"
    max_accuracy_gap: float = 0.02
    min_compression: float = 10.0
    allow_worse_than_baseline: bool = False
    policy: str = "non_inferior"
    margin: float = 0.005
    allow_schema_change: bool = False
    max_ece: float = 0.0
    max_latency_ms: float = 0.0
    min_class_recall: float = 0.0


@dataclass(frozen=True, kw_only=True)
class InProduction:
    """What is known of the version in production; None in both where there is none."""

    task: Task | Unavailable | None = None
    challenge: Challenge | Unavailable | None = None


def gate(
    metrics: Mapping[str, float],
    answer: Answer | Unavailable,
    *,
    limits: Limits,
    task: Task | Unavailable,
    production: InProduction = InProduction(),
) -> tuple[Check, ...]:
    """Ask every check of a distill run's metrics and of what its version answers.

    Raises RegistryError where the run does not have the metric that is to be compared.
    """
    optional = (
        (limits.max_ece, calibration_check),
        (limits.max_latency_ms, latency_check),
        (limits.min_class_recall, recall_check),
    )
    return (
        accuracy_check(metrics, limits.gate_metric, limits.max_accuracy_gap),
        baseline_check(metrics, limits.allow_worse_than_baseline),
        compression_check(metrics, limits.min_compression),
        reproduction_check(metrics, answer),
        Check(name="task", passed=None, reason=f"task not checked: {task.reason}")
        if isinstance(task, Unavailable)
        else task_check(task, production.task, allow_schema_change=limits.allow_schema_change),
        production_check(
            production.challenge,
            policy=limits.policy,
            margin=limits.margin,
            metric=limits.gate_metric,
        ),
        *(check(answer, limit) for limit, check in optional if limit),
    )


def verdict(checks: Sequence[Check]) -> tuple[bool, str]:
    """Whether a candidate is promoted, and why: all checks' reasons, or those of the failed ones.

    >>> check = Check(name="accuracy", passed=False, reason="gap too large", metrics={})
    >>> verdict([check])
    (False, 'gap too large')
    """
    promoted = all(check.passed is not False for check in checks)
    reasons = [check.reason for check in checks if promoted or check.passed is False]
    return promoted, "; ".join(reasons)
