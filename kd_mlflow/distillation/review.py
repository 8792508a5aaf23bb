"""What a reviewer asks of the registered student: how it decides, what counts, where it fails."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kd_mlflow.config.entry_points import DistillConfig
from kd_mlflow.config.groups import ModelOptions
from kd_mlflow.distillation.boosting import Trees
from kd_mlflow.distillation.families import Family
from kd_mlflow.distillation.importance import MOST_COLUMNS, Importance, importances
from kd_mlflow.distillation.logits import Logits, class_probabilities, row_losses, second_class
from kd_mlflow.distillation.segments import Weakest, weakest_segments
from kd_mlflow.distillation.teachers import Teacher
from kd_mlflow.distillation.trained import TrainedStudents
from kd_mlflow.errors import ConfigError
from kd_mlflow.evaluation.class_weights import ClassWeight, choose_weights, weighed
from kd_mlflow.evaluation.thresholds import (
    NONE,
    RULES,
    Cutoff,
    Threshold,
    choose_threshold,
    worth_knowing,
)
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding
from kd_mlflow.table.loading import Table
from kd_mlflow.table.profile import Profile

STUDENT, ENSEMBLE = "registered student", "ensemble"
"""Whom reviewers compare: who is served, and who taught it."""


def decision_threshold(
    config: DistillConfig, dataset: Dataset, trained: TrainedStudents
) -> Cutoff | None:
    """The threshold that is asked for, or of more than two classes the weights.

    They are the registered student's, by the validation rows.
    """
    rule = str(config.decision_threshold)
    if rule == NONE:
        return None
    logits, labels = trained.score_validation_rows(), dataset.labels("val")
    if len(dataset.table.classes) == 2:
        return choose_threshold(rule, second_class(logits), labels)
    return choose_weights(rule, class_probabilities(logits), labels)


def compared_thresholds(
    dataset: Dataset, trained: TrainedStudents, own: Cutoff | None
) -> list[tuple[Threshold, str]]:
    """What thresholds of the registered student are worth on the validation rows."""
    if isinstance(own, tuple) or len(dataset.table.classes) != 2:
        return []
    second = second_class(trained.score_validation_rows())
    return worth_knowing(second, dataset.labels("val"), own)


def compared_weights(
    dataset: Dataset, trained: TrainedStudents, own: Cutoff | None
) -> list[ClassWeight]:
    """What the registered student's weights make of each class on the validation rows."""
    if not isinstance(own, tuple):
        return []
    shares = class_probabilities(trained.score_validation_rows())
    return weighed(list(map(str, dataset.table.classes)), own, shares, dataset.labels("val"))


def check_decision(config: ModelOptions, table: Table) -> None:
    """Refuse a number as threshold of a table that has not two classes.  Raises ConfigError."""
    rule = str(config.decision_threshold)
    if rule not in (NONE, *RULES) and len(table.classes) != 2:
        raise ConfigError(
            f"decision_threshold={rule} is for tables of two classes; {table.target!r} has "
            f"{len(table.classes):,}: give {' or '.join(RULES)}, or leave it out"
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


def weakest_rows(
    logits: Logits,
    features: pd.DataFrame,
    encoding: Encoding,
    profile: Profile,
    columns: Sequence[str],
) -> Weakest:
    """On which test rows the registered student is worst."""
    both = torch.stack([logits.students["distilled"][logits.registered], logits.ensemble])
    losses, ensemble_losses = row_losses(both, logits.labels)
    return weakest_segments(
        features,
        encoding,
        profile,
        columns,
        losses=losses,
        hits=logits.classes("distilled")[logits.registered] == logits.labels,
        ensemble_losses=ensemble_losses,
        groups=logits.groups,
    )
