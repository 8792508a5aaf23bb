"""What a comparison of students with their ensemble found, scored once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kd_mlflow.config import DistillConfig
from kd_mlflow.distillation.students import TransferSet
from kd_mlflow.distillation.teachers import Teacher
from kd_mlflow.evaluation.comparison import Comparison, Logits, evaluate_students
from kd_mlflow.population.network import Population
from kd_mlflow.population.training import History
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding
from kd_mlflow.table.example_rows import EXAMPLE_ROWS, made_rows


@dataclass(frozen=True, kw_only=True)
class TrainedStudents:
    """A trained population of students: as many of each kind, one kind after the other."""

    population: Population
    kinds: Sequence[str]
    history: History
    lessons: TransferSet


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that figures and report show of a comparison.

    Columns of the curves in ``history`` are grouped by kind, in the order of ``logits.students``;
    ``teacher_accuracies`` on test rows is empty where teachers are unknown one by one;
    ``example`` are rows of raw columns that the student can be asked with.
    """

    config: DistillConfig
    dataset: Dataset
    encoding: Encoding
    comparison: Comparison
    logits: Logits
    history: History
    lessons: TransferSet
    example: pd.DataFrame
    teacher_accuracies: Sequence[float] = ()

    @property
    def seeds(self) -> int:
        """How many students of each kind there are."""
        return len(self.comparison.students["distilled"])

    @property
    def test_rows(self) -> int:
        """How many rows every model was compared on."""
        return len(self.logits.labels)


def compare(
    config: DistillConfig,
    dataset: Dataset,
    ensemble: Teacher,
    trained: TrainedStudents,
    *,
    teacher_accuracies: Sequence[float] = (),
) -> Evidence:
    """Score the test rows once and keep what figures and report show of it."""
    features, population = dataset.features("test"), trained.population
    by_kind = population.logits(ensemble.encoding.inputs(features)).chunk(len(trained.kinds))
    logits = Logits(
        labels=dataset.labels("test"),
        ensemble=ensemble.score(features, config.averaging),
        students=dict(zip(trained.kinds, by_kind, strict=True)),
    )
    table = dataset.table
    counts = np.bincount(table.labels, minlength=len(table.classes)).tolist()
    comparison = evaluate_students(
        logits.students,
        logits.ensemble,
        logits.labels,
        student_parameters=population.parameters_per_member,
        ensemble_parameters=ensemble.parameters,
        class_rows=dict(zip(map(str, table.classes), counts, strict=True)),
    )
    example = (
        made_rows(table.features, ensemble.encoding.columns)
        if config.example_rows == "made"
        else dataset.features("train").head(EXAMPLE_ROWS)
    )
    return Evidence(
        config=config,
        dataset=dataset,
        encoding=ensemble.encoding,
        comparison=comparison,
        logits=logits,
        history=trained.history,
        lessons=trained.lessons,
        example=example,
        teacher_accuracies=teacher_accuracies,
    )
