"""Ensembles and students in memory: fitted to a table, asked about others, stored nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.config.groups import StudentFit
from kd_mlflow.distillation.identity import STUDENT_STREAM, member_seeds
from kd_mlflow.distillation.logits import class_probabilities, seed_scores
from kd_mlflow.distillation.menu import chosen
from kd_mlflow.distillation.student_module import StudentModule
from kd_mlflow.distillation.students import student_groups, transfer_set
from kd_mlflow.distillation.teachers import Ensemble, evaluated, train_ensemble
from kd_mlflow.distillation.trained import TrainedStudents, trained_students
from kd_mlflow.errors import ConfigError, DataError
from kd_mlflow.evaluation.metrics import Floats
from kd_mlflow.population.history import History
from kd_mlflow.population.training import Task
from kd_mlflow.population.workers import Workers
from kd_mlflow.serving.scoring import Network
from kd_mlflow.table.dataset import Dataset, read_dataset
from kd_mlflow.table.hashing import distinct_rows

TableOrArrays: TypeAlias = pd.DataFrame | tuple[Any, Any]
"""A table with its label column, or its rows and their labels."""

LABEL = "label"
"""The label column of a table that is made of arrays."""


@dataclass(frozen=True, kw_only=True)
class FittedEnsemble:
    """An ensemble of teachers in memory.

    Fields:
        ensemble: the trained models
        averaging: how they are averaged: logits or probabilities
        dataset: the table with its split, for its students
        metrics: those of the test rows, a fifth of the table that nobody learnt from, by the
            names that the entry point ``teachers`` logs
    """

    ensemble: Ensemble
    averaging: str
    dataset: Dataset
    metrics: Mapping[str, float]

    def __repr__(self) -> str:
        """What it is made of, and its accuracy; not every weight."""
        accuracy = self.metrics["ensemble_test_accuracy"]
        return f"FittedEnsemble({len(self.ensemble.weights)} models, {accuracy:.2%} of test rows)"

    @property
    def classes(self) -> tuple[Any, ...]:
        """The classes in the order of the probabilities."""
        return self.dataset.table.classes

    def predict_proba(self, x: Any) -> Floats:
        """Each class's probability for raw rows, a DataFrame or an array.  Shape: (n, classes)."""
        return class_probabilities(self.ensemble.score(_asked(x), self.averaging))

    def predict(self, x: Any) -> NDArray[Any]:
        """The likeliest class of each raw row.  Shape: (n,)."""
        return likeliest(self.classes, self.predict_proba(x))


@dataclass(frozen=True, kw_only=True)
class FittedStudent:
    """One distilled student in memory: the first of those that ``distill`` trains.

    Fields:
        module: encoding and network as one module of torch
        metrics: those of the test rows, by the names that a student's run has: ``test_accuracy``,
            ``test_log_loss``, ``test_agreement``, ``parameters`` and others
    """

    module: StudentModule
    metrics: Mapping[str, float]

    def __repr__(self) -> str:
        """How large it is, and its accuracy; not every weight."""
        numbers, accuracy = (self.metrics[name] for name in ("parameters", "test_accuracy"))
        return f"FittedStudent({numbers:,.0f} parameters, {accuracy:.2%} of test rows)"

    @property
    def classes(self) -> tuple[Any, ...]:
        """The classes in the order of the probabilities."""
        return tuple(self.module.encoding.classes)

    @cached_property
    def _network(self) -> Network:
        return Network(self.module.arrays)

    def predict_proba(self, x: Any) -> Floats:
        """Each class's probability for raw rows, a DataFrame or an array.  Shape: (n, classes)."""
        return self._network.probabilities(self.module.encoding.encode(_asked(x)))

    def predict(self, x: Any) -> NDArray[Any]:
        """The likeliest class of each raw row.  Shape: (n,)."""
        return likeliest(self.classes, self.predict_proba(x))


def likeliest(classes: tuple[Any, ...], shares: Floats) -> NDArray[Any]:
    """The likeliest class of each row.  Shape: (n, classes) -> (n,)."""
    named = np.array(classes, dtype=None if len(set(map(type, classes))) == 1 else object)
    return np.asarray(named[shares.argmax(axis=1)])


def fit_ensemble(table: TableOrArrays, config: TeachersConfig, workers: Workers) -> FittedEnsemble:
    """Train an ensemble on a table, a DataFrame with its label column or arrays ``(x, y)``.

    Raises ConfigError where the configuration names another table.
    """
    if config.data is not TeachersConfig.data:
        raise ConfigError(f"data is the first argument here; received data={config.data!r} too")
    dataset = read_dataset(replace(config, **_framed(table, config.target)))
    config = config.resolved(len(dataset.split.train))
    ensemble = train_ensemble(config, dataset, workers)
    return FittedEnsemble(
        ensemble=ensemble,
        averaging=config.averaging,
        dataset=dataset,
        metrics=evaluated(ensemble, dataset, config.averaging).ensemble,
    )


def fit_student(taught_by: FittedEnsemble, config: StudentFit, workers: Workers) -> FittedStudent:
    """Train one student of an ensemble, on the table that the ensemble was trained on."""
    dataset, ensemble = taught_by.dataset, taught_by.ensemble
    config = config.resolved(len(dataset.split.train))
    seeds = member_seeds(config.seed, STUDENT_STREAM, 1)
    lessons = transfer_set(config, dataset, ensemble)

    def fit(task: Task, label: str) -> History:
        return task.fit(workers)

    config, trials = chosen(config, lessons, seed=seeds[0], fit=fit)
    groups = {"distilled": student_groups(config, seeds)["distilled"]}
    trained = trained_students(config, lessons, groups, trials, fit)
    return FittedStudent(
        module=trained.registered, metrics=_test_metrics(trained, taught_by, config.averaging)
    )


def _test_metrics(
    trained: TrainedStudents, taught_by: FittedEnsemble, averaging: str
) -> dict[str, float]:
    """What the student is worth on the test rows, asked as it is served."""
    dataset, ensemble = taught_by.dataset, taught_by.ensemble
    features, labels = dataset.features("test"), dataset.labels("test")
    first, rows = distinct_rows(features)
    asked = features.iloc[first]
    student = trained.score_registered(ensemble.encoding.encode(asked))[rows]
    teacher = ensemble.score(asked, averaging)[rows]
    ours, theirs = (seed_scores(each[None], labels) for each in (student, teacher))
    (metrics,) = ours.test_metrics(theirs, parameters=trained.population.parameters_per_member)
    return metrics


def _framed(table: TableOrArrays, target: str) -> dict[str, Any]:
    """A table as options: the DataFrame that it is or that arrays make, and its label column."""
    if not isinstance(table, tuple | list):
        return {"data": table, "target": target}
    if len(table) != 2:
        raise DataError(f"arrays are given as (x, y); received {len(table):,}")
    (x, y), name = table, target or LABEL
    rows, labels = _rows(x), np.asarray(y)
    if labels.ndim != 1:
        raise DataError(f"y has the shape {labels.shape}: give one label a row, no column a class")
    if len(rows) != len(labels):
        raise DataError(f"x has {len(rows):,} rows and y {len(labels):,} labels: give one a row")
    return {"data": rows.assign(**{name: labels}), "target": name}


def _rows(x: Any) -> pd.DataFrame:
    """Rows as a table whose columns have texts as names."""
    if not isinstance(x, pd.DataFrame):
        x = np.asarray(x)
        if x.ndim not in (1, 2):
            raise DataError(
                f"x has the shape {x.shape}: give rows and columns; of a sparse matrix x.toarray()"
            )
    frame = pd.DataFrame(x)
    return frame.set_axis(frame.columns.map(str), axis=1)


def _asked(x: Any) -> pd.DataFrame:
    """Rows to be scored; DataError where there are none."""
    rows = _rows(x)
    if not len(rows):
        raise DataError("no rows to score")
    return rows
