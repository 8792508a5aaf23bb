"""Whether a candidate can take production's place: the same task, and as good on the same rows."""

from __future__ import annotations

from dataclasses import dataclass

from kd_mlflow.errors import Unavailable, listed
from kd_mlflow.evaluation.checks import Check, Limits, unasked
from kd_mlflow.evaluation.intervals import Interval, accuracy_difference, loss_difference
from kd_mlflow.evaluation.metrics import Floats, Hits


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a model predicts, and the columns it reads; None for what is not known of it."""

    target: str | None
    classes: tuple[str, ...] | None
    columns: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A model's answers to rows: whether each is right, and its log loss in nats.

    Shape: (n,) each.
    """

    hits: Hits
    losses: Floats


@dataclass(frozen=True, kw_only=True)
class Duel:
    """Candidate and production on the same rows, none of which production is known to have seen.

    ``left_out`` counts the candidate's test rows that production was trained on; None where it is
    not known which those are, and all rows are compared.
    """

    candidate: Answers
    production: Answers
    left_out: int | None


@dataclass(frozen=True, kw_only=True)
class Incumbent:
    """The version in production: its task, and how it did against the candidate.

    ``duel`` is Unavailable where the two cannot be compared, None where that was not asked.
    """

    version: str
    task: Task
    duel: Duel | Unavailable | None


def same_task(candidate: Task, production: Task) -> bool:
    """Whether two models answer one question, as far as both are known: target and classes."""
    return not _other_task(candidate, production)


def task_check(task: Task, incumbent: Incumbent | None, allow_schema_change: bool) -> Check:
    """Whether a candidate can take production's place without its callers' noticing."""
    if incumbent is None:
        return unasked("task", "nothing is in production")
    theirs = incumbent.task
    if other := _other_task(task, theirs):
        return Check(
            name="task",
            passed=False,
            reason=f"another task than version {incumbent.version}, in production: {other}; "
            "give each task a model_name of its own",
            metrics={},
        )
    unknown = theirs.columns is None or task.columns is None
    new = [] if unknown else sorted(set(task.columns or ()) - set(theirs.columns or ()))
    columns = "its columns are not known" if unknown else "no other columns are read"
    if new:
        allowed = "which is allowed" if allow_schema_change else "allow_schema_change allows it"
        columns = f"reads columns that production does not read: {listed(new)}; {allowed}"
    return Check(
        name="task",
        passed=not new or allow_schema_change,
        reason=f"{_known_text(theirs)} as version {incumbent.version}, in production; {columns}",
        metrics={"new_columns": len(new)},
    )


def _other_task(task: Task, theirs: Task) -> str:
    """What is different about what two models predict, in words; empty where nothing is known."""
    if None not in (task.target, theirs.target) and task.target != theirs.target:
        return f"it predicts {task.target!r}, production {theirs.target!r}"
    if task.classes is None or theirs.classes is None:
        return ""
    if sorted(task.classes) == sorted(theirs.classes):
        return ""
    return f"its classes are {listed(task.classes)}, production's {listed(theirs.classes)}"


def _known_text(theirs: Task) -> str:
    """What of production was compared and is the same."""
    known = {"target": theirs.target, "classes": theirs.classes}
    same = " and ".join(name for name, value in known.items() if value is not None)
    missing = " or ".join(name for name, value in known.items() if value is None)
    if not same:
        return "target and classes not known to be the same"
    return f"same {same}{f' (its {missing} is not known)' if missing else ''}"


def production_check(incumbent: Incumbent | None, limits: Limits) -> Check:
    """Whether the candidate is as good as production on its own test rows."""
    if incumbent is None:
        return unasked("production", "nothing is in production")
    if limits.policy == "any":
        return unasked("production", "policy is any")
    if incumbent.duel is None:
        return unasked("production", f"version {incumbent.version} has another task")
    if isinstance(incumbent.duel, Unavailable):
        return Check(name="production", passed=False, reason=incumbent.duel.reason, metrics={})
    return _duel_check(incumbent.version, incumbent.duel, limits)


def _duel_check(version: str, duel: Duel, limits: Limits) -> Check:
    measure = "log_loss" if limits.gate_metric == "log_loss" else "accuracy"
    rows = len(duel.candidate.hits)
    better = _advantage(duel, measure)
    threshold = 0.0 if limits.policy == "better" else -limits.margin
    ours, theirs = (_means(answers)[measure] for answers in (duel.candidate, duel.production))
    words = measure.replace("_", " ")
    return Check(
        name="production",
        passed=better.low > threshold,
        reason=f"{words} {ours:.4f} against {theirs:.4f} of version {version}, in production, on "
        f"{rows:,} rows: better by {better.value:+.4f} ({better.low:+.4f} to {better.high:+.4f}); "
        f"{limits.policy.replace('_', '-')} needs the lower bound above {threshold:g}"
        f"{_seen_text(duel.left_out)}",
        threshold=threshold,
        metrics={
            **{f"candidate_test_{name}": value for name, value in _means(duel.candidate).items()},
            **{f"production_test_{name}": value for name, value in _means(duel.production).items()},
            "gain_over_production": better.value,
            "gain_over_production_low": better.low,
            "gain_over_production_high": better.high,
            "compared_rows": rows,
            **({} if duel.left_out is None else {"left_out_rows": duel.left_out}),
        },
    )


def _advantage(duel: Duel, measure: str) -> Interval:
    """How much better the candidate is than production, in accuracy or in nats."""
    if measure == "accuracy":
        return accuracy_difference(duel.candidate.hits[None], duel.production.hits[None])
    return loss_difference(duel.production.losses[None], duel.candidate.losses[None])


def _means(answers: Answers) -> dict[str, float]:
    return {
        "accuracy": float(answers.hits.mean()),
        "log_loss": float(answers.losses.mean()),
    }


def _seen_text(left_out: int | None) -> str:
    if left_out is None:
        return "; which of these rows production was trained on is not known, which favours it"
    return f"; {left_out:,} rows that production was trained on left out" if left_out else ""
