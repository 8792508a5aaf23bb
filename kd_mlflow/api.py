"""The package from Python: one function per entry point, with its options as keywords.

Each option is declared in ``config`` alone: a function takes its configuration's fields, with their
types, and ``help(kd.distill)`` explains them.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Concatenate, ParamSpec, TypeVar

from kd_mlflow import pipeline
from kd_mlflow.config import entry_points as configs
from kd_mlflow.config.groups import DataOptions, StudentFit
from kd_mlflow.config.options import Options, options_text
from kd_mlflow.distillation import fitted
from kd_mlflow.distillation.fitted import FittedEnsemble, FittedStudent
from kd_mlflow.errors import ConfigError, listed
from kd_mlflow.report.command_results import (
    ColumnsResult,
    History,
    PredictResult,
    Rollback,
    SweepResult,
)
from kd_mlflow.report.decision import Decision
from kd_mlflow.report.evaluation_result import EvaluationResult
from kd_mlflow.report.training_results import DistillResult, TeachersResult
from kd_mlflow.steps.work import workers_of
from kd_mlflow.table.dataset import Sides, read_dataset

P = ParamSpec("P")
A = TypeVar("A")
C = TypeVar("C", bound=Options)
R = TypeVar("R")


def _check_names(make: Callable[..., Any], options: Iterable[str]) -> None:
    """Raise ConfigError for an option that there is not, with the nearest one's name."""
    known = inspect.signature(make).parameters
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {listed(list(known), 50)}"
            raise ConfigError(f"there is no option {name!r}; {hint}")


def _takes(make: Callable[P, C]) -> Callable[[Callable[[C], R]], Callable[P, R]]:
    """Turn a function of a configuration into one of the configuration's fields."""
    return functools.partial(_entry, make)


def _takes_after(
    make: Callable[P, C],
) -> Callable[[Callable[[A, C], R]], Callable[Concatenate[A, P], R]]:
    """The same of a function whose first argument comes before the configuration."""
    return functools.partial(_entry, make)


def _entry(make: Callable[..., Any], step: Callable[..., Any]) -> Any:
    """A function of a step's name and help, with options in its configuration's place."""
    own = inspect.signature(step)
    *before, _ = own.parameters.values()
    known = inspect.signature(make).parameters.values()

    @functools.wraps(step)
    def entry(*args: Any, **options: Any) -> Any:
        _check_names(make, options)
        return step(*args[: len(before)], make(*args[len(before) :], **options))

    named: Any = entry
    named.__signature__ = own.replace(parameters=[*before, *known])
    named.__doc__ = f"{inspect.getdoc(step)}\n\n{options_text(make)}"
    return named


@_takes(DataOptions)
def split(config: DataOptions) -> Sides:
    """Divide a table as every entry point does: train, validation and test rows, with labels.

    Train models of your own on ``train`` alone: test metrics of a teacher that has seen the test
    rows flatter it.

    >>> import kd_mlflow as kd
    >>> sides = kd.split(data="wine")
    >>> [len(rows) for rows in sides]
    [127, 15, 36]
    >>> list(sides.train.columns)[-1]
    'target'
    """
    return read_dataset(config).sides()


@_takes(configs.TeachersConfig)
def train_teachers(config: configs.TeachersConfig) -> TeachersResult:
    """Train and log the ensemble, or reuse a finished one of the same data and options.

    >>> import kd_mlflow as kd
    >>> taught = kd.train_teachers(data="wine", n_teachers=2, teacher_epochs=3)
    >>> sorted(taught.metrics)[:2]
    ['best_teacher_test_accuracy', 'ensemble_parameters']
    >>> kd.train_teachers(data="wine", n_teachers=2, teacher_epochs=3).reused
    True
    """
    return pipeline.run_teachers(config)


@_takes_after(configs.TeachersConfig)
def fit_ensemble(table: fitted.TableOrArrays, config: configs.TeachersConfig) -> FittedEnsemble:
    """Train an ensemble in memory: no store is asked, nothing is written.

    ``table`` is a DataFrame with its label column ``target``, or arrays ``(x, y)``. It is split as
    by every entry point. Options that are about a store or a file have no effect, ``data`` is this
    table.

    >>> import kd_mlflow as kd
    >>> from sklearn.datasets import load_wine
    >>> x, y = load_wine(return_X_y=True)
    >>> ensemble = kd.fit_ensemble((x, y), n_teachers=2, teacher_epochs=3)
    >>> ensemble.predict_proba(x[:5]).shape
    (5, 3)
    >>> 0 <= ensemble.metrics["ensemble_test_accuracy"] <= 1
    True
    """
    return fitted.fit_ensemble(table, config, workers_of(config))


@_takes_after(StudentFit)
def fit_student(ensemble: FittedEnsemble, config: StudentFit) -> FittedStudent:
    """Train a student of an ensemble in memory, on the ensemble's table: nothing is written.

    It is the first of those that ``distill`` trains with that seed, without baselines.

    >>> import kd_mlflow as kd
    >>> from sklearn.datasets import load_wine
    >>> x, y = load_wine(return_X_y=True)
    >>> ensemble = kd.fit_ensemble((x, y), n_teachers=2, teacher_epochs=3)
    >>> student = kd.fit_student(ensemble, student_hidden=(8,), student_bins=0, student_epochs=3)
    >>> student.predict(x[:5]).shape, student.metrics["parameters"]
    ((5,), 139)
    """
    return fitted.fit_student(ensemble, config, workers_of(config))


@_takes(configs.DistillConfig)
def distill(config: configs.DistillConfig) -> DistillResult:
    """Train students against an ensemble or your own models; register one as candidate.

    >>> import kd_mlflow as kd
    >>> taught = kd.train_teachers(data="wine", n_teachers=2, teacher_epochs=3)
    >>> result = kd.distill(
    ...     data="wine", teachers=taught.run_id, n_students=2, student_epochs=3, augment_factor=2
    ... )
    >>> result.model_name
    'kd-student'
    >>> 0 <= result.comparison.summary["distilled_test_accuracy"] <= 1
    True

    ``data`` may be a DataFrame, whose label column is ``target``. Models of your own teach by
    their URIs: ``teachers="models:/forest@champion,models:/boost/2"``; train them on the train rows
    of ``split``.
    """
    return pipeline.run_distill(config)


@_takes(configs.SweepConfig)
def sweep(config: configs.SweepConfig) -> SweepResult:
    """Try a grid of temperatures and alphas, then student sizes, on validation rows.

    >>> import kd_mlflow as kd
    >>> taught = kd.train_teachers(data="wine", n_teachers=2, teacher_epochs=3)
    >>> small = {"n_students": 1, "student_epochs": 2, "augment_factor": 1}
    >>> result = kd.sweep(data="wine", temperatures=(1, 4), alphas=(0.7,), sizes="8;4", **small)
    >>> len(result.cells), result.chosen.alpha
    (2, 0.7)
    """
    return pipeline.run_sweep(config)


@_takes(configs.PromoteConfig)
def promote(config: configs.PromoteConfig) -> Decision:
    """Gate a version and move the alias ``production`` to it where it passes.

    A rejection is an answer, not an error, unless ``strict`` is true.

    >>> import kd_mlflow as kd
    >>> taught = kd.train_teachers(data="wine", n_teachers=2, teacher_epochs=3)
    >>> result = kd.distill(data="wine", n_students=1, student_epochs=5, model_name="cellar")
    >>> easy = {"max_accuracy_gap": 1, "max_log_loss_gap": 0, "allow_worse_than_baseline": True}
    >>> decision = kd.promote(model_name="cellar", min_compression=1, **easy)
    >>> decision.promoted, decision.version
    (True, '1')
    """
    decision = pipeline.run_promote(config)
    if config.strict:
        decision.refuse()
    return decision


@_takes(configs.RollbackConfig)
def rollback(config: configs.RollbackConfig) -> Rollback:
    """Move the alias ``production`` back to ``previous``, or to an earlier ``version``.

    The version that leaves is marked ``rolled_back``: only its number promotes it again.

    >>> import kd_mlflow as kd
    >>> kd.rollback(model_name="nobody")
    Traceback (most recent call last):
    kd_mlflow.errors.RegistryError: no registered model 'nobody'; the registry has: ...
    """
    return pipeline.run_rollback(config)


@_takes(configs.EvaluateConfig)
def evaluate(config: configs.EvaluateConfig) -> EvaluationResult:
    """Score any table with any model; say what it is worth there and which columns have moved.

    A limit that is not kept is an answer, not an error, unless ``strict`` is true.

    >>> import kd_mlflow as kd
    >>> taught = kd.train_teachers(data="wine", n_teachers=2, teacher_epochs=3)
    >>> result = kd.distill(data="wine", n_students=1, student_epochs=3, model_name="watched")
    >>> found = kd.evaluate(data="wine", model="models:/watched@candidate").findings
    >>> found.rows, found.metrics["accuracy"].low <= found.metrics["accuracy"].value
    (178, True)
    >>> from sklearn.datasets import load_wine
    >>> later = load_wine(as_frame=True).data
    >>> later["proline"] += 2000  # a shift; and no labels
    >>> found = kd.evaluate(data=later, model="models:/watched@candidate").findings
    >>> found.drift[0].name, found.metrics
    ('proline', {})
    """
    result = pipeline.run_evaluate(config)
    if config.strict:
        result.refuse()
    return result


@_takes(configs.PredictConfig)
def predict(config: configs.PredictConfig) -> PredictResult:
    """Score a table's rows into a CSV or Parquet file, in parts that bound the memory it takes.

    The file has the columns of ``keep``, ``prediction``, a ``probability_<class>`` per class,
    ``model_name`` and ``model_version``. With ``reasons`` it has ``reason_1`` and so on: the column
    that moved the row's answer most, and ``reason_1_log_odds``: the log odds of the predicted class
    less those with that column at its training median or most frequent category and all others as
    they are. A row that has that value everywhere has no reason.

    >>> import kd_mlflow as kd
    >>> import pandas as pd
    >>> taught = kd.train_teachers(data="wine", n_teachers=2, teacher_epochs=3)
    >>> result = kd.distill(data="wine", n_students=1, student_epochs=3, model_name="asked")
    >>> done = kd.predict(data="wine", model="models:/asked/1", out="wine.csv", reasons=1)
    >>> done.rows, list(pd.read_csv("wine.csv").columns)[-2:]
    (178, ['reason_1', 'reason_1_log_odds'])
    """
    return pipeline.run_predict(config)


@_takes(configs.ColumnsConfig)
def columns(config: configs.ColumnsConfig) -> ColumnsResult:
    """How each column of a table is read, before anything is trained on it.

    >>> import kd_mlflow as kd
    >>> import pandas as pd
    >>> prices = [f"${i}.50" for i in range(9)]
    >>> table = pd.DataFrame({"price": prices, "sold": ["yes", "no", "no"] * 3})
    >>> found = kd.columns(data=table, target="sold").columns[0]
    >>> found.kind, found.form, found.high
    ('numeric', "numbers with '$'", '8.5')
    """
    return pipeline.run_columns(config)


@_takes(configs.HistoryConfig)
def history(config: configs.HistoryConfig) -> History:
    """Who was in production, when, for how long, and why, from the registry's own data.

    What a process that died left half done is finished or undone first.

    >>> import kd_mlflow as kd
    >>> taught = kd.train_teachers(data="wine", n_teachers=2, teacher_epochs=3)
    >>> result = kd.distill(data="wine", n_students=1, student_epochs=5, model_name="shelf")
    >>> easy = {"max_accuracy_gap": 1, "max_log_loss_gap": 0, "allow_worse_than_baseline": True}
    >>> decision = kd.promote(model_name="shelf", min_compression=1, **easy)
    >>> [(period.version, period.kind) for period in kd.history(model_name="shelf").periods]
    [('1', 'promote')]
    """
    return pipeline.run_history(config)


def load_production(model_name: str = "kd-student") -> Any:
    """Load the version in production: its ``predict`` takes raw rows as a DataFrame.

    Raises RegistryError where nothing is in production.

    >>> import kd_mlflow as kd
    >>> taught = kd.train_teachers(data="wine", n_teachers=2, teacher_epochs=3)
    >>> result = kd.distill(data="wine", n_students=1, student_epochs=5, model_name="served")
    >>> easy = {"max_accuracy_gap": 1, "max_log_loss_gap": 0, "allow_worse_than_baseline": True}
    >>> decision = kd.promote(model_name="served", min_compression=1, **easy)
    >>> student = kd.load_production("served")
    >>> from sklearn.datasets import load_wine
    >>> answer = student.predict(load_wine(as_frame=True).data.head(3))
    >>> list(answer.columns)
    ['prediction', 'probability_0', 'probability_1', 'probability_2']
    """
    return pipeline.load_production(model_name)
