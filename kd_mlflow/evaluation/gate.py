"""What a candidate must pass before it goes into production: numbers in, verdicts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kd_mlflow.errors import RegistryError, Unavailable
from kd_mlflow.evaluation.intervals import Interval, accuracy_difference, loss_difference
from kd_mlflow.evaluation.metrics import Floats, Hits

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
    "reproduction": "Does the registered artifact, in a clean process, score as was logged?",
    "task": "Does it predict what production predicts, from columns that callers send already?",
    "production": "Is it good enough beside production, on the same rows?",
    "max_ece": "Are its probabilities calibrated?",
    "max_latency_ms": "Does it answer one row in time?",
    "min_class_recall": "Does it find enough rows of every class?",
}
"""What each check asks."""

TOLERANCE = 1e-6
"""Accuracies are shares of whole rows: one row more or less is far above this."""

REPRODUCTION_TOLERANCE = 1e-4
"""Between a test metric as it was logged and as the pulled model gives it, which rounds its
probabilities to float32; one row is above this up to 10,000 rows, and accuracies are held to
``TOLERANCE``."""

BASELINES = ("baseline", "strong_baseline")
MEASURES = {"gain_over_": "accuracy against the", "log_loss_gain_over_": "log loss against the"}
"""Metrics of a run whose upper bound says that a baseline is better, and what they measure."""

NAMED = 5
"""Columns or classes that a sentence names, at most."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question of the gate, its answer in a sentence, and the numbers that were compared.

    ``passed`` is None where the question was not asked or has no answer; that stops nothing.
    ``threshold`` is the number that decides, None where none does.
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


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that the gate knows of a candidate.

    ``logged`` are the metrics of its distill run, ``reproduced`` those of its artifact, by the
    names of ``probability_metrics``; ``latency_ms`` is the median time of one row.
    """

    logged: Mapping[str, float]
    reproduced: Mapping[str, float] | Unavailable
    task: Task
    latency_ms: float | None = None
    least_recall: float | None = None


def gate(findings: Findings, incumbent: Incumbent | None, limits: Limits) -> tuple[Check, ...]:
    """Ask every check of a candidate; ``incumbent`` is None where nothing is in production.

    Raises RegistryError where the run does not have the metric that is to be compared.
    """
    logged = findings.logged
    optional = (
        _ece_check(logged, limits.max_ece),
        _latency_check(findings.latency_ms, limits.max_latency_ms),
        _recall_check(findings.least_recall, limits.min_class_recall),
    )
    return (
        _accuracy_check(logged, limits.gate_metric, limits.max_accuracy_gap),
        _baseline_check(logged, limits.allow_worse_than_baseline),
        _compression_check(logged, limits.min_compression),
        _reproduction_check(logged, findings.reproduced),
        _task_check(findings.task, incumbent, limits.allow_schema_change),
        _production_check(incumbent, limits),
        *(check for check in optional if check),
    )


def verdict(checks: Sequence[Check]) -> tuple[bool, str]:
    """Whether a candidate passes, and why: all checks' reasons, or those of the failed ones.

    >>> check = Check(name="accuracy", passed=False, reason="gap too large", metrics={})
    >>> verdict([check])
    (False, 'gap too large')
    """
    passed = all(check.passed is not False for check in checks)
    reasons = [check.reason for check in checks if passed or check.passed is False]
    return passed, "; ".join(reasons)


def same_task(candidate: Task, production: Task) -> bool:
    """Whether two models answer one question, as far as both are known: target and classes."""
    return not _other_task(candidate, production)


def _accuracy_check(metrics: Mapping[str, float], metric: str, max_accuracy_gap: float) -> Check:
    ours, theirs = f"registered_test_{metric}", f"ensemble_test_{metric}"
    if ours not in metrics:
        raise RegistryError(f"gate_metric {metric} needs two classes; this run has no {ours}")
    ensemble, student = metrics[theirs], metrics[ours]
    gap = student - ensemble if metric == "log_loss" else ensemble - student
    return Check(
        name="accuracy",
        passed=gap <= max_accuracy_gap + TOLERANCE,
        reason=f"{metric.replace('_', ' ')} {student:.4f} against the ensemble's {ensemble:.4f}: "
        f"gap {gap:+.4f}, at most {max_accuracy_gap:g} allowed",
        threshold=max_accuracy_gap,
        metrics={
            theirs: ensemble,
            ours: student,
            "accuracy_gap": gap,
            "max_accuracy_gap": max_accuracy_gap,
        },
    )


def _baseline_check(metrics: Mapping[str, float], allowed: bool) -> Check:
    """Whether plain training on the labels beats distillation beyond noise."""
    compared = {
        f"{measure}{kind}_high": f"{words} {kind.replace('_', ' ')}"
        for kind in BASELINES
        for measure, words in MEASURES.items()
        if f"{measure}{kind}_high" in metrics
    }
    if not compared:
        return _unasked("baseline", "the run has no interval of a gain over one")
    worse = [words for name, words in compared.items() if metrics[name] < 0]
    reason = f"measurably worse, by {', '.join(worse)}" if worse else "no baseline is better"
    return Check(
        name="baseline",
        passed=not worse or allowed,
        reason=f"{reason}{', which is allowed' if worse and allowed else ''}",
        threshold=0.0,
        metrics={name: metrics[name] for name in compared},
    )


def _compression_check(metrics: Mapping[str, float], min_compression: float) -> Check:
    ratio = metrics.get("compression_ratio")
    if ratio is None:
        return _unasked("compression", "the teachers' parameters cannot be counted")
    return Check(
        name="compression",
        passed=ratio >= min_compression,
        reason=f"compression {ratio:.1f}x, at least {min_compression:g}x required",
        threshold=min_compression,
        metrics={"compression_ratio": ratio, "min_compression": min_compression},
    )


def _reproduction_check(
    metrics: Mapping[str, float], reproduced: Mapping[str, float] | Unavailable
) -> Check:
    """Whether every test metric that was logged of the student comes out of its artifact."""
    if isinstance(reproduced, Unavailable):
        return Check(name="reproduction", passed=False, reason=reproduced.reason, metrics={})
    logged = {name: metrics.get(f"registered_test_{name}") for name in reproduced}
    known = {name: value for name, value in logged.items() if value is not None}
    off = [name for name, value in known.items() if not _reproduced(name, reproduced[name], value)]
    shown = off or ["accuracy"]
    compared = ", ".join(
        f"{name.replace('_', ' ')} {reproduced[name]:.4f}, logged {known[name]:.4f}"
        for name in shown
    )
    which = "" if off else f", and so with all {len(known)} test metrics"
    return Check(
        name="reproduction",
        passed=not off,
        reason=f"in a clean process the registered model has {compared}{which}",
        threshold=REPRODUCTION_TOLERANCE,
        metrics={f"reproduced_test_{name}": reproduced[name] for name in known},
    )


def _reproduced(name: str, value: float, logged: float) -> bool:
    tolerance = TOLERANCE if "accuracy" in name else REPRODUCTION_TOLERANCE
    return abs(value - logged) <= tolerance


def _task_check(task: Task, incumbent: Incumbent | None, allow_schema_change: bool) -> Check:
    """Whether a candidate can take production's place without its callers' noticing."""
    if incumbent is None:
        return _unasked("task", "nothing is in production")
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


def _production_check(incumbent: Incumbent | None, limits: Limits) -> Check:
    """Whether the candidate is as good as production on its own test rows."""
    if incumbent is None:
        return _unasked("production", "nothing is in production")
    if limits.policy == "any":
        return _unasked("production", "policy is any")
    if incumbent.duel is None:
        return _unasked("production", f"version {incumbent.version} has another task")
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


def _ece_check(metrics: Mapping[str, float], most: float) -> Check | None:
    if not most:
        return None
    ece = metrics["registered_test_ece"]
    return Check(
        name="max_ece",
        passed=ece <= most,
        reason=f"expected calibration error {ece:.4f}, at most {most:g} allowed",
        threshold=most,
        metrics={"registered_test_ece": ece},
    )


def _latency_check(latency_ms: float | None, most: float) -> Check | None:
    if not most:
        return None
    if latency_ms is None:
        return _failed("max_latency_ms", "latency not measured: the model does not score")
    return Check(
        name="max_latency_ms",
        passed=latency_ms <= most,
        reason=f"one row takes {latency_ms:.2f} ms (median), at most {most:g} ms allowed",
        threshold=most,
        metrics={"latency_ms": latency_ms},
    )


def _recall_check(recall: float | None, least: float) -> Check | None:
    if not least:
        return None
    if recall is None:
        return _failed("min_class_recall", "recall not measured: the model does not score")
    return Check(
        name="min_class_recall",
        passed=recall >= least,
        reason=f"least recall of a class {recall:.4f}, at least {least:g} required",
        threshold=least,
        metrics={"least_class_recall": recall},
    )


def _unasked(name: CheckName, why: str) -> Check:
    return Check(name=name, passed=None, reason=f"{name} not checked: {why}", metrics={})


def _failed(name: CheckName, reason: str) -> Check:
    return Check(name=name, passed=False, reason=reason, metrics={})


def listed(names: Sequence[str]) -> str:
    """Names with commas, a few of many.

    >>> listed(["a", "b", "c", "d", "e", "f", "g"])
    "'a', 'b', 'c', 'd', 'e' and 2 more"
    """
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(repr, names[:NAMED])) + more
