"""Sentences about a run: its description in the UI and a version's model card, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kd_mlflow.config import DistillConfig, SweepConfig, TeachersConfig
from kd_mlflow.data import Split, Table
from kd_mlflow.diagnosis import wilson
from kd_mlflow.evaluation import Comparison
from kd_mlflow.metrics import Interval
from kd_mlflow.students import Member

FEW_TEST_ROWS = 30
NAMED_CLASSES = 8
UNKNOWN_ROWS = (
    " Which rows these models were trained on is not known here: if test rows were among them, the "
    "ensemble's figures are too good, and its students' may be."
)


def percent(share: float) -> str:
    """Write a share with two decimals: 97.80 %."""
    return f"{100 * share:.2f} %"


def accuracy_with_error(figures: Mapping[str, float], name: str) -> str:
    """Write a mean over seeds with its standard error."""
    return f"{percent(figures[name])} ± {100 * figures[f'{name}_sem']:.2f}"


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


def limits(table: Table, split: Split, comparison: Comparison) -> list[str]:
    """Say what the figures of a comparison do not show, a sentence each."""
    rows = len(split.test)
    low, high = wilson(comparison.summary["ensemble_test_accuracy"], rows)
    few = [label for label, n in split.balance(table)["test"].items() if n < FEW_TEST_ROWS]
    more = f" and {len(few) - NAMED_CLASSES} more" if len(few) > NAMED_CLASSES else ""
    rare = (
        f"Classes with fewer than {FEW_TEST_ROWS} test rows, whose own figures are guesses: "
        f"{', '.join(few[:NAMED_CLASSES])}{more}."
    )
    return [
        f"For rows like those of {table.name}; not validated on other populations, "
        "nor on later data.",
        f"{rows:,} test rows: the 95 % interval of any one model's accuracy is about "
        f"{100 * (high - low):.2f} points wide. Differences are measured on the same rows, "
        "and their intervals are narrower.",
        "Intervals and standard errors cover test rows and the students' seeds. "
        "The ensemble was trained once; another one would give other figures.",
        *([rare] if few else []),
    ]


def teachers_note(
    config: TeachersConfig, table: Table, split: Split, figures: Mapping[str, float]
) -> str:
    """Describe an ensemble's run."""
    hidden = ", ".join(map(str, config.teacher_hidden))
    return (
        f"{config.n_teachers} teachers ({hidden}) on **{table.name}** ({sides(split)}), "
        f"{config.teacher_epochs} epochs each.\n\n"
        f"Ensemble accuracy **{percent(figures['ensemble_test_accuracy'])}** on test rows; "
        f"teachers {percent(figures['mean_teacher_test_accuracy'])} on average, "
        f"{percent(figures['best_teacher_test_accuracy'])} at best.\n"
    )


def teacher_note(config: TeachersConfig, table: Table, seed: int) -> str:
    """Describe one teacher's run."""
    return (
        f"One of {config.n_teachers} teachers on **{table.name}**: "
        f"{config.teacher_epochs} epochs, seed {seed}.\n"
    )


def student_note(config: DistillConfig, table: Table, member: Member) -> str:
    """Describe the run of one student; a baseline's alpha is 0."""
    if member.taught:
        taught = f"distilled from the ensemble at T {member.temperature:g}, alpha {member.alpha:g},"
    elif member.mixup:
        taught = f"trained on the labels alone, with mixup (Beta {member.mixup:g}),"
    else:
        taught = "trained on the labels alone,"
    return (
        f"Student {taught} on **{table.name}**: {config.student_epochs} epochs, "
        f"seed {member.seed}.\n"
    )


def cell_note(config: SweepConfig, table: Table, own: Mapping[str, object]) -> str:
    """Describe the run of one cell of a sweep."""
    return (
        f"{config.n_students} students ({own['student_hidden']}) distilled on **{table.name}** at "
        f"T {own['temperature']:g}, alpha {own['alpha']:g}; figures and curves are their means.\n"
    )


def sweep_note(config: SweepConfig, table: Table, choice: Mapping[str, object], cells: int) -> str:
    """Describe a sweep's run."""
    size = choice.get("student_hidden")
    small = (
        f"The smallest student within {100 * config.tolerance:g} points of the ensemble on "
        f"validation rows has hidden layers {size}.\n"
        if size
        else ""
    )
    return (
        f"{cells} settings x {config.n_students} seeds on **{table.name}**; least "
        f"calibrated validation log loss: "
        f"T {choice['temperature']:g}, alpha {choice['alpha']:g}.\n\n{small}"
    )


def distill_note(config: DistillConfig, table: Table, comparison: Comparison) -> str:
    """Describe a comparison's run."""
    return (
        f"{config.n_students} students distilled on **{table.name}** at T {config.temperature:g}, "
        f"alpha {config.alpha:g}, against {config.n_students} baselines of the same seeds.\n\n"
        f"{_figures_table(comparison)}\n"
        f"{size_text(comparison)}\n"
    )


def size_text(comparison: Comparison) -> str:
    """Say how large a student is, beside its teachers where they can be counted."""
    figures = comparison.summary
    own = f"One student has {figures['student_parameters']:,} parameters"
    if "compression_ratio" not in figures:
        return f"{own}; its teachers' cannot be counted."
    return (
        f"{own}, the ensemble {figures['ensemble_parameters']:,}: "
        f"{figures['compression_ratio']:.1f} times smaller."
    )


def model_card(
    config: DistillConfig,
    table: Table,
    split: Split,
    comparison: Comparison,
    *,
    model_name: str,
    teachers: str,
    ours: bool,
) -> str:
    """The description of a registered version; ``ours`` are teachers that were trained here."""
    figures = comparison.summary
    classes = ", ".join(
        f"`{label}` {count}"
        for label, count in zip(table.classes, np.bincount(table.labels), strict=True)
    )
    return f"""\
# {model_name}: a student distilled from an ensemble

**Intended use.** Predicts `{table.target}` for rows like those of {table.name}.

**Data.** {table.name}, {len(table.labels):,} rows ({sides(split)}), \
{table.features.shape[1]} columns. Rows a class: {classes}. Digest `{table.digest[:12]}`.

**Figures** on {len(split.test):,} test rows that nothing was fitted, chosen or stopped on:

{_figures_table(comparison)}
The registered student is the first seed's, chosen before its accuracy was known: \
{percent(figures["registered_test_accuracy"])}; p values of McNemar's exact test are \
{p_values(comparison)}; it agrees with the ensemble on \
{percent(comparison.students["distilled"][0]["test_agreement"])} of the test rows.

**Teachers.** {teachers}. {size_text(comparison)}{"" if ours else UNKNOWN_ROWS}

**Recipe.** `{config.recipe}`: hidden layers {", ".join(map(str, config.student_hidden))}; \
T {config.temperature:g}, alpha {config.alpha:g}, averaged {config.averaging}, \
{config.student_epochs} epochs, {config.schedule} learning rate {config.learning_rate:g}, \
{augmentation(config)}, seed {config.seed}. \
Baselines have the same architecture, steps, schedule and seeds.

**Limits.** {" ".join(limits(table, split, comparison))}

**Load it.**

```python
import mlflow

student = mlflow.pyfunc.load_model("models:/{model_name}@production")
student.predict(frame)  # prediction and one probability_<class> a class
```

**Serve it**, and ask it over HTTP; or score a file.

```
mlflow models serve --env-manager local -m models:/{model_name}@production -p 5001
curl -s localhost:5001/invocations -H 'Content-Type: text/csv' --data-binary @rows.csv
mlflow models predict --env-manager local -m models:/{model_name}@production -t csv -i rows.csv
```
"""


def against_production(
    version: str | None, accuracy: float | None, figures: Mapping[str, float]
) -> str:
    """Compare a candidate with the version that was in production, on the candidate's test rows."""
    own = percent(figures["registered_test_accuracy"])
    if version is None:
        return f"Nothing was in production before; this version scores {own} on its test rows."
    if accuracy is None:
        return f"Version {version}, in production before, cannot score the test rows of this one."
    return (
        f"On the same test rows this version scores {own}, version {version}, in production "
        f"before, {percent(accuracy)}."
    )


def _figures_table(comparison: Comparison) -> str:
    figures = comparison.summary
    strong = (
        "| strong baseline (mixup), mean ± standard error over seeds | "
        f"{accuracy_with_error(figures, 'strong_baseline_test_accuracy')} |\n"
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
| ensemble | {percent(figures["ensemble_test_accuracy"])} |
| distilled, mean ± standard error over seeds | \
{accuracy_with_error(figures, "distilled_test_accuracy")} |
| baseline, mean ± standard error over seeds | \
{accuracy_with_error(figures, "baseline_test_accuracy")} |
{strong}| accuracy gap, ensemble - distilled | {points(comparison.gap)} |
| knowledge recovered | {recovered_text(comparison)} |
{gains}"""


def augmentation(config: DistillConfig) -> str:
    """Say what new rows the distilled students saw."""
    if config.augment == "none":
        return "no new rows"
    return f"{config.augment_factor} new rows a training row by {config.augment}"


def sides(split: Split) -> str:
    """Say how many rows each side of the split has."""
    return f"{len(split.train):,} train, {len(split.val):,} validation, {len(split.test):,} test"
