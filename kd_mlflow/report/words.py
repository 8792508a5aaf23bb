"""Numbers and names as phrases, used by every text that people read. Values in, words out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from kd_mlflow.distillation.menu import Trial
from kd_mlflow.distillation.teachers import Part
from kd_mlflow.evaluation import intervals
from kd_mlflow.evaluation.comparison import Comparison, majority_share
from kd_mlflow.evaluation.intervals import ACCURACY, LOG_LOSS, Interval, known_difference, reverse
from kd_mlflow.evaluation.thresholds import logged_cutoff
from kd_mlflow.report.markdown import first_of, markdown_table, one_line, percent, safe
from kd_mlflow.table.dataset import Dataset, Split
from kd_mlflow.table.groups import GroupSizes

BOOSTING = "boosted trees alone"
"""What is trained beside the students, for people who read of it."""

LISTED_PARTS = 6
LISTED_GAINS = 2
LISTED_CLASSES = 3


def composition(parts: Sequence[Part]) -> str:
    """Say what an ensemble is made of.

    >>> composition([Part("networks", 6, 0.75), Part("boosted models", 4, 0.25)])
    '6 networks 75 %, 4 boosted models 25 %'
    """
    named = [
        f"{f'{part.models} ' if part.models > 1 else ''}{part.name} {100 * part.share:.0f} %"
        for part in parts
    ]
    return first_of(named, LISTED_PARTS)


def trial_text(trial: Trial) -> str:
    """Say what a student of the menu is and how near its teacher it came."""
    widths = ", ".join(map(str, trial.hidden))
    return (
        f"{inputs_text(trial.bins)}, hidden layers {widths}, T {trial.temperature:g}: "
        f"{trial.parameters:,} parameters, divergence from the ensemble {trial.divergence:.4f} nats"
    )


def inputs_text(bins: int) -> str:
    """Say what inputs a student has.

    >>> inputs_text(0), inputs_text(16)
    ('plain inputs', 'inputs of 16 bins')
    """
    return f"inputs of {bins} bins" if bins else "plain inputs"


def accuracy_with_error(metrics: Mapping[str, float], name: str) -> str:
    """Write an accuracy, of several seeds their mean with its standard error."""
    error = metrics.get(f"{name}_sem")
    return percent(metrics[name]) + (f" ± {100 * error:.2f}" if error else "")


def gain_text(gain: Interval) -> str:
    """Say what distillation gained: nothing measurable where the interval holds 0."""
    return known_difference(gain, ACCURACY, "no measurable gain")


def both_gains_text(accuracy: Interval, loss: Interval) -> str:
    """Say what was gained in accuracy and in log loss, or that nothing measurable was."""
    return f"{gain_text(accuracy)}; log loss {loss_text(loss)}"


def both_gaps_text(accuracy: Interval, loss: Interval) -> str:
    """Say how students are beside the ensemble in accuracy and in log loss, of the gaps to it."""
    return f"{gap_text(accuracy)}; log loss {loss_text(reverse(loss))}"


def loss_text(gain: Interval) -> str:
    """Say how much lower a log loss is, or that it is not measurably lower.

    >>> loss_text(Interval(value=0.0123, low=0.008, high=0.017))
    '0.0123 lower (95 % interval 0.0080 to 0.0170)'
    >>> loss_text(Interval(value=0.001, low=-0.002, high=0.004))
    'not measurably different (95 % interval 0.0020 higher to 0.0040 lower)'
    """
    return known_difference(gain, LOG_LOSS, "not measurably different")


def warning_text(comparison: Comparison) -> str:
    """Say what beats the students beyond noise, or that all rows are answered alike; else ""."""
    found = [
        f"{_alone(kind)} measurably better: {_harm_text(*comparison.over[kind])}"
        for kind in comparison.worse_than[:LISTED_GAINS]
    ]
    warnings = [f"do not use this student: {'; '.join(found)}"] if found else []
    if comparison.learnt and comparison.learnt.low <= 0:
        warnings.append("not measurably better than the classes' shares alone")
    if (constant := comparison.constant) is not None:
        warnings.append(
            f"the registered student answers {one_line(constant, 30)} for every test row"
        )
    return "; ".join(warnings)


def _alone(kind: str) -> str:
    if kind == "boosting":
        return "boosted trees alone are"
    return f"the {kind_text(kind)}, trained without teachers, is"


def registered_text(comparison: Comparison, rule: str) -> str:
    """Say which seed's student is registered, and why that one: no test row was asked."""
    nearest = "the nearest to the ensemble on validation rows"
    why = nearest if rule == "nearest" else "whatever its accuracy"
    return f"seed {comparison.registered + 1} of {len(comparison.students['distilled'])}, {why}"


def _harm_text(accuracy: Interval, loss: Interval) -> str:
    """Say by what a baseline beats the students: by each measure that shows it."""
    shown = [(reverse(accuracy), ACCURACY, ""), (reverse(loss), LOG_LOSS, "log loss ")]
    return ", ".join(
        name + intervals.difference(gain, measure) for gain, measure, name in shown if gain.low > 0
    )


def p_values(comparison: Comparison) -> str:
    """P values of McNemar's exact test of the registered student against each other model."""
    found = [
        f"{comparison.summary[f'mcnemar_p_{other}']:.3g} against the {kind_text(other)}"
        for other in ("ensemble", *comparison.gains)
    ]
    return first_of(found, 1 + LISTED_GAINS)


def recovered_text(comparison: Comparison) -> str:
    """Say what share of the gap was recovered, or that there is no gap to recover."""
    if comparison.recovery is None:
        metrics = comparison.summary
        if metrics["ensemble_test_accuracy"] < metrics["baseline_test_accuracy"]:
            return "undefined: on these test rows the baseline is not worse than the ensemble"
        return "undefined: ensemble and baseline tie within the noise of these test rows"
    value, low, high = (f"{100 * share:.0f}" for share in vars(comparison.recovery).values())
    return f"{value} % (95 % interval {low} to {high} %)"


def gap_text(gap: Interval) -> str:
    """Say whether students are as good as the ensemble, as far as these rows can tell."""
    return known_difference(reverse(gap), ACCURACY, "no measurable difference")


def gains_text(gains: Mapping[str, Interval]) -> str:
    """Say what distillation gained over each kind of baseline."""
    return "; ".join(
        f"over the {kind_text(kind)}: {gain_text(gain)}" for kind, gain in gains.items()
    )


def kind_text(kind: str) -> str:
    """Write a kind of model as words.

    >>> kind_text("strong_baseline")
    'strong baseline'
    """
    return one_line(kind.replace("_", " "))


def size_text(comparison: Comparison) -> str:
    """Say how large a student is, beside its teachers where they can be counted."""
    metrics = comparison.summary
    own = f"One student has {metrics['student_parameters']:,} parameters"
    if "compression_ratio" not in metrics:
        return f"{own}; its teachers' cannot be counted."
    ensemble, ratio = metrics["ensemble_parameters"], metrics["compression_ratio"]
    return f"{own}, the ensemble {ensemble:,}: {smaller_text(ratio)}."


def smaller_text(ratio: float) -> str:
    """Say how many times smaller a student is than its ensemble, or larger.

    >>> smaller_text(63.3), smaller_text(0.4)
    ('63.3 times smaller', '2.5 times larger')
    """
    return f"{ratio:,.1f} times smaller" if ratio >= 1 else f"{1 / ratio:,.1f} times larger"


def augmentation(method: str, factor: int) -> str:
    """Say what new rows the distilled students saw.

    >>> augmentation("mixup", 20)
    '20 new rows per training row by mixup'
    """
    return "no new rows" if method == "none" else f"{factor} new rows per training row by {method}"


def sides(split: Split) -> str:
    """Say how many rows each side of the split has."""
    return f"{len(split.train):,} train, {len(split.val):,} validation, {len(split.test):,} test"


def sizes_text(sizes: GroupSizes, columns: str) -> str:
    """Say how many groups there are, and how large.

    >>> sizes_text(GroupSizes(600, 12, 8.0), "customer")
    '600 groups by customer: median 8 rows, largest 12'
    """
    return (
        f"{sizes.groups:,} groups by {one_line(columns, 60)}: median {sizes.median:,g} rows, "
        f"largest {sizes.largest:,}"
    )


def together(dataset: Dataset) -> list[tuple[str, str]]:
    """How a table is split by its own columns, in words; nothing of one that is split by rows."""
    table, found = dataset.table, []
    if table.groups is not None:
        sizes = sizes_text(GroupSizes.of(table.groups), ", ".join(table.group_columns))
        tested = GroupSizes.of(table.groups[dataset.split.test]).groups
        found.append(("groups", f"{sizes}; {tested:,} to test on, intervals are by groups"))
    if table.times is not None:
        latest = f"the latest by {one_line(table.time_column, 60)} to test on"
        found.append(("split by time", latest))
    return found


def metrics_table(comparison: Comparison) -> str:
    """Accuracies, their gap and gains as Markdown."""
    metrics, over = comparison.summary, comparison.over
    listed = [*list(comparison.gains)[:LISTED_GAINS], *(["boosting"] if "boosting" in over else [])]
    rows = [("ensemble", percent(metrics["ensemble_test_accuracy"]))]
    kinds = {"distilled": "distilled", "baseline": "baseline"}
    if "strong_baseline" in comparison.gains:
        kinds["strong_baseline"] = "strong baseline (mixup)"
    for kind, name in kinds.items():
        mean = accuracy_with_error(metrics, f"{kind}_test_accuracy")
        rows.append((f"{name}, mean ± standard error over seeds", mean))
    if "boosting" in over:
        rows.append((BOOSTING, percent(metrics["boosting_test_accuracy"])))
    rows += [
        ("students against the ensemble", both_gaps_text(comparison.gap, comparison.loss_gap)),
        ("knowledge recovered", recovered_text(comparison)),
    ]
    for kind in listed:
        name = BOOSTING if kind == "boosting" else kind_text(kind)
        rows.append((f"gain over the {name}", both_gains_text(*over[kind])))
    if more := len(over) - len(listed):
        rows.append((f"gains over {more:,} more", "see report.html"))
    table = markdown_table(["model", "test accuracy"], rows)
    return "\n\n".join(filter(None, [imbalance_text(comparison), table]))


def threshold_text(comparison: Comparison) -> str:
    """Say by what a class is predicted; empty where the likeliest is."""
    cutoff = logged_cutoff(comparison.summary, len(comparison.class_rows))
    if isinstance(cutoff, tuple):
        return "all models with one weight per class, chosen for the student"
    if cutoff is None:
        return ""
    second = one_line(list(comparison.class_rows)[1], 30)
    return f"all models at a threshold of {cutoff:.4f} for {second!r}, chosen for the student"


def majority_text(comparison: Comparison) -> str:
    """Say that one class has most of the rows: 97.3 % of the rows are of one class."""
    return f"{100 * majority_share(comparison.class_rows):.1f} % of the rows are of one class"


def rare_recalls(comparison: Comparison, models: Iterable[str]) -> list[tuple[str, int, list[str]]]:
    """Each class, its rows in the whole table and models' recalls, the rarest class first."""
    by_class = zip(*(comparison.recalls[who] for who in models), strict=True)
    classes = zip(comparison.class_rows.items(), by_class, strict=True)
    found = [(name, rows, list(map(recall_text, each))) for (name, rows), each in classes]
    return sorted(found, key=lambda each: each[1])


def recall_text(recall: float) -> str:
    """Write a recall; a class without a test row has none."""
    return "-" if np.isnan(recall) else percent(recall)


def imbalance_text(comparison: Comparison) -> str:
    """Balanced accuracy and recall of the rarest classes as Markdown; empty for balanced tables."""
    if not comparison.imbalanced:
        return ""
    models = ["ensemble", "distilled", *list(comparison.gains)[:LISTED_GAINS], "registered"]
    metrics = [comparison.summary[f"{who}_test_balanced_accuracy"] for who in models]
    classes = rare_recalls(comparison, models)
    rows = [["balanced accuracy", *map(percent, metrics)]]
    for name, _, recalls in classes[:LISTED_CLASSES]:
        rows.append([f"recall of class {safe(name, 40)}", *recalls])
    table = markdown_table(["test metric", *map(kind_text, models)], rows)
    more = len(classes) - LISTED_CLASSES
    left_out = f"; {more:,} more classes are in class_recall.json" if more > 0 else ""
    return (
        f"{majority_text(comparison)}, so accuracy flatters whoever answers that class. "
        f"Students' metrics are means over seeds; rarest classes first{left_out}.\n\n{table}"
    )


def counts_text(class_rows: Mapping[str, int]) -> str:
    """Rows per class; of many classes how many there are, the largest and the smallest."""
    ordered = sorted(class_rows.items(), key=lambda item: -item[1])

    def listed(items: Sequence[tuple[str, int]]) -> str:
        return ", ".join(f"{safe(name, 40)} ({count:,})" for name, count in items)

    if len(ordered) <= 2 * LISTED_CLASSES:
        return f"Rows per class: {listed(list(class_rows.items()))}."
    return (
        f"{len(ordered):,} classes; the largest: {listed(ordered[:LISTED_CLASSES])}; "
        f"the smallest: {listed(ordered[-LISTED_CLASSES:])}."
    )
