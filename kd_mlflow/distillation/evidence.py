"""What a comparison of students with their ensemble found, scored once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow.config import DecisionOptions, DistillConfig
from kd_mlflow.distillation.boosting import Trees
from kd_mlflow.distillation.families import Family
from kd_mlflow.distillation.importance import MOST_COLUMNS, Importance, importances
from kd_mlflow.distillation.menu import Trial
from kd_mlflow.distillation.segments import Weakest, weakest_segments
from kd_mlflow.distillation.student_module import StudentModule
from kd_mlflow.distillation.students import TransferSet
from kd_mlflow.distillation.teachers import Part, Teacher
from kd_mlflow.errors import ConfigError
from kd_mlflow.evaluation.comparison import (
    Comparison,
    Logits,
    evaluate_students,
    row_losses,
)
from kd_mlflow.evaluation.metrics import Floats
from kd_mlflow.evaluation.scores import ClassScores, RowScores, class_scores
from kd_mlflow.evaluation.thresholds import (
    NONE,
    Threshold,
    choose_threshold,
    worth_knowing,
)
from kd_mlflow.population.history import History
from kd_mlflow.population.network import Population
from kd_mlflow.population.sampling import Inputs
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding, Scaler
from kd_mlflow.table.example_rows import EXAMPLE_ROWS, made_rows
from kd_mlflow.table.loading import Table
from kd_mlflow.table.profile import Profile, fit_profile
from kd_mlflow.table.schema import CallerSchema, caller_schema

STUDENT, ENSEMBLE = "registered student", "ensemble"
"""Whom reviewers compare: who is served, and who taught it."""


class Footprint(NamedTuple):
    """What a student costs to run.

    ``latency_ms`` is of one row, encoded and scored without MLflow; ``environment_bytes`` are of
    the packages that the model requires, as they are installed where it was trained.
    """

    latency_ms: float
    model_bytes: int
    environment_bytes: int

    @property
    def metrics(self) -> dict[str, float]:
        """Its numbers by the names under which they are logged."""
        return {f"registered_{name}": value for name, value in self._asdict().items()}


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
    ``teacher_accuracies`` on test rows is empty where teachers are unknown one by one, and where
    there is a threshold, which they were not asked at;
    ``parts`` say what the teacher is made of; ``example`` are rows of raw columns that the student
    can be asked with; ``profile`` is of its training rows; ``importances`` are of the columns that
    count most, ``weakest`` are rows on which the registered student is worst, ``thresholds`` what
    other ones would be worth on the validation rows, of two classes.
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
    importances: Sequence[Importance] = ()
    weakest: Weakest | None = None
    thresholds: Sequence[tuple[Threshold, str]] = ()

    @property
    def seeds(self) -> int:
        """How many students of each kind there are."""
        return len(self.comparison.students["distilled"])

    @property
    def schema(self) -> CallerSchema:
        """What a caller of the student must send."""
        return caller_schema(self.encoding, self.profile)

    @cached_property
    def class_scores(self) -> dict[str, tuple[ClassScores, ...]]:
        """Rows, recall and precision of each class on the test rows, of student and ensemble."""
        names = list(map(str, self.dataset.table.classes))
        scored = self.logits
        models = {STUDENT: scored.students["distilled"][0], ENSEMBLE: scored.ensemble}
        return {
            who: class_scores(
                RowScores.of(_probabilities(logits), scored.labels, scored.threshold), names
            )
            for who, logits in models.items()
        }

    def review(self) -> dict[str, Any]:
        """Classes, importances, weakest segments and thresholds as a JSON document."""
        return {
            "classes": {who: list(map(asdict, each)) for who, each in self.class_scores.items()},
            "importances": [
                {"column": each.column, **{who: asdict(rise) for who, rise in each.rise.items()}}
                for each in self.importances
            ],
            "weakest": self.weakest.to_dict() if self.weakest else None,
            "thresholds": [{**row._asdict(), "note": note} for row, note in self.thresholds],
        }

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
    threshold = decision_threshold(config, dataset, trained)
    logits = Logits(
        labels=dataset.labels("test"),
        ensemble=ensemble.score(features, config.averaging),
        students=dict(zip(trained.kinds, by_kind, strict=True)),
        boosting=boosting.logits(features)[0] if boosting else None,
        threshold=threshold,
    )
    table, columns = dataset.table, measured_columns(trained.encoding, boosting)
    counts = np.bincount(table.labels, minlength=len(table.classes)).tolist()
    comparison = evaluate_students(
        logits.students,
        logits.ensemble,
        logits.labels,
        student_parameters=trained.population.parameters_per_member,
        ensemble_parameters=ensemble.parameters,
        class_rows=dict(zip(map(str, table.classes), counts, strict=True)),
        boosting=logits.boosting,
        threshold=threshold,
    )
    example = (
        made_rows(table.features, trained.encoding.columns)
        if config.example_rows == "made"
        else dataset.features("train").head(EXAMPLE_ROWS)
    )
    profile = fit_profile(dataset.features("train"), dataset.labels("train"), trained.encoding)
    return Evidence(
        config=config,
        dataset=dataset,
        encoding=replace(trained.encoding, threshold=threshold),
        comparison=comparison,
        logits=logits,
        history=trained.history,
        lessons=trained.lessons,
        example=example,
        parts=ensemble.parts,
        profile=profile,
        thresholds=_compared_thresholds(dataset, trained, threshold),
        importances=_importances(config, dataset, ensemble, trained, columns),
        weakest=_weakest(logits, features, trained.encoding, profile, columns),
        trials=trained.trials,
        teacher_accuracies=teacher_accuracies if threshold is None else (),
    )


def decision_threshold(
    config: DistillConfig, dataset: Dataset, trained: TrainedStudents
) -> float | None:
    """The threshold that is asked for: of the registered student, by the validation rows."""
    rule = str(config.decision_threshold)
    if rule == NONE:
        return None
    return choose_threshold(rule, _on_validation_rows(trained), dataset.labels("val"))


def _on_validation_rows(trained: TrainedStudents) -> Tensor:
    """The registered student's logits on the validation rows.  Shape: (n, classes)."""
    lessons = trained.lessons
    with torch.no_grad():
        scored: Tensor = trained.registered(lessons.encoded[lessons.taught_rows :].cpu())
    return scored


def _compared_thresholds(
    dataset: Dataset, trained: TrainedStudents, own: float | None
) -> list[tuple[Threshold, str]]:
    """What thresholds of the registered student are worth on the validation rows."""
    if len(dataset.table.classes) != 2:
        return []
    return worth_knowing(_on_validation_rows(trained), dataset.labels("val"), own)


def check_decision(config: DecisionOptions, table: Table) -> None:
    """Refuse a threshold for a table that has not two classes.  Raises ConfigError."""
    if str(config.decision_threshold) != NONE and len(table.classes) != 2:
        raise ConfigError(
            f"decision_threshold is for tables of two classes; {table.target!r} has "
            f"{len(table.classes):,}: leave it out"
        )


def measured_columns(encoding: Encoding, boosting: Family | None) -> list[str]:
    """Columns that are worth a closer look: of many those that boosted trees gain most by."""
    names = [column.name for column in encoding.columns]
    if not isinstance(boosting, Trees):
        return names[:MOST_COLUMNS]
    most = np.argsort(-boosting.gains, kind="stable")[:MOST_COLUMNS]
    return [names[place] for place in np.sort(most)]


def _importances(
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
    return importances(dataset.features("val"), dataset.labels("val"), scorers, columns)


def _weakest(
    logits: Logits,
    features: pd.DataFrame,
    encoding: Encoding,
    profile: Profile,
    columns: Sequence[str],
) -> Weakest:
    """On which test rows the registered student is worst."""
    both = torch.stack([logits.students["distilled"][0], logits.ensemble])
    losses, ensemble_losses = row_losses(both, logits.labels)
    return weakest_segments(
        features,
        encoding,
        profile,
        columns,
        losses=losses,
        hits=logits.classes("distilled")[0] == logits.labels,
        ensemble_losses=ensemble_losses,
    )


def _probabilities(logits: Tensor) -> Floats:
    found: Floats = torch.softmax(logits.double(), dim=1).numpy()
    return found


def _scored(trained: TrainedStudents, encoded: NDArray[np.float32]) -> Tensor:
    """Score encoded rows with each student.  Shape: (n, columns) -> (k, n, classes)."""
    rows = torch.from_numpy(encoded)
    logits = trained.population.logits(Inputs(rows, Scaler(trained.encoding)))
    with torch.no_grad():
        logits[0] = trained.registered(rows)
    return logits
