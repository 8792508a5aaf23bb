"""Functions of the user's that return classifiers, as families of teachers: module:function.

A classifier is whatever has scikit-learn's ``fit`` and ``predict_proba``. It gets the table's raw
columns and class numbers; each of the family's models leaves out a fold.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kd_mlflow.distillation.families import ENCODING, Family, Kind, read_json, write_json
from kd_mlflow.distillation.identity import MOST_SEED
from kd_mlflow.distillation.inputs import TeacherInputs
from kd_mlflow.distillation.one_shot import Arrays, Fold, FoldTraining, fold_training
from kd_mlflow.errors import ConfigError, TrainingError, first_line
from kd_mlflow.evaluation.metrics import Floats
from kd_mlflow.models.any_model import pickle_files
from kd_mlflow.models.classifier_files import (
    OWN_FORMATS,
    SKLEARN,
    flavour_of,
    load,
    needs_pickle,
    packages,
    store,
)
from kd_mlflow.models.respondent import FLOOR, Respondent
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding

DESCRIPTION = "estimators.json"

TRIED_ROWS = 20
"""Rows per class that a family is tried with before anything is trained."""


@dataclass(frozen=True)
class Fitted:
    """One classifier, and which of the table's classes its columns are, by number."""

    model: Any
    known: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Estimators:
    """Classifiers of one function, with the encoding that says what columns they were given.

    ``dtypes`` are pandas' names of these columns' types; ``pickle`` says that the user allows it.
    Without models it is how each one is fitted, asked and kept.
    """

    name: str
    encoding: Encoding
    dtypes: Mapping[str, str]
    models: tuple[Fitted, ...] = ()
    licence: str = ""
    pickle: bool = False
    pickled: bool = False
    work: ClassVar[int] = 1

    @property
    def words(self) -> str:
        """What its members are, for people: where they are pickled, and their licence, too."""
        licence = f", licence {self.licence}" if self.licence else ""
        return f"models of {self.name}{' (pickled)' if self.pickled else ''}{licence}"

    @property
    def parameters(self) -> tuple[None, ...]:
        """None: what others fit has no common count."""
        return (None,) * len(self.models)

    @property
    def requirements(self) -> tuple[str, ...]:
        """Packages of every part of its first classifier, and what its file is read with."""
        owners = packages_distributions()
        roots = dict.fromkeys(packages(self.models[0].model))
        made_of = [owners[root][0] for root in roots if root in owners]
        sklearn = flavour_of(self.models[0].model) == SKLEARN
        reader = ["cloudpickle" if self.pickled else "skops"] if sklearn else []
        return tuple(dict.fromkeys(made_of + reader))

    def members(self, members: slice) -> Estimators:
        """Some members as a family of their own."""
        return replace(self, models=self.models[members])

    def logits(self, features: pd.DataFrame) -> Tensor:
        """Score raw rows with each member.  Shape: n rows -> (k, n, classes)."""
        asked = features[list(self.dtypes)]
        each = [self.ask(one, asked) for one in self.models]
        return torch.from_numpy(np.stack(each).astype(np.float32))

    def save(self, folder: Path) -> None:
        """Write ``model-01`` ..., each by MLflow's own flavour, and two documents beside them.

        Raises TrainingError where that needs pickle and is not allowed.
        """
        for i, one in enumerate(self.models, 1):
            store(self.name, one.model, folder / f"model-{i:02d}", pickle=self.pickle)
        described = {
            "name": self.name,
            "flavour": flavour_of(self.models[0].model),
            "dtypes": dict(self.dtypes),
            "known": [one.known for one in self.models],
            "licence": self.licence,
            "pickled": bool(pickle_files(folder)),
        }
        write_json(folder / DESCRIPTION, described)
        write_json(folder / ENCODING, self.encoding.to_dict())

    @classmethod
    def load(cls, folder: Path) -> Estimators:
        """Load what ``save`` wrote, which runs its code where it is pickled."""
        described = read_json(folder / DESCRIPTION)
        paths = zip(sorted(folder.glob("model-*")), described["known"], strict=True)
        flavour = described["flavour"]
        models = tuple(Fitted(load(path, flavour), tuple(known)) for path, known in paths)
        return cls(
            name=described["name"],
            encoding=Encoding.from_dict(read_json(folder / ENCODING)),
            dtypes=described["dtypes"],
            models=models,
            licence=described["licence"],
            pickle=described["pickled"],
            pickled=described["pickled"],
        )

    def fit_fold(self, fold: Fold, seed: int) -> Fitted:
        """Fit one to raw rows and class numbers from 0, those of the classes that are there.

        Raises TrainingError for whatever the user's code or its library raises.
        """
        known, numbers = np.unique(fold.labels, return_inverse=True)
        model = self.unfitted(seed)
        try:
            model.fit(fold.features, numbers)
        except Exception as error:  # a stranger's code: it may raise anything
            raise TrainingError(
                f"a model of {self.name} cannot be trained on this table: {first_line(error)}; "
                "it gets the table's raw columns: see docs/families.md"
            ) from error
        return Fitted(model, tuple(int(place) for place in known))

    def unfitted(self, seed: int) -> Any:
        """What the function returns, with the seed where it has none of its own.

        Raises ConfigError where it raises or returns no classifier.
        """
        make = function_of(self.name)
        try:
            model = make()
        except Exception as error:  # a stranger's code: it may raise anything
            raise ConfigError(
                f"{self.name}, of teacher_families, raises {type(error).__name__}: "
                f"{first_line(error)}; it is called without arguments"
            ) from error
        if not hasattr(model, "fit") or not hasattr(model, "predict_proba"):
            raise ConfigError(
                f"{self.name}, of teacher_families, must return a classifier with fit and "
                f"predict_proba; received {type(model).__name__}"
            )
        given = model.get_params() if hasattr(model, "get_params") else {}
        seeds = [name for name in given if name.rpartition("__")[2] == "random_state"]
        free = [name for name in seeds if given[name] is None]
        return model.set_params(**dict.fromkeys(free, seed % MOST_SEED)) if free else model

    def ask(self, model: Fitted, features: pd.DataFrame) -> Floats:
        """Score raw rows with one; a class that it has not seen gets the least probability.

        Shape: n rows -> (n, classes), logits.
        """
        known = model.known
        asked = Respondent(name=self.name, model=model.model, columns=tuple(features.columns))
        shares = np.full((len(features), len(self.encoding.classes)), FLOOR)
        shares[:, known] = asked.probabilities(features, [str(i) for i in range(len(known))])
        logits: Floats = np.log(shares / shares.sum(axis=1, keepdims=True))
        return logits

    def pack(self, model: Fitted) -> Arrays:
        """The files of a stored classifier."""
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "model"
            store(self.name, model.model, folder, pickle=self.pickle)
            files = {
                path.relative_to(folder).as_posix(): np.frombuffer(path.read_bytes(), np.uint8)
                for path in folder.rglob("*")
                if path.is_file()
            }
        known = np.array([flavour_of(model.model) == name for name in (SKLEARN, *OWN_FORMATS)])
        return {**files, "known": np.array(model.known), "flavour": known}

    def unpack(self, arrays: Arrays) -> Fitted:
        """Load a classifier of its files."""
        files = dict(arrays)
        known, flavour = files.pop("known"), files.pop("flavour")
        with tempfile.TemporaryDirectory() as place:
            for name, content in files.items():
                path = Path(place) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.tobytes())
            model = load(Path(place), (SKLEARN, *OWN_FORMATS)[int(flavour.argmax())])
        return Fitted(model, tuple(known.tolist()))

    def family(self, models: tuple[Fitted, ...]) -> Family:
        """All classifiers as a family."""
        licence = str(getattr(function_of(self.name), "licence", ""))
        pickled = self.pickle and needs_pickle(models[0].model)
        return replace(self, models=models, licence=licence, pickled=pickled)

    def rehearse(self, dataset: Dataset) -> None:
        """Fit one to a few rows, ask it and store it, so that what would fail late fails now.

        Too few rows for its kind are no failure: the training will say.
        """
        features, labels = dataset.features("train"), dataset.labels("train")
        rows = pd.Series(labels).groupby(labels).head(TRIED_ROWS).index.to_numpy()
        self.unfitted(0)
        try:
            model = self.fit_fold(Fold.of(features.iloc[rows], labels[rows], rows[:0]), 0)
        except TrainingError:
            return
        self.ask(model, features.head(TRIED_ROWS))
        self.pack(model)


def function_of(name: str) -> Callable[[], Any]:
    """Import a function by module:function, from this folder or from what is installed.

    Raises ConfigError where it is not there.
    """
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function: Callable[[], Any] = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a stranger's code: it may raise anything
        raise ConfigError(
            f"teacher_families names {name}, which cannot be imported: {first_line(error)}; give "
            "module:function, of a module in this folder or one that is installed"
        ) from error
    if not callable(function):
        raise ConfigError(f"teacher_families names {name}, which is no function")
    return function


def _recipe(name: str, given: TeacherInputs) -> Estimators:
    train = given.dataset.features("train")
    return Estimators(
        name=name,
        encoding=given.encoding,
        dtypes={str(column): str(kind) for column, kind in train.dtypes.items()},
        pickle=given.config.own_pickle,
    )


def _trainings(name: str, given: TeacherInputs) -> list[FoldTraining[Fitted]]:
    recipe = _recipe(name, given)
    recipe.unfitted(0)
    return [fold_training(given, name, f"models of {name}", recipe)]


def _digest(name: str) -> str:
    try:
        source = inspect.getsourcefile(inspect.unwrap(function_of(name)))
    except TypeError:  # it is built in
        return ""
    return hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else ""


def kind(name: str) -> Kind:
    """The kind of family that a user's function makes."""
    return Kind(
        name=name,
        runs=name.rpartition(":")[2],
        trainings=partial(_trainings, name),
        load=Estimators.load,
        rehearse=lambda given: _recipe(name, given).rehearse(given.dataset),
        digest=partial(_digest, name),
    )
