"""Whether a candidate can take production's place: the same task, and as good on the same rows."""

from __future__ import annotations

from dataclasses import dataclass

from kd_mlflow.errors import Unavailable, listed
from kd_mlflow.evaluation import intervals
from kd_mlflow.evaluation.checks import Check, GateLimits, failed, unasked
from kd_mlflow.evaluation.grouped import group_count
from kd_mlflow.evaluation.scores import RowScores


@dataclass(frozen=True, kw_only=True)
class PredictionTask:
    """What a model predicts, and the columns it reads; None for what is not known of it."""

    target: str | None
    classes: tuple[str, ...] | None
    columns: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class Incumbent:
    """The version in production: its task, and how it did against the candidate.

    ``scores`` are the candidate's and its own on the same rows, none of which it is known to have
    seen: Unavailable where the two cannot be compared, None where that was not asked.
    ``left_out`` counts the candidate's test rows that it was trained on; None where it is not known
    which those are, and all rows are compared. ``by_rule``: it or the candidate predicts by a
    threshold or weights, not for the most right answers.
    """

    version: str
    task: PredictionTask
    scores: tuple[RowScores, RowScores] | Unavailable | None
    left_out: int | None = None
    by_rule: bool = False


def same_task(candidate: PredictionTask, production: PredictionTask) -> bool:
    """Whether two models answer one question, as far as both are known: target and classes."""
    return not _other_task(candidate, production)


def task_check(
    task: PredictionTask, incumbent: Incumbent | None, allow_schema_change: bool
) -> Check:
    """Whether a candidate can take production's place without its callers' noticing."""
    if incumbent is None:
        return unasked("task", "nothing is in production")
    theirs = incumbent.task
    if other := _other_task(task, theirs):
        return failed(
            "task",
            f"another task than version {incumbent.version}, in production: {other}; give each "
            "task a model_name of its own",
        )
    unknown = theirs.columns is None or task.columns is None
    new = [] if unknown else sorted(set(task.columns or ()) - set(theirs.columns or ()))
    columns = "its columns are not known" if unknown else "no other columns are read"
    if new:
        allowed = "which is allowed" if allow_schema_change else "allow_schema_change allows it"
        columns = f"reads columns that production does not read: {listed(new)}; {allowed}"
    passed = not new or allow_schema_change
    known = f"{_known_text(theirs)} as version {incumbent.version}, in production; "
    return Check(
        name="task",
        passed=passed,
        reason=f"{known if passed else ''}{columns}",
        metrics={"new_columns": len(new)},
    )


def _other_task(task: PredictionTask, theirs: PredictionTask) -> str:
    """What is different about what two models predict, in words; empty where nothing is known."""
    if None not in (task.target, theirs.target) and task.target != theirs.target:
        return f"it predicts {task.target!r}, production {theirs.target!r}"
    if task.classes is None or theirs.classes is None:
        return ""
    if sorted(task.classes) == sorted(theirs.classes):
        return ""
    return f"its classes are {listed(task.classes)}, production's {listed(theirs.classes)}"


def _known_text(theirs: PredictionTask) -> str:
    """What of production was compared and is the same."""
    known = {"target": theirs.target, "classes": theirs.classes}
    same = " and ".join(name for name, value in known.items() if value is not None)
    missing = " or ".join(name for name, value in known.items() if value is None)
    if not same:
        return "target and classes not known to be the same"
    return f"same {same}{f' (its {missing} is not known)' if missing else ''}"


def production_check(incumbent: Incumbent | None, limits: GateLimits) -> Check:
    """Whether the candidate is as good as production on its own test rows."""
    if incumbent is None:
        return unasked("production", "nothing is in production")
    if limits.policy == "any":
        return unasked("production", "policy is any")
    if incumbent.scores is None:
        return unasked("production", f"version {incumbent.version} has another task")
    if isinstance(incumbent.scores, Unavailable):
        return failed("production", incumbent.scores.reason)
    return _advantage_check(incumbent, *incumbent.scores, limits)


def _advantage_check(
    incumbent: Incumbent, candidate: RowScores, production: RowScores, limits: GateLimits
) -> Check:
    version, left_out, rows = incumbent.version, incumbent.left_out, len(candidate)
    groups, ours, theirs = candidate.groups, _means(candidate), _means(production)
    threshold = 0.0 if limits.policy == "better" else -limits.margin
    if limits.gate_metric == "accuracy" and not incumbent.by_rule:
        measure, said = "accuracy", intervals.ACCURACY
        better = intervals.accuracy_difference(candidate.hits[None], production.hits[None], groups)
    else:
        measure, said = "log_loss", intervals.LOG_LOSS
        better = intervals.loss_difference(production.losses[None], candidate.losses[None], groups)
    ruled = "; not in accuracy: one of them has a decision threshold" if incumbent.by_rule else ""
    of_groups = "" if groups is None else f" of {group_count(groups):,} groups"
    levels = f"{ours[measure]:.4f} against {theirs[measure]:.4f}"
    return Check(
        name="production",
        passed=better.low > threshold,
        reason=f"{measure.replace('_', ' ')} {levels} of version {version}, in production, on "
        f"{rows:,} rows{of_groups}: {intervals.difference(better, said)}{ruled}; "
        f"{_needs_text(limits, said)}{_unseen_text(better, rows, limits)}{_seen_text(left_out)}",
        threshold=threshold,
        metrics={
            **{f"candidate_test_{name}": value for name, value in ours.items()},
            **{f"production_test_{name}": value for name, value in theirs.items()},
            **better.named("gain_over_production"),
            "compared_rows": rows,
            **({} if left_out is None else {"left_out_rows": left_out}),
        },
    )


def _needs_text(limits: GateLimits, measure: intervals.Measure) -> str:
    """What the policy asks of the interval of the difference to production."""
    if limits.policy == "better":
        return f"policy better needs all of the interval {measure.better}"
    most = f"{measure.factor * limits.margin:g}{measure.unit} {measure.worse}"
    return f"policy non-inferior refuses where the interval reaches {most}"


def _unseen_text(better: intervals.Interval, rows: int, limits: GateLimits) -> str:
    """What an interval of nothing does not say: how many other rows two equal models may differ on.

    The upper bound of a share that was 0 on so many rows; of groups it is larger still.
    """
    most = float(intervals.wilson(0.0, rows)[1])
    if (better.low, better.high) != (0, 0) or most <= limits.margin:
        return ""
    return f"; equal on {rows:,} rows, they may still differ on {100 * most:.1f} % of others"


def _means(scores: RowScores) -> dict[str, float]:
    return {"accuracy": float(scores.hits.mean()), "log_loss": float(scores.losses.mean())}


def _seen_text(left_out: int | None) -> str:
    if left_out is None:
        return "; which of these rows production was trained on is not known, which favours it"
    return f"; {left_out:,} rows that production was trained on left out" if left_out else ""
