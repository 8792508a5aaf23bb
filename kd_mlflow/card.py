"""Sentences about a run: its description in the UI and a version's model card, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kd_mlflow.config import DistillConfig, TeachersConfig
from kd_mlflow.data import Split, Table
from kd_mlflow.evaluation import Comparison


def percent(share: float) -> str:
    """Write a share with two decimals: 97.80 %."""
    return f"{100 * share:.2f} %"


def accuracy_with_error(figures: Mapping[str, float], name: str) -> str:
    """Write a mean over seeds with its standard error."""
    return f"{percent(figures[name])} ± {100 * figures[f'{name}_sem']:.2f}"


def recovered_text(comparison: Comparison) -> str:
    """Say what share of the gap was recovered, or that there is no gap to recover."""
    if comparison.recovery is None:
        return "undefined: ensemble and baseline tie within the noise of these test rows"
    found = comparison.recovery
    return (
        f"{100 * found.recovered:.0f} % "
        f"(95 % interval {100 * found.low:.0f} to {100 * found.high:.0f} %)"
    )


def teachers_note(
    config: TeachersConfig, table: Table, split: Split, figures: Mapping[str, float]
) -> str:
    """Describe an ensemble's run."""
    hidden = ", ".join(map(str, config.teacher_hidden))
    return (
        f"{config.n_teachers} teachers ({hidden}) on **{table.name}** ({_sides(split)}), "
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


def student_note(config: DistillConfig, table: Table, seed: int, alpha: float) -> str:
    """Describe the run of one student; a baseline's alpha is 0."""
    taught = (
        f"Student distilled from the ensemble at T {config.temperature:g}, alpha {alpha:g},"
        if alpha
        else "Student trained on the labels alone,"
    )
    return f"{taught} on **{table.name}**: {config.student_epochs} epochs, seed {seed}.\n"


def distill_note(config: DistillConfig, table: Table, comparison: Comparison) -> str:
    """Describe a comparison's run."""
    figures = comparison.summary
    return (
        f"{config.n_students} students distilled on **{table.name}** at T {config.temperature:g}, "
        f"alpha {config.alpha:g}, against {config.n_students} baselines of the same seeds.\n\n"
        f"{_figures_table(comparison)}\n"
        f"One student has {figures['student_parameters']:,} parameters, the ensemble "
        f"{figures['ensemble_parameters']:,}: {figures['compression_ratio']:.1f} times smaller.\n"
    )


def model_card(
    config: DistillConfig, table: Table, split: Split, comparison: Comparison, *, model_name: str
) -> str:
    """The description of a registered version."""
    figures = comparison.summary
    classes = ", ".join(
        f"`{label}` {count}"
        for label, count in zip(table.classes, np.bincount(table.labels), strict=True)
    )
    return f"""\
# {model_name}: a student distilled from an ensemble

**Intended use.** Predicts `{table.target}` for rows like those of {table.name}; not validated on \
other populations.

**Data.** {table.name}, {len(table.labels):,} rows ({_sides(split)}), \
{table.features.shape[1]} columns. Rows a class: {classes}. Digest `{table.digest[:12]}`.

**Figures** on {len(split.test):,} test rows that nothing was fitted, chosen or stopped on:

{_figures_table(comparison)}
The registered student is the first seed's, chosen before its accuracy was known: \
{percent(figures["registered_test_accuracy"])}; it agrees with the ensemble on \
{percent(comparison.distilled[0]["test_agreement"])} of the test rows.

**Size.** {figures["student_parameters"]:,} parameters against {figures["ensemble_parameters"]:,}: \
{figures["compression_ratio"]:.1f} times smaller.

**Recipe.** Hidden layers {", ".join(map(str, config.student_hidden))}; T {config.temperature:g}, \
alpha {config.alpha:g}, {config.student_epochs} epochs, seed {config.seed}.

**Load it.**

```python
import mlflow

student = mlflow.pyfunc.load_model("models:/{model_name}@production")
student.predict(frame)  # prediction and one probability_<class> a class
```
"""


def _figures_table(comparison: Comparison) -> str:
    figures = comparison.summary
    return f"""\
| model | test accuracy |
|---|---|
| ensemble | {percent(figures["ensemble_test_accuracy"])} |
| distilled, mean ± standard error over seeds | \
{accuracy_with_error(figures, "distilled_test_accuracy")} |
| baseline, mean ± standard error over seeds | \
{accuracy_with_error(figures, "baseline_test_accuracy")} |
| knowledge recovered | {recovered_text(comparison)} |
"""


def _sides(split: Split) -> str:
    return f"{len(split.train):,} train, {len(split.val):,} validation, {len(split.test):,} test"
