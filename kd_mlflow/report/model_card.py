"""The model card: what the page of a registered version says, in Markdown."""

from __future__ import annotations

import numpy as np

from kd_mlflow.distillation.evidence import Evidence
from kd_mlflow.evaluation.comparison import Comparison
from kd_mlflow.evaluation.intervals import wilson
from kd_mlflow.report.words import (
    augmentation,
    metrics_table,
    p_values,
    percent,
    sides,
    size_text,
)
from kd_mlflow.table.dataset import Split
from kd_mlflow.table.loading import Table

FEW_TEST_ROWS = 30
NAMED_CLASSES = 8
UNKNOWN_ROWS = (
    " Which rows these models were trained on is not known here: if test rows were among them, the "
    "ensemble's metrics are too good, and its students' may be."
)


def limits(table: Table, split: Split, comparison: Comparison) -> list[str]:
    """Say what the metrics of a comparison do not show, a sentence each."""
    rows = len(split.test)
    low, high = wilson(comparison.summary["ensemble_test_accuracy"], rows)
    few = [label for label, n in split.balance(table)["test"].items() if n < FEW_TEST_ROWS]
    more = f" and {len(few) - NAMED_CLASSES} more" if len(few) > NAMED_CLASSES else ""
    rare = (
        f"Classes with fewer than {FEW_TEST_ROWS} test rows, whose own metrics are guesses: "
        f"{', '.join(few[:NAMED_CLASSES])}{more}."
    )
    return [
        f"For rows like those of {table.name}; not validated on other populations, "
        "nor on later data.",
        f"{rows:,} test rows: the 95 % interval of any one model's accuracy is about "
        f"{100 * (high - low):.2f} points wide. Differences are measured on the same rows, "
        "and their intervals are narrower.",
        "Intervals and standard errors cover test rows and the students' seeds. "
        "The ensemble was trained once; another one would give other metrics.",
        *([rare] if few else []),
    ]


def model_card(evidence: Evidence, *, taught_by: str, ours: bool) -> str:
    """The description of a registered version; ``ours`` are teachers that were trained here."""
    config, comparison = evidence.config, evidence.comparison
    table, split = evidence.dataset.table, evidence.dataset.split
    model_name, metrics = config.model_name, comparison.summary
    classes = ", ".join(
        f"`{label}` {count}"
        for label, count in zip(table.classes, np.bincount(table.labels), strict=True)
    )
    return f"""\
# {model_name}: a student distilled from an ensemble

**Intended use.** Predicts `{table.target}` for rows like those of {table.name}.

**Data.** {table.name}, {len(table.labels):,} rows ({sides(split)}), \
{table.features.shape[1]} columns. Rows per class: {classes}. Digest `{table.digest[:12]}`.

**Metrics** on {len(split.test):,} test rows that nothing was fitted, chosen or stopped on:

{metrics_table(comparison)}
The registered student is the first seed's, chosen before its accuracy was known: \
{percent(metrics["registered_test_accuracy"])}; p values of McNemar's exact test are \
{p_values(comparison)}; it agrees with the ensemble on \
{percent(comparison.students["distilled"][0]["test_agreement"])} of the test rows.

**Teachers.** {taught_by}. {size_text(comparison)}{"" if ours else UNKNOWN_ROWS}

**Recipe.** `{config.recipe}`: hidden layers {", ".join(map(str, config.student_hidden))}; \
T {config.temperature:g}, alpha {config.alpha:g}, averaged {config.averaging}, \
{config.student_epochs} epochs, {config.schedule} learning rate {config.learning_rate:g}, \
{augmentation(config.augment, config.augment_factor)}, seed {config.seed}. \
Baselines have the same architecture, steps, schedule and seeds.

**Limits.** {" ".join(limits(table, split, comparison))}

**Load it.**

```python
import mlflow

student = mlflow.pyfunc.load_model("models:/{model_name}@production")
student.predict(frame)  # prediction and one probability_<class> per class
```

**Serve it**, and ask it over HTTP; or score a file.

```
mlflow models serve --env-manager local -m models:/{model_name}@production -p 5001
curl -s localhost:5001/invocations -H 'Content-Type: text/csv' --data-binary @rows.csv
mlflow models predict --env-manager local -m models:/{model_name}@production -t csv -i rows.csv
```
"""
