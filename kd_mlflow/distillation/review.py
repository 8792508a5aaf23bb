"""What a reviewer asks of the registered student: how it decides, and what counts.

What a column counts is how much worse a model gets when its values are shuffled: Breiman (2001),
"Random Forests", Machine Learning 45, on rows that nothing was trained on. scikit-learn's
``permutation_importance`` gives the spread over shuffles alone; a reader needs the interval that so
few rows allow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow.config.entry_points import DistillConfig
from kd_mlflow.config.groups import GateOptions, ModelOptions
from kd_mlflow.distillation.boosting import Trees
from kd_mlflow.distillation.families import Family
from kd_mlflow.distillation.logits import class_probabilities, row_losses
from kd_mlflow.distillation.teachers import Teacher
from kd_mlflow.distillation.trained import TrainedStudents
from kd_mlflow.errors import ConfigError
from kd_mlflow.evaluation.intervals import Interval, loss_difference
from kd_mlflow.evaluation.thresholds import NONE, RULES, DecisionRule, decide
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding
from kd_mlflow.table.loading import Table

_log = logging.getLogger(__name__)

STUDENT, ENSEMBLE = "registered student", "ensemble"
"""Whom reviewers compare: who is served, and who taught it."""

Scorer = Callable[[pd.DataFrame], Tensor]
"""Scores raw rows.  Shape: n rows -> (n, classes), logits."""

OF_TWO = ("roc_auc", "average_precision")
"""Metrics of the gate that only two classes have."""

SHUFFLES = 2
"""How often each column is shuffled; more would only narrow what rows leave wide."""

MOST_ROWS, MOST_COLUMNS = 1_000, 30
"""Rows that are scored for each column, and columns that are shuffled: bounds the time it takes."""


class Importance(NamedTuple):
    """How much the log loss of each model rises when one column's values are shuffled, in nats."""

    column: str
    rise: Mapping[str, Interval]


def decision(config: DistillConfig, dataset: Dataset, trained: TrainedStudents) -> DecisionRule:
    """By what the registered student predicts a class, by the validation rows."""
    shares = class_probabilities(trained.score_validation_rows())
    rows = dataset.split.balance(dataset.table)["train"]
    return decide(str(config.decision_threshold), rows, shares, dataset.labels("val"))


def check_decision(config: ModelOptions, table: Table) -> None:
    """Refuse a number as threshold of a table that has not two classes.  Raises ConfigError.

    Warn where F1 is that of the class which has most rows: whoever asks for it seeks the other one.
    """
    rule, two = str(config.decision_threshold), len(table.classes) == 2
    if rule == "f1" and two and table.labels.mean() > 0.5:
        rare, common = table.classes
        _log.warning(
            "decision_threshold=f1 is about the second class in order, %r, which has most rows; "
            "rename the classes so that %r comes second, or take balanced_accuracy, which is about "
            "both",
            common,
            rare,
        )
    if rule not in (NONE, *RULES) and not two:
        raise ConfigError(
            f"decision_threshold={rule} is for tables of two classes; {table.target!r} has "
            f"{len(table.classes):,}: give {' or '.join(RULES)}, or leave it out"
        )


def check_gate_metric(config: GateOptions, table: Table) -> None:
    """Refuse a metric that is of two classes for a table of more.  Raises ConfigError."""
    if config.gate_metric in OF_TWO and len(table.classes) != 2:
        raise ConfigError(
            f"gate_metric={config.gate_metric} is for tables of two classes; {table.target!r} has "
            f"{len(table.classes):,}: give accuracy, balanced_accuracy or log_loss"
        )


def measured_columns(encoding: Encoding, boosting: Family | None) -> list[str]:
    """Columns that are worth a closer look: of many those that boosted trees gain most by."""
    names = [column.name for column in encoding.columns]
    if not isinstance(boosting, Trees):
        return names[:MOST_COLUMNS]
    most = np.argsort(-boosting.gains, kind="stable")[:MOST_COLUMNS]
    return [names[place] for place in np.sort(most)]


def column_importances(
    config: DistillConfig,
    dataset: Dataset,
    ensemble: Teacher,
    trained: TrainedStudents,
    columns: Sequence[str],
) -> tuple[Importance, ...]:
    """What shuffling each column costs student and ensemble on the validation rows."""
    registered, encoding = trained.registered, ensemble.encoding

    def of_student(rows: pd.DataFrame) -> Tensor:
        with torch.no_grad():
            scored: Tensor = registered(torch.from_numpy(encoding.encode(rows)))
        return scored

    def of_ensemble(rows: pd.DataFrame) -> Tensor:
        return ensemble.score(rows, config.averaging).cpu()

    scorers = {STUDENT: of_student, ENSEMBLE: of_ensemble}
    rows, labels = dataset.features("val"), dataset.labels("val")
    return importances(rows, labels, scorers, columns, dataset.groups("val"))


def importances(
    features: pd.DataFrame,
    labels: NDArray[np.int64],
    scorers: Mapping[str, Scorer],
    columns: Sequence[str],
    groups: NDArray[np.int64] | None = None,
) -> tuple[Importance, ...]:
    """The columns by what shuffling them costs the first model, the costliest first.

    All models see the same shuffles of the same rows, whose intervals are by ``groups`` where there
    are any.  Shape: n rows, labels and groups (n,).
    """
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(features))[:MOST_ROWS])
    rows, labels = features.iloc[chosen], labels[chosen]
    groups = None if groups is None else groups[chosen]
    before = {who: row_losses(score(rows)[None], labels) for who, score in scorers.items()}
    found = []
    for name in columns:
        each = [_shuffled(rows, name, rng) for _ in range(SHUFFLES)]
        shuffled = pd.concat(each, ignore_index=True)  # somebody's model may look rows up by it
        rise = {}
        for who, score in scorers.items():
            after = row_losses(score(shuffled).reshape(SHUFFLES, len(labels), -1), labels)
            rise[who] = loss_difference(after, before[who], groups)
        found.append(Importance(name, rise))
    first = next(iter(scorers))
    return tuple(sorted(found, key=lambda each: -each.rise[first].value))


def _shuffled(rows: pd.DataFrame, name: str, rng: np.random.Generator) -> pd.DataFrame:
    """The rows with one column's values in another order."""
    changed = rows.copy(deep=False)
    order = rng.permutation(len(rows))
    changed[name] = rows[name].iloc[order].set_axis(rows.index)
    return changed
