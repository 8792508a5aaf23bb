"""What a comparison of students with their ensemble found, scored once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kd_mlflow.config import DistillConfig
from kd_mlflow.distillation.families import Family
from kd_mlflow.distillation.menu import Trial
from kd_mlflow.distillation.student_module import StudentModule
from kd_mlflow.distillation.students import TransferSet
from kd_mlflow.distillation.teachers import Part, Teacher
from kd_mlflow.evaluation.comparison import Comparison, Logits, evaluate_students
from kd_mlflow.population.history import History
from kd_mlflow.population.network import Population
from kd_mlflow.population.sampling import Inputs
from kd_mlflow.scoring import Network
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding, Scaler
from kd_mlflow.table.example_rows import EXAMPLE_ROWS, made_rows


@dataclass(frozen=True, kw_only=True)
class TrainedStudents:
    """A trained population of students: as many of each kind, one kind after the other.

    ``encoding`` is that of their inputs, ``trials`` is how they were chosen, the kept one last.
    """

    population: Population
    encoding: Encoding
    kinds: Sequence[str]
    history: History
    lessons: TransferSet
    trials: Sequence[Trial] = ()

    @property
    def registered(self) -> StudentModule:
        """The first distilled student with its scaler, as it is served."""
        return StudentModule(self.encoding, self.population.member(0)).eval()


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that figures and report show of a comparison.

    Columns of the curves in ``history`` are grouped by kind, in the order of ``logits.students``;
    ``teacher_accuracies`` on test rows is empty where teachers are unknown one by one;
    ``parts`` say what the teacher is made of; ``example`` are rows of raw columns that the student
    can be asked with.
    """

    config: DistillConfig
    dataset: Dataset
    encoding: Encoding
    comparison: Comparison
    logits: Logits
    history: History
    lessons: TransferSet
    example: pd.DataFrame
    parts: Sequence[Part]
    trials: Sequence[Trial] = ()
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
    boosting: Family | None = None,
    teacher_accuracies: Sequence[float] = (),
) -> Evidence:
    """Score the test rows once and keep what figures and report show of it.

    The registered student answers as it is served. ``boosting`` is one boosted model, to compare
    with.
    """
    features = dataset.features("test")
    by_kind = _scored(trained, ensemble.encoding, features).chunk(len(trained.kinds))
    logits = Logits(
        labels=dataset.labels("test"),
        ensemble=ensemble.score(features, config.averaging),
        students=dict(zip(trained.kinds, by_kind, strict=True)),
        boosting=boosting.logits(features)[0] if boosting else None,
    )
    table = dataset.table
    counts = np.bincount(table.labels, minlength=len(table.classes)).tolist()
    comparison = evaluate_students(
        logits.students,
        logits.ensemble,
        logits.labels,
        student_parameters=trained.population.parameters_per_member,
        ensemble_parameters=ensemble.parameters,
        class_rows=dict(zip(map(str, table.classes), counts, strict=True)),
        boosting=logits.boosting,
    )
    example = (
        made_rows(table.features, trained.encoding.columns)
        if config.example_rows == "made"
        else dataset.features("train").head(EXAMPLE_ROWS)
    )
    return Evidence(
        config=config,
        dataset=dataset,
        encoding=trained.encoding,
        comparison=comparison,
        logits=logits,
        history=trained.history,
        lessons=trained.lessons,
        example=example,
        parts=ensemble.parts,
        trials=trained.trials,
        teacher_accuracies=teacher_accuracies,
    )


def _scored(trained: TrainedStudents, encoding: Encoding, features: pd.DataFrame) -> Tensor:
    """Score raw rows with each student.  Shape: n rows -> (k, n, classes)."""
    encoded = torch.from_numpy(encoding.encode(features))
    logits = trained.population.logits(Inputs(encoded, Scaler(trained.encoding)))
    served = Network(trained.registered.arrays)
    logits[0] = torch.from_numpy(served(encoded.numpy()))
    return logits
