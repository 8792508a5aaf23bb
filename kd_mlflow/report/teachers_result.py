"""What a training of teachers returns, and its closing table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from kd_mlflow.distillation.teachers import Ensemble
from kd_mlflow.evaluation.scores import Metrics
from kd_mlflow.report.closing import Row, Shown, table_text
from kd_mlflow.report.words import composition, percent


class TeacherResult(NamedTuple):
    """One teacher of an ensemble.

    Fields:
        name: its run's name
        accuracy: on the test rows
        weight: its share of the ensemble
        metrics: those of its run, by their names there
        fit_s: its part of its family's training in seconds, None where that was not now
    """

    name: str
    accuracy: float
    weight: float
    metrics: Mapping[str, float] = MappingProxyType({})
    fit_s: float | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class TeachersResult(Shown):
    """An ensemble of teachers and what it is worth on the test rows.

    Fields:
        run_id: the run that trained it
        reused: whether an earlier command trained it
        ensemble: the trained models, which score raw rows
        teachers: each teacher, in the order of their runs
        metrics: those of the run, by their names there
        imbalanced: whether one class has so many rows that accuracy says little
        together: how the table is split by its own columns, as rows of the closing table
    """

    run_id: str
    reused: bool
    ensemble: Ensemble
    teachers: tuple[TeacherResult, ...]
    metrics: Metrics
    imbalanced: bool = False
    together: Sequence[tuple[str, str]] = ()

    @property
    def teacher_accuracies(self) -> tuple[float, ...]:
        """Each teacher's accuracy on the test rows."""
        return tuple(teacher.accuracy for teacher in self.teachers)

    def __repr__(self) -> str:
        """Each teacher and the ensemble."""
        run = ("ensemble run", self.run_id + (" (reused)" if self.reused else ""))
        balanced = self.metrics["ensemble_test_balanced_accuracy"]
        first = [("ensemble, balanced accuracy", percent(balanced))] if self.imbalanced else []
        return table_text([*first, *self.together, *teachers_rows(self), run])


def teachers_rows(result: TeachersResult) -> list[Row]:
    """Each teacher, what the ensemble is made of, and the ensemble."""
    each = [
        (teacher.name, f"{percent(teacher.accuracy)}, weight {percent(teacher.weight)}")
        for teacher in result.teachers
    ]
    metrics = result.metrics
    counted = metrics.get("ensemble_parameters")
    return [
        ("", "test accuracy"),
        *each,
        ("made of", composition(result.ensemble.parts)),
        (
            "ensemble" + (" (reused)" if result.reused else ""),
            percent(metrics["ensemble_test_accuracy"]),
        ),
        *([("ensemble parameters", f"{counted:,.0f}")] if counted else []),
    ]
