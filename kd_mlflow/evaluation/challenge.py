"""The gate's questions about what is in production: its task, and how it does on the same rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kd_mlflow.errors import Unavailable
from kd_mlflow.evaluation.checks import LESS_IS_BETTER, Check
from kd_mlflow.evaluation.intervals import Interval, accuracy_difference, loss_difference
from kd_mlflow.evaluation.metrics import Floats

FLOOR = 1e-6
"""Least probability, of both sides: one certain error would be an infinite log loss."""

MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a model predicts from what; None or empty where it does not say."""

    target: str | None
    classes: tuple[str, ...] | None
    columns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """Candidate and production on the same rows.

    Shape: own and theirs (n, classes), labels (n,). ``rows`` says in words which rows these are.
    """

    version: str
    own: Floats
    theirs: Floats
    labels: NDArray[np.int64]
    rows: str
    left_out: int = 0


def task_check(own: Task, theirs: Task | Unavailable | None, *, allow_schema_change: bool) -> Check:
    """Whether production's callers would get answers to their question from their columns."""
    if theirs is None:
        return Check(name="task", passed=True, reason="nothing is in production: any task may be")
    if isinstance(theirs, Unavailable):
        return Check(name="task", passed=None, reason=f"task not checked: {theirs.reason}")
    if fault := _other_task(own, theirs):
        return Check(
            name="task", passed=False, reason=f"{fault}; another task is another model_name"
        )
    more = sorted(set(own.columns) - set(theirs.columns)) if theirs.columns else []
    metrics = {"new_columns": float(len(more))}
    if more:
        named = ", ".join(map(repr, more[:MOST_NAMED])) + (" ..." if more[MOST_NAMED:] else "")
        allowed = ", which is allowed" if allow_schema_change else ""
        way_out = "" if allow_schema_change else "; allow_schema_change permits that"
        return Check(
            name="task",
            passed=allow_schema_change,
            reason=f"it needs columns that production does not take: {named}{allowed}{way_out}",
            metrics=metrics,
            threshold=0.0,
        )
    unknown = [word for word in ("target", "classes") if getattr(theirs, word) is None]
    if not theirs.columns:
        unknown.append("columns")
    silent = f" (production does not say its {' and '.join(unknown)})" if unknown else ""
    return Check(
        name="task",
        passed=None if theirs.classes is None else True,
        reason=f"same task as production{silent}, no new columns",
        metrics=metrics,
        threshold=0.0,
    )


def _other_task(own: Task, theirs: Task) -> str | None:
    """How two models' questions differ, in words; None where they do not, as far as is known."""
    if theirs.target is not None and theirs.target != own.target:
        return f"it predicts {own.target!r}, production {theirs.target!r}"
    if theirs.classes is None or own.classes is None or set(theirs.classes) == set(own.classes):
        return None
    first = sorted(set(own.classes) ^ set(theirs.classes))[0]
    side = "it" if first in own.classes else "production"
    return f"its classes are not those of production: only {side} has {first!r}"


def production_check(
    challenge: Challenge | Unavailable | None, *, policy: str, margin: float, metric: str
) -> Check:
    """Whether the candidate holds against production, by the interval of their difference.

    In log loss where that is the metric, else in accuracy; more is better in both figures.
    """
    name = "production"
    if challenge is None:
        return Check(name=name, passed=None, reason="nothing is in production to compare with")
    if policy == "any":
        return Check(name=name, passed=None, reason="not compared with production: policy is any")
    if isinstance(challenge, Unavailable):
        reason = f"not compared with production: {challenge.reason}"
        return Check(name=name, passed=None, reason=reason)
    if not len(challenge.labels):
        reason = f"production was trained on all {challenge.left_out:,} test rows: none is left"
        return Check(name=name, passed=False, reason=reason)
    measure = "log_loss" if metric in LESS_IS_BETTER else "accuracy"
    gain = _gain(challenge, measure)
    least = -margin if policy == "non_inferior" else 0.0
    own = _measured(challenge.own, challenge.labels, measure)
    theirs = _measured(challenge.theirs, challenge.labels, measure)
    return Check(
        name=name,
        passed=gain.low > least,
        reason=f"{measure.replace('_', ' ')} {own:.4f} against {theirs:.4f} of version "
        f"{challenge.version}, {challenge.rows}: gain {gain.value:+.4f} [{gain.low:+.4f}, "
        f"{gain.high:+.4f}], {policy} needs a lower bound above {least:g}",
        metrics={
            f"candidate_test_{measure}": own,
            f"production_test_{measure}": theirs,
            "gain_over_production": gain.value,
            "gain_over_production_low": gain.low,
            "gain_over_production_high": gain.high,
            "production_rows_compared": float(len(challenge.labels)),
            "production_rows_left_out": float(challenge.left_out),
            "margin": margin,
        },
        threshold=least,
    )


def _gain(challenge: Challenge, measure: str) -> Interval:
    if measure == "accuracy":
        own, theirs = (_hits(p, challenge.labels)[None] for p in (challenge.own, challenge.theirs))
        return accuracy_difference(own, theirs)
    # theirs first: a loss that is less is a gain
    return loss_difference(
        *(_losses(p, challenge.labels)[None] for p in (challenge.theirs, challenge.own))
    )


def _measured(probabilities: Floats, labels: NDArray[np.int64], measure: str) -> float:
    by_row = _hits if measure == "accuracy" else _losses
    return float(by_row(probabilities, labels).mean())


def _hits(probabilities: Floats, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(probabilities.argmax(axis=1) == labels)


def _losses(probabilities: Floats, labels: NDArray[np.int64]) -> Floats:
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return np.asarray(-np.log(chosen.clip(FLOOR, 1)))
