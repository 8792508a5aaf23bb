"""Numbers as phrases, used by every text that people read. Values in, words out."""

from __future__ import annotations

from collections.abc import Mapping

from kd_mlflow.evaluation.comparison import Comparison
from kd_mlflow.evaluation.intervals import Interval
from kd_mlflow.table.dataset import Split


def percent(share: float) -> str:
    """Write a share with two decimals.

    >>> percent(0.978)
    '97.80 %'
    """
    return f"{100 * share:.2f} %"


def accuracy_with_error(metrics: Mapping[str, float], name: str) -> str:
    """Write a mean over seeds with its standard error."""
    return f"{percent(metrics[name])} ± {100 * metrics[f'{name}_sem']:.2f}"


def points(interval: Interval) -> str:
    """Write a difference of shares in points: +0.74 points (95 % interval +0.20 to +1.31)."""
    return (
        f"{100 * interval.value:+.2f} points "
        f"(95 % interval {100 * interval.low:+.2f} to {100 * interval.high:+.2f})"
    )


def gain_text(gain: Interval) -> str:
    """Say what distillation gained: nothing measurable where the interval holds 0."""
    if gain.decided:
        return points(gain)
    return (
        f"no measurable gain (95 % interval {100 * gain.low:+.2f} to {100 * gain.high:+.2f} points)"
    )


def p_values(comparison: Comparison) -> str:
    """P values of McNemar's exact test of the registered student against each other model."""
    return ", ".join(
        f"{comparison.summary[f'mcnemar_p_{other}']:.3g} against the {other.replace('_', ' ')}"
        for other in ("ensemble", *comparison.gains)
    )


def recovered_text(comparison: Comparison) -> str:
    """Say what share of the gap was recovered, or that there is no gap to recover."""
    if comparison.recovery is None:
        return "undefined: ensemble and baseline tie within the noise of these test rows"
    found = comparison.recovery
    return (
        f"{100 * found.value:.0f} % "
        f"(95 % interval {100 * found.low:.0f} to {100 * found.high:.0f} %)"
    )


def gap_text(gap: Interval) -> str:
    """Say whether students are as good as the ensemble, as far as these rows can tell."""
    if not gap.decided:
        return f"no measurable difference, accuracy gap {points(gap)}"
    return f"{'worse' if gap.value > 0 else 'better'} than the ensemble, accuracy gap {points(gap)}"


def gains_text(gains: Mapping[str, Interval]) -> str:
    """Say what distillation gained over each kind of baseline."""
    return "; ".join(
        f"over the {kind.replace('_', ' ')}: {gain_text(gain)}" for kind, gain in gains.items()
    )


def size_text(comparison: Comparison) -> str:
    """Say how large a student is, beside its teachers where they can be counted."""
    metrics = comparison.summary
    own = f"One student has {metrics['student_parameters']:,} parameters"
    if "compression_ratio" not in metrics:
        return f"{own}; its teachers' cannot be counted."
    return (
        f"{own}, the ensemble {metrics['ensemble_parameters']:,}: "
        f"{metrics['compression_ratio']:.1f} times smaller."
    )


def augmentation(method: str, factor: int) -> str:
    """Say what new rows the distilled students saw.

    >>> augmentation("mixup", 20)
    '20 new rows per training row by mixup'
    """
    return "no new rows" if method == "none" else f"{factor} new rows per training row by {method}"


def sides(split: Split) -> str:
    """Say how many rows each side of the split has."""
    return f"{len(split.train):,} train, {len(split.val):,} validation, {len(split.test):,} test"


def metrics_table(comparison: Comparison) -> str:
    """Accuracies, their gap and gains as a Markdown table."""
    metrics = comparison.summary
    strong = (
        "| strong baseline (mixup), mean ± standard error over seeds | "
        f"{accuracy_with_error(metrics, 'strong_baseline_test_accuracy')} |\n"
        if "strong_baseline" in comparison.gains
        else ""
    )
    gains = "".join(
        f"| gain over the {kind.replace('_', ' ')} | {gain_text(gain)} |\n"
        for kind, gain in comparison.gains.items()
    )
    return f"""\
| model | test accuracy |
|---|---|
| ensemble | {percent(metrics["ensemble_test_accuracy"])} |
| distilled, mean ± standard error over seeds | \
{accuracy_with_error(metrics, "distilled_test_accuracy")} |
| baseline, mean ± standard error over seeds | \
{accuracy_with_error(metrics, "baseline_test_accuracy")} |
{strong}| accuracy gap, ensemble - distilled | {points(comparison.gap)} |
| knowledge recovered | {recovered_text(comparison)} |
{gains}"""
