"""What a comparison of students with their ensemble found, scored once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow.config import DecisionOptions, DistillConfig
from kd_mlflow.distillation.families import Family
from kd_mlflow.distillation.menu import Trial
from kd_mlflow.distillation.student_module import StudentModule
from kd_mlflow.distillation.students import TransferSet
from kd_mlflow.distillation.teachers import Part, Teacher
from kd_mlflow.errors import ConfigError
from kd_mlflow.evaluation.comparison import Comparison, Logits, evaluate_students
from kd_mlflow.evaluation.thresholds import ARGMAX, NONE, Thresholds, choose_threshold
from kd_mlflow.population.history import History
from kd_mlflow.population.network import Population
from kd_mlflow.population.sampling import Inputs
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding, Scaler
from kd_mlflow.table.example_rows import EXAMPLE_ROWS, made_rows
from kd_mlflow.table.loading import Table
from kd_mlflow.table.profile import Profile, fit_profile
from kd_mlflow.table.schema import CallerSchema, caller_schema


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
    can be asked with; ``profile`` is of its training rows.
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
    profile: Profile
    trials: Sequence[Trial] = ()
    teacher_accuracies: Sequence[float] = ()

    @property
    def seeds(self) -> int:
        """How many students of each kind there are."""
        return len(self.comparison.students["distilled"])

    @property
    def schema(self) -> CallerSchema:
        """What a caller of the student must send."""
        return caller_schema(self.encoding, self.profile)

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
    by_kind = _scored(trained, ensemble.encoding.encode(features)).chunk(len(trained.kinds))
    thresholds = decision_thresholds(config, dataset, trained, boosting)
    logits = Logits(
        labels=dataset.labels("test"),
        ensemble=ensemble.score(features, config.averaging),
        students=dict(zip(trained.kinds, by_kind, strict=True)),
        boosting=boosting.logits(features)[0] if boosting else None,
        thresholds=thresholds,
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
        thresholds=thresholds,
    )
    example = (
        made_rows(table.features, trained.encoding.columns)
        if config.example_rows == "made"
        else dataset.features("train").head(EXAMPLE_ROWS)
    )
    return Evidence(
        config=config,
        dataset=dataset,
        encoding=replace(trained.encoding, threshold=thresholds.registered),
        comparison=comparison,
        logits=logits,
        history=trained.history,
        lessons=trained.lessons,
        example=example,
        parts=ensemble.parts,
        profile=fit_profile(dataset.features("train"), dataset.labels("train"), trained.encoding),
        trials=trained.trials,
        teacher_accuracies=teacher_accuracies,
    )


def decision_thresholds(
    config: DistillConfig, dataset: Dataset, trained: TrainedStudents, boosting: Family | None
) -> Thresholds:
    """The threshold of every model by the rule that is asked for, on the validation rows."""
    rule = str(config.decision_threshold)
    if rule == NONE:
        return ARGMAX
    lessons, labels = trained.lessons, dataset.labels("val")
    encoded = lessons.encoded[lessons.taught_rows :].cpu().numpy()
    by_kind = _scored(trained, encoded).chunk(len(trained.kinds))

    def chosen(logits: Tensor) -> float | None:
        return choose_threshold(rule, logits.cpu(), labels)

    return Thresholds(
        ensemble=chosen(lessons.val_logits),
        boosting=chosen(boosting.logits(dataset.features("val"))[0]) if boosting else None,
        students={
            kind: [chosen(each) for each in logits]
            for kind, logits in zip(trained.kinds, by_kind, strict=True)
        },
    )


def check_decision(config: DecisionOptions, table: Table) -> None:
    """Refuse a threshold for a table that has not two classes.  Raises ConfigError."""
    if str(config.decision_threshold) != NONE and len(table.classes) != 2:
        raise ConfigError(
            f"decision_threshold is for tables of two classes; {table.target!r} has "
            f"{len(table.classes):,}: leave it out"
        )


def _scored(trained: TrainedStudents, encoded: NDArray[np.float32]) -> Tensor:
    """Score encoded rows with each student.  Shape: (n, columns) -> (k, n, classes)."""
    rows = torch.from_numpy(encoded)
    logits = trained.population.logits(Inputs(rows, Scaler(trained.encoding)))
    with torch.no_grad():
        logits[0] = trained.registered(rows)
    return logits
