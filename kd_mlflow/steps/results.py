"""What each step returns, and the closing table that it shows of itself: data in, text out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from kd_mlflow.config.options import text_value
from kd_mlflow.distillation.menu import Trial
from kd_mlflow.distillation.teachers import Ensemble
from kd_mlflow.evaluation.answers import Metrics
from kd_mlflow.evaluation.checks import Check
from kd_mlflow.evaluation.comparison import CRITERION, Comparison
from kd_mlflow.registry.history import Period
from kd_mlflow.registry.moves import PROMOTE
from kd_mlflow.registry.versions import Rollback
from kd_mlflow.report.words import (
    accuracy_with_error,
    both_gains_text,
    both_gaps_text,
    composition,
    kind_text,
    majority_text,
    one_line,
    p_values,
    percent,
    rarest_classes,
    recall_text,
    recovered_text,
    threshold_text,
    trial_text,
    warning_text,
)
from kd_mlflow.steps.lines import Row
from kd_mlflow.steps.lines import aligned as _aligned
from kd_mlflow.steps.lines import table_text as _table

WHY_LENGTH = 200
"""Characters of a reason in a history; the version's tags and its promotion's run have all."""

RAREST_CLASSES = 10
"""Classes whose recall stands in the closing table of an imbalanced table."""

SWEEP_COLUMNS = [
    "val log loss",
    "val accuracy",
    "test accuracy, means over seeds ± standard errors",
]


class TeacherResult(NamedTuple):
    """A teacher's run by its name, its accuracy on the test rows, its share of the ensemble."""

    name: str
    accuracy: float
    weight: float


@dataclass(frozen=True, kw_only=True, repr=False)
class TeachersResult:
    """An ensemble and its metrics on test rows; ``reused`` where an earlier run trained it.

    Of an ``imbalanced`` table one class has so many rows that accuracy says little.
    """

    run_id: str
    reused: bool
    ensemble: Ensemble
    teachers: tuple[TeacherResult, ...]
    metrics: Metrics
    imbalanced: bool = False

    @property
    def teacher_accuracies(self) -> tuple[float, ...]:
        """Each teacher's accuracy on the test rows."""
        return tuple(teacher.accuracy for teacher in self.teachers)

    def __repr__(self) -> str:
        return teachers_table(self)


@dataclass(frozen=True, kw_only=True, repr=False)
class DistillResult:
    """A comparison and the version that its first student became.

    ``taught_by`` names the teachers in words; ``teachers_run_id`` is None where they are no
    ensemble that was trained here. ``trials`` are the students that were tried before, the kept
    one last; ``note`` is the description of the run. ``page`` is the address of the run on the
    tracking server, None where the store is a file or a database.
    """

    run_id: str
    taught_by: str
    teachers_run_id: str | None
    comparison: Comparison
    model_name: str
    version: str
    test_rows: int
    trials: Sequence[Trial] = ()
    note: str = ""
    page: str | None = None

    def __repr__(self) -> str:
        return distill_table(self)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A temperature, an alpha and a size; metrics are means over seeds, ``_sem`` their errors."""

    temperature: float
    alpha: float
    hidden: tuple[int, ...]
    metrics: Metrics

    @property
    def parameters(self) -> int:
        """Parameters of one student."""
        return int(self.metrics["parameters"])


@dataclass(frozen=True, kw_only=True, repr=False)
class SweepResult:
    """A grid, the cell chosen of it, students of several sizes at its setting.

    ``smallest`` is the smallest size within the tolerance of the ensemble on validation rows, None
    where no size is.
    """

    run_id: str
    taught_by: str
    ensemble: Metrics
    cells: tuple[Cell, ...]
    chosen: Cell
    sizes: tuple[Cell, ...]
    smallest: Cell | None

    def __repr__(self) -> str:
        return sweep_table(self)


@dataclass(frozen=True, kw_only=True, repr=False)
class MainResult:
    """What the three steps of ``main`` found."""

    taught: TeachersResult
    distill: DistillResult
    decision: Decision

    def __repr__(self) -> str:
        return main_table(self)


@dataclass(frozen=True, kw_only=True, repr=False)
class Decision:
    """What the gate said of a version, and what came of it.

    ``passed`` is the verdict; ``promoted`` is true where production was moved, which a dry run does
    not. ``replaced`` is the version in whose place it came, or would come, None where nothing was
    in production or the version did not pass. ``note`` is the description of the promotion's run.
    """

    model_name: str
    version: str
    passed: bool
    promoted: bool
    reason: str
    checks: tuple[Check, ...]
    replaced: str | None
    note: str

    def __repr__(self) -> str:
        return decision_table(self)


@dataclass(frozen=True, kw_only=True, repr=False)
class History:
    """Who was in production under a registered model, the oldest first, and who is.

    ``settled`` says what was found half done and finished or undone, None where nothing was.
    """

    model_name: str
    production: str | None
    periods: tuple[Period, ...]
    settled: str | None = None

    def __repr__(self) -> str:
        return history_table(self)


def main_table(result: MainResult) -> str:
    """Everything that ``main`` found, and what to do next."""
    return _table(
        _warning_rows(result.distill)
        + _imbalance_rows(result.distill)
        + _teachers_rows(result.taught)
        + _distill_rows(result.distill)
        + _decision_rows(result.decision)
    ) + _next_steps(result.distill, "production" if result.decision.promoted else None)


def teachers_table(result: TeachersResult) -> str:
    """Each teacher and the ensemble."""
    run = ("ensemble run", result.run_id + (" (reused)" if result.reused else ""))
    balanced = result.metrics["ensemble_test_balanced_accuracy"]
    first = [("ensemble, balanced accuracy", percent(balanced))] if result.imbalanced else []
    return _table([*first, *_teachers_rows(result), run])


def distill_table(result: DistillResult) -> str:
    """The comparison and the registered version."""
    runs = [("distill run", result.run_id), ("teachers", result.taught_by)]
    rows = _warning_rows(result) + _imbalance_rows(result) + _distill_rows(result) + runs
    return _table(rows) + _next_steps(result, "candidate")


def sweep_table(result: SweepResult) -> str:
    """The grid, the sizes, and what was chosen."""
    ensemble, smallest = result.ensemble, result.smallest
    level = [
        f"{ensemble['ensemble_calibrated_val_loss']:.4f}",
        percent(ensemble["ensemble_val_accuracy"]),
        percent(ensemble["ensemble_test_accuracy"]),
    ]
    lines = {
        "": SWEEP_COLUMNS,
        **{_setting(cell): _cell_columns(cell) for cell in result.cells},
        **{
            f"{text_value(cell.hidden)}: {cell.parameters:,} parameters": _cell_columns(cell)
            for cell in result.sizes
        },
        "ensemble": level,
    }
    best = [("least validation log loss", _setting(result.chosen))]
    if result.sizes:
        words = text_value(smallest.hidden) if smallest else "none of these sizes"
        if smallest and "ensemble_parameters" in ensemble:
            words += f", {ensemble['ensemble_parameters'] / smallest.parameters:.0f}x smaller"
        best.append(("smallest within tolerance", words))
    runs = [("sweep run", result.run_id), ("teachers", result.taught_by)]
    return _table([*_aligned(list(lines.items())), *best, *runs]) + (
        "\n\nuse it:  -e distill -P from_sweep=latest"
    )


def _setting(cell: Cell) -> str:
    return f"T {cell.temperature:g}, alpha {cell.alpha:g}"


def _cell_columns(cell: Cell) -> list[str]:
    metrics = cell.metrics
    loss = f"{metrics[CRITERION]:.4f} ± {metrics[f'{CRITERION}_sem']:.4f}"
    return [loss, *(accuracy_with_error(metrics, f"{side}_accuracy") for side in ("val", "test"))]


def decision_table(decision: Decision) -> str:
    """What the gate said."""
    rows = [(f"gate: {check.name}", _check_text(check)) for check in decision.checks]
    return _table(rows + _decision_rows(decision))


def history_table(history: History) -> str:
    """Who was in production, the newest first: since when, for how long, and why."""
    now = datetime.now(UTC)
    lines = [("", ["since (UTC)", "for", "why"])]
    for period in reversed(history.periods):
        mark = " (now)" if period.until is None and period.version == history.production else ""
        since = period.since[:19].replace("T", " ") if period.since else "not recorded"
        lines.append(
            (f"version {period.version}{mark}", [since, _lasted(period, now), _why(period)])
        )
    rows = _aligned(lines) if history.periods else [("", "nothing was in production yet")]
    settled = [("settled", history.settled)] if history.settled else []
    return _table([("registered model", history.model_name), *settled, *rows])


def _lasted(period: Period, now: datetime) -> str:
    """How long a period lasted, or lasts, in its largest two units."""
    if period.since is None:
        return "not known"
    end = datetime.fromisoformat(period.until) if period.until else now
    duration = end - datetime.fromisoformat(period.since)
    minutes, seconds = divmod(max(0, int(duration.total_seconds())), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = {"d": days, "h": hours, "min": minutes, "s": seconds}
    first = next((i for i, n in enumerate(parts.values()) if n), len(parts) - 1)
    return " ".join(f"{n} {unit}" for unit, n in list(parts.items())[first : first + 2])


def _why(period: Period) -> str:
    """Why a version came into production, and by whom."""
    if period.kind is None:
        return "no record: set by other means, or its record was deleted"
    verb = "promoted" if period.kind == PROMOTE else "rolled back to"
    return f"{verb} by {period.by}: {one_line(period.reason or '', WHY_LENGTH)}"


def rollback_line(model_name: str, moved: Rollback) -> str:
    """What a rollback did."""
    return (
        f"{model_name}: production is version {moved.restored} again; version {moved.replaced} is "
        "now previous, and rolled_back: no plain promote takes it again"
    )


def _check_text(check: Check) -> str:
    verdict = {True: "passed: ", False: "failed: ", None: ""}[check.passed]
    return verdict + check.reason


def _teachers_rows(result: TeachersResult) -> list[Row]:
    each = [
        (teacher.name, f"{percent(teacher.accuracy)}, weight {percent(teacher.weight)}")
        for teacher in result.teachers
    ]
    metrics = result.metrics
    return [
        ("", "test accuracy"),
        *each,
        ("made of", composition(result.ensemble.parts)),
        (
            "ensemble" + (" (reused)" if result.reused else ""),
            percent(metrics["ensemble_test_accuracy"]),
        ),
        ("ensemble parameters", f"{metrics['ensemble_parameters']:,.0f}"),
    ]


def _distill_rows(result: DistillResult) -> list[Row]:
    metrics, comparison = result.comparison.summary, result.comparison
    seeds = len(comparison.students["distilled"])
    baselines = [
        (
            f"{kind_text(kind)} students",
            accuracy_with_error(metrics, f"{kind}_test_accuracy"),
        )
        for kind in comparison.gains
    ]
    gains = [
        (f"gain over {kind_text(kind)}", both_gains_text(gain, comparison.loss_gains[kind]))
        for kind, gain in comparison.gains.items()
    ]
    boosting = [("boosted trees alone", percent(metrics["boosting_test_accuracy"]))]
    if comparison.over_boosting:
        gains.append(("gain over boosted trees", both_gains_text(*comparison.over_boosting)))
    return [
        ("", f"test accuracy on {result.test_rows:,} rows, {seeds} seeds, ± standard error"),
        *([("decided", decided)] if (decided := threshold_text(comparison)) else []),
        ("ensemble", percent(metrics["ensemble_test_accuracy"])),
        ("distilled students", accuracy_with_error(metrics, "distilled_test_accuracy")),
        *baselines,
        *(boosting if comparison.over_boosting else []),
        *gains,
        ("gap to the ensemble", both_gaps_text(comparison.gap, comparison.loss_gap)),
        ("knowledge recovered", recovered_text(comparison)),
        *_beside_accuracy(comparison),
        ("registered, McNemar's p", p_values(comparison)),
        ("agreement", percent(metrics["test_agreement"])),
        *([("student chosen", trial_text(result.trials[-1]))] if result.trials else []),
        ("student parameters", f"{metrics['student_parameters']:,.0f}"),
        ("compression ratio", _compression_text(metrics)),
        (
            "registered",
            f"{result.model_name} version {result.version}, "
            f"{percent(metrics['registered_test_accuracy'])}",
        ),
    ]


def _warning_rows(result: DistillResult) -> list[Row]:
    """What must be read before anything else: that a baseline is better."""
    warning = warning_text(result.comparison)
    return [("warning", warning)] if warning else []


def _compression_text(metrics: Metrics) -> str:
    if "compression_ratio" not in metrics:
        return "unknown: the teachers' parameters cannot be counted"
    return f"{metrics['compression_ratio']:.1f}x"


def _imbalance_rows(result: DistillResult) -> list[Row]:
    """Balanced accuracy and the rarest classes' recall; nothing of a table without a majority."""
    comparison = result.comparison
    if not comparison.imbalanced:
        return []
    names, rows = list(comparison.class_rows), list(comparison.class_rows.values())
    places, metrics = rarest_classes(comparison), comparison.summary
    balanced = [
        (kind_text(who), percent(metrics[f"{who}_test_balanced_accuracy"]))
        for who in comparison.recalls
    ]
    recalls = [
        (
            f"{one_line(names[place], 30)}, {rows[place]:,} rows",
            " / ".join(recall_text(recalls[place]) for recalls in comparison.recalls.values()),
        )
        for place in places[:RAREST_CLASSES]
    ]
    more = len(places) - RAREST_CLASSES
    return [
        ("", f"balanced accuracy on test rows: {majority_text(comparison)}"),
        *balanced,
        ("", f"recall by class: {' / '.join(map(kind_text, comparison.recalls))}"),
        *recalls,
        *([("", f"and {more:,} more, in class_recall.json")] if more > 0 else []),
    ]


def _beside_accuracy(comparison: Comparison) -> list[Row]:
    """Metrics that class imbalance cannot flatter, of ensemble and students."""
    boosting = ["boosting"] if comparison.over_boosting else []
    metrics, models = comparison.summary, ("ensemble", *comparison.students, *boosting)
    names = ["balanced_accuracy", "roc_auc", "average_precision", "log_loss", "ece"]
    if comparison.imbalanced:
        names.remove("balanced_accuracy")  # stands above
    return [
        (
            name.replace("_", " "),
            " / ".join(f"{metrics[f'{who}_test_{name}']:.4f}" for who in models)
            + f"  ({' / '.join(models).replace('_', ' ')})",
        )
        for name in names
        if f"ensemble_test_{name}" in metrics
    ]


def _decision_rows(decision: Decision) -> list[Row]:
    if not decision.passed:
        return [("promoted", f"no: {decision.reason}")]
    if not decision.promoted:
        before = f" in place of version {decision.replaced}" if decision.replaced else ""
        return [("promoted", f"no, a dry run; version {decision.version} would be{before}")]
    replaced = f", replacing version {decision.replaced}" if decision.replaced else ""
    return [("promoted", f"yes, version {decision.version}{replaced}: {decision.reason}")]


def _next_steps(result: DistillResult, alias: str | None) -> str:
    """Where to look at a run, on the server that has it, and how to pull its student."""
    if result.page:
        lines = [f"look at it:  {result.page}"]
    else:
        lines = ["look at it:  mlflow ui", "             then open http://127.0.0.1:5000"]
    if alias:
        uri = json.dumps(f"models:/{result.model_name}@{alias}", ensure_ascii=False)
        lines.append(f"pull it:     mlflow.pyfunc.load_model({uri})")
    return "\n".join(["", "", *lines])
