"""What a comparison of students with their ensemble found, scored once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from kd_mlflow.config.entry_points import DistillConfig
from kd_mlflow.distillation import review
from kd_mlflow.distillation.families import Family
from kd_mlflow.distillation.logits import Logits, class_probabilities, compared, predicted
from kd_mlflow.distillation.menu import Trial
from kd_mlflow.distillation.segments import Weakest, weakest_segments
from kd_mlflow.distillation.students import TransferSet
from kd_mlflow.distillation.teachers import Part, Teacher
from kd_mlflow.distillation.trained import TrainedStudents
from kd_mlflow.evaluation.comparison import Comparison
from kd_mlflow.evaluation.drift import ColumnDrift
from kd_mlflow.evaluation.scores import ClassScores, RowScores, class_scores
from kd_mlflow.evaluation.thresholds import ClassWeight, Threshold
from kd_mlflow.population.history import History
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding
from kd_mlflow.table.example_rows import EXAMPLE_ROWS, made_rows
from kd_mlflow.table.hashing import distinct_rows
from kd_mlflow.table.profile import CallerSchema, Profile, caller_schema, column_shifts, fit_profile


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that figures and report show of a comparison.

    Columns of the curves in ``history`` are grouped by kind, in the order of ``logits.students``;
    ``teacher_accuracies`` on test rows is empty where teachers are unknown one by one, and where
    there is a threshold, which they were not asked at;
    ``parts`` say what the teacher is made of; ``example`` are rows of raw columns that the student
    can be asked with; ``profile`` is of its training rows; ``importances`` are of the columns that
    count most, ``weakest`` are rows on which the registered student is worst, ``thresholds`` what
    other ones would be worth on the validation rows, of two classes, ``weights`` what those of more
    classes are.
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
    importances: Sequence[review.Importance] = ()
    weakest: Weakest | None = None
    thresholds: Sequence[tuple[Threshold, str]] = ()
    weights: Sequence[ClassWeight] = ()

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
        scored, names, found = self.logits, list(map(str, self.dataset.table.classes)), {}
        student = scored.students["distilled"][scored.registered]
        for who, logits in ((review.STUDENT, student), (review.ENSEMBLE, scored.ensemble)):
            shares, classes = class_probabilities(logits), predicted(logits, scored.threshold)
            rows = RowScores.of(shares, scored.labels, classes)
            found[who] = class_scores(replace(rows, groups=scored.groups), names)
        return found

    def review(self) -> dict[str, Any]:
        """Classes, importances, weakest segments, thresholds and weights as a JSON document."""
        return {
            "classes": {who: list(map(asdict, each)) for who, each in self.class_scores.items()},
            "importances": [
                {"column": each.column, **{who: asdict(rise) for who, rise in each.rise.items()}}
                for each in self.importances
            ],
            "weakest": self.weakest.to_dict() if self.weakest else None,
            "thresholds": [{**row._asdict(), "note": note} for row, note in self.thresholds],
            "weights": [each._asdict() for each in self.weights],
        }

    @cached_property
    def drift(self) -> tuple[ColumnDrift, ...]:
        """How the test rows' columns differ from the training rows', the most shifted first."""
        rows, groups = self.dataset.features("test"), self.logits.groups
        columns, _ = column_shifts(rows, self.encoding, self.profile, groups)
        return columns

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

    Equal rows have equal answers, the registered student's are those of what is served.
    ``boosting`` is one boosted model, to compare with.
    """
    features = dataset.features("test")
    first, rows = distinct_rows(features)
    asked = features.iloc[first]
    students = trained.score(ensemble.encoding.encode(asked))[:, rows].chunk(len(trained.kinds))
    threshold, thresholds, weights = review.decision(config, dataset, trained)
    logits = Logits(
        labels=dataset.labels("test"),
        ensemble=ensemble.score(asked, config.averaging)[rows],
        students=dict(zip(trained.kinds, students, strict=True)),
        boosting=boosting.logits(asked)[0, rows] if boosting else None,
        threshold=threshold,
        groups=dataset.groups("test"),
        registered=trained.place,
    )
    columns = review.measured_columns(trained.encoding, boosting)
    profile = fit_profile(dataset.features("train"), dataset.labels("train"), trained.encoding)
    return Evidence(
        config=config,
        dataset=dataset,
        encoding=replace(trained.encoding, threshold=threshold),
        comparison=_comparison(dataset, ensemble, trained, logits),
        logits=logits,
        history=trained.history,
        lessons=trained.lessons,
        example=_example(config, dataset, trained.encoding),
        parts=ensemble.parts,
        profile=profile,
        thresholds=thresholds,
        weights=weights,
        importances=review.column_importances(config, dataset, ensemble, trained, columns),
        weakest=weakest_segments(logits, features, trained.encoding, profile, columns),
        trials=trained.trials,
        teacher_accuracies=teacher_accuracies if threshold is None else (),
    )


def _comparison(
    dataset: Dataset, ensemble: Teacher, trained: TrainedStudents, logits: Logits
) -> Comparison:
    table = dataset.table
    counts = np.bincount(table.labels, minlength=len(table.classes)).tolist()
    return compared(
        logits,
        student_parameters=trained.population.parameters_per_member,
        ensemble_parameters=ensemble.parameters,
        class_rows=dict(zip(map(str, table.classes), counts, strict=True)),
    )


def _example(config: DistillConfig, dataset: Dataset, encoding: Encoding) -> pd.DataFrame:
    """Rows to ask the student with: made ones, or the first of the table."""
    if config.example_rows == "made":
        return made_rows(dataset.table.features, encoding.columns)
    return dataset.features("train").head(EXAMPLE_ROWS)
