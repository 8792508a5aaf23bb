"""What a candidate must pass before it goes into production: asks, moves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kd_mlflow.errors import RegistryError

REPRODUCTION_TOLERANCE = 1e-6
"""Accuracies are shares of whole rows: one row more or less is far above this."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question of the gate, its answer, and the figures that were compared.

    ``passed`` is None where the question has no answer; that stops nothing.
    """

    name: str
    passed: bool | None
    reason: str
    figures: Mapping[str, float]


def gate(
    figures: Mapping[str, float],
    reproduced: float | str,
    *,
    metric: str,
    max_accuracy_gap: float,
    min_compression: float,
) -> tuple[Check, ...]:
    """Ask every check of a distill run's figures.

    ``reproduced`` is the test accuracy of the version as it lies in the registry; a sentence where
    there is none.
    """
    return (
        _accuracy_check(figures, metric, max_accuracy_gap),
        _compression_check(figures, min_compression),
        _reproduction_check(figures, reproduced),
    )


def _accuracy_check(figures: Mapping[str, float], metric: str, max_accuracy_gap: float) -> Check:
    ours, theirs = f"registered_test_{metric}", f"ensemble_test_{metric}"
    if ours not in figures:
        raise RegistryError(f"gate_metric {metric} needs two classes; this run has no {ours}")
    ensemble, student = figures[theirs], figures[ours]
    gap = ensemble - student
    return Check(
        name="accuracy",
        passed=gap <= max_accuracy_gap + REPRODUCTION_TOLERANCE,
        reason=f"{metric.replace('_', ' ')} {student:.4f} against the ensemble's {ensemble:.4f}: "
        f"gap {gap:+.4f}, at most {max_accuracy_gap:g} allowed",
        figures={
            theirs: ensemble,
            ours: student,
            "accuracy_gap": gap,
            "max_accuracy_gap": max_accuracy_gap,
        },
    )


def _compression_check(figures: Mapping[str, float], min_compression: float) -> Check:
    ratio = figures.get("compression_ratio")
    if ratio is None:
        return Check(
            name="compression",
            passed=None,
            reason="compression not checked: the teachers' parameters cannot be counted",
            figures={},
        )
    return Check(
        name="compression",
        passed=ratio >= min_compression,
        reason=f"compression {ratio:.1f}x, at least {min_compression:g}x required",
        figures={"compression_ratio": ratio, "min_compression": min_compression},
    )


def _reproduction_check(figures: Mapping[str, float], reproduced: float | str) -> Check:
    name, logged = "reproduction", figures["registered_test_accuracy"]
    if isinstance(reproduced, str):
        return Check(name=name, passed=False, reason=reproduced, figures={})
    return Check(
        name=name,
        passed=abs(reproduced - logged) <= REPRODUCTION_TOLERANCE,
        reason=f"loaded from the registry it scores {reproduced:.4f}, logged {logged:.4f}",
        figures={"reproduced_test_accuracy": reproduced},
    )
