"""Closing tables of the command line, and what results show of themselves: data in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kd_mlflow.card import accuracy_with_error, gain_text, p_values, percent, points, recovered_text
from kd_mlflow.evaluation import CRITERION, Figures
from kd_mlflow.options import text_value

if TYPE_CHECKING:
    from kd_mlflow.distilling import DistillResult
    from kd_mlflow.gate import Check
    from kd_mlflow.pipeline import MainResult
    from kd_mlflow.registry import Decision
    from kd_mlflow.sweeping import Cell, SweepResult
    from kd_mlflow.teaching import TeachersResult

Row = tuple[str, str]


def main_table(result: MainResult) -> str:
    """Everything that ``main`` found, and what to do next."""
    return _table(
        _teachers_rows(result.teachers)
        + _distill_rows(result.distill)
        + _decision_rows(result.decision)
    ) + _next_steps(result.distill.model_name, "production" if result.decision.promoted else None)


def teachers_table(result: TeachersResult) -> str:
    """Each teacher and the ensemble."""
    run = ("ensemble run", result.run_id + (" (reused)" if result.reused else ""))
    return _table([*_teachers_rows(result), run])


def distill_table(result: DistillResult) -> str:
    """The comparison and the registered version."""
    runs = [("distill run", result.run_id), ("teachers", result.teachers)]
    return _table(_distill_rows(result) + runs) + _next_steps(result.model_name, "candidate")


def sweep_table(result: SweepResult) -> str:
    """The grid, the sizes, and what was chosen."""
    cells = [(_setting(cell), _cell_text(cell)) for cell in result.cells]
    sizes = [
        (f"{text_value(cell.hidden)}: {cell.parameters:,} parameters", _cell_text(cell))
        for cell in result.sizes
    ]
    ensemble = result.ensemble
    level = (
        f"{ensemble['ensemble_calibrated_val_loss']:.4f}             "
        f"{percent(ensemble['ensemble_val_accuracy'])}          "
        f"{percent(ensemble['ensemble_test_accuracy'])}"
    )
    smallest = result.smallest
    best = [("least validation log loss", _setting(result.chosen))]
    if result.sizes:
        words = text_value(smallest.hidden) if smallest else "none of these sizes"
        if smallest and "ensemble_parameters" in ensemble:
            words += f", {ensemble['ensemble_parameters'] / smallest.parameters:.0f}x smaller"
        best.append(("smallest within tolerance", words))
    runs = [("sweep run", result.run_id), ("teachers", result.teachers)]
    head = (
        "",
        "val log loss       val accuracy     test accuracy, means over seeds ± standard errors",
    )
    return _table([head, *cells, *sizes, ("ensemble", level), *best, *runs]) + (
        "\n\nuse it:  -e distill -P from_sweep=latest"
    )


def _setting(cell: Cell) -> str:
    return f"T {cell.temperature:g}, alpha {cell.alpha:g}"


def _cell_text(cell: Cell) -> str:
    figures = cell.figures
    accuracies = [accuracy_with_error(figures, f"{side}_accuracy") for side in ("val", "test")]
    loss = f"{figures[CRITERION]:.4f} ± {figures[f'{CRITERION}_sem']:.4f}"
    return "   ".join([loss, *accuracies])


def decision_table(decision: Decision) -> str:
    """What the gate said."""
    rows = [(f"gate: {check.name}", _check_text(check)) for check in decision.checks]
    return _table(rows + _decision_rows(decision))


def _check_text(check: Check) -> str:
    verdict = {True: "passed: ", False: "failed: ", None: ""}[check.passed]
    return verdict + check.reason


def _teachers_rows(result: TeachersResult) -> list[Row]:
    each = [
        (f"teacher-{i:02d}", percent(accuracy))
        for i, accuracy in enumerate(result.teacher_accuracies, 1)
    ]
    figures = result.figures
    return [
        ("", "test accuracy"),
        *each,
        (
            "ensemble" + (" (reused)" if result.reused else ""),
            percent(figures["ensemble_test_accuracy"]),
        ),
        ("ensemble parameters", f"{figures['ensemble_parameters']:,.0f}"),
    ]


def _distill_rows(result: DistillResult) -> list[Row]:
    figures, comparison = result.comparison.summary, result.comparison
    seeds = len(comparison.students["distilled"])
    baselines = [
        (
            f"{kind.replace('_', ' ')} students",
            accuracy_with_error(figures, f"{kind}_test_accuracy"),
        )
        for kind in comparison.gains
    ]
    gains = [
        (f"gain over {kind.replace('_', ' ')}", gain_text(gain))
        for kind, gain in comparison.gains.items()
    ]
    return [
        ("", f"test accuracy on {result.test_rows:,} rows, {seeds} seeds, ± standard error"),
        ("ensemble", percent(figures["ensemble_test_accuracy"])),
        ("distilled students", accuracy_with_error(figures, "distilled_test_accuracy")),
        *baselines,
        *gains,
        ("gap to the ensemble", points(comparison.gap)),
        ("knowledge recovered", recovered_text(comparison)),
        *_beside_accuracy(figures, ("ensemble", *comparison.students)),
        ("registered, McNemar's p", p_values(comparison)),
        ("agreement", percent(figures["test_agreement"])),
        ("student parameters", f"{figures['student_parameters']:,.0f}"),
        ("compression ratio", _compression_text(figures)),
        (
            "registered",
            f"{result.model_name} version {result.version}, "
            f"{percent(figures['registered_test_accuracy'])}",
        ),
    ]


def _compression_text(figures: Figures) -> str:
    if "compression_ratio" not in figures:
        return "unknown: the teachers' parameters cannot be counted"
    return f"{figures['compression_ratio']:.1f}x"


def _beside_accuracy(figures: Figures, models: Sequence[str]) -> list[Row]:
    """Figures that class imbalance cannot flatter, of ensemble and students."""
    names = ("balanced_accuracy", "roc_auc", "average_precision", "log_loss", "ece")
    return [
        (
            name.replace("_", " "),
            " / ".join(f"{figures[f'{who}_test_{name}']:.4f}" for who in models)
            + f"  ({' / '.join(models).replace('_', ' ')})",
        )
        for name in names
        if f"ensemble_test_{name}" in figures
    ]


def _decision_rows(decision: Decision) -> list[Row]:
    if not decision.promoted:
        return [("promoted", f"no: {decision.reason}")]
    replaced = f", replacing version {decision.replaced}" if decision.replaced else ""
    return [("promoted", f"yes, version {decision.version}{replaced}: {decision.reason}")]


def _next_steps(model_name: str, alias: str | None) -> str:
    lines = ["", "look at it:  mlflow ui", "             then open http://127.0.0.1:5000"]
    if alias:
        lines.append(f'pull it:     mlflow.pyfunc.load_model("models:/{model_name}@{alias}")')
    return "\n".join(["", *lines])


def _table(rows: list[Row]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)
