"""Families whose models are fitted in one go, without epochs: one model per fold left out."""

from __future__ import annotations

import inspect
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow.distillation.families import ENCODING, Family, Kind, Trained, read_json, write_json
from kd_mlflow.distillation.identity import family_stream
from kd_mlflow.distillation.inputs import TeacherInputs
from kd_mlflow.distillation.logits import validation_metrics
from kd_mlflow.evaluation.metrics import Floats
from kd_mlflow.population.checkpoints import NOWHERE, Checkpoints, Snapshot
from kd_mlflow.population.history import HELD_OUT, History, OnEpoch, replay, side_by_side
from kd_mlflow.population.sampling import RowNumbers
from kd_mlflow.population.workers import Workers
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding

Arrays = Mapping[str, NDArray[Any]]
"""A model as arrays by name."""

M = TypeVar("M")

MODEL = "model."
"""How a checkpoint calls the arrays of a model."""

SCORER = """\
from __future__ import annotations

import numpy as np


"""
"""How ``scorer.py`` begins, the file that pulled models score a family of arrays with."""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """The rows that one model is fitted to, and those that it leaves out: it may stop by them.

    Shape: raw rows (n, columns) and (m, columns), class numbers (n,) and (m,).
    """

    features: pd.DataFrame
    labels: NDArray[np.int64]
    held_out_features: pd.DataFrame
    held_out_labels: NDArray[np.int64]

    @classmethod
    def of(cls, features: pd.DataFrame, labels: NDArray[np.int64], held_out: RowNumbers) -> Self:
        """All rows, of which some, by number, are left out."""
        kept = np.setdiff1d(np.arange(len(labels)), held_out)
        return cls(
            features=features.iloc[kept],
            labels=labels[kept],
            held_out_features=features.iloc[held_out],
            held_out_labels=labels[held_out],
        )


class Recipe(Protocol[M]):
    """How one model of a family is fitted, asked and kept in checkpoints."""

    def fit_fold(self, fold: Fold, seed: int) -> M:
        """Fit one model, which may stop by the rows that it leaves out."""

    def ask(self, model: M, features: pd.DataFrame) -> Floats:
        """Score raw rows with one model.  Shape: n rows -> (n, classes), logits."""

    def pack(self, model: M) -> Arrays:
        """The model as arrays."""

    def unpack(self, arrays: Arrays) -> M:
        """The model that was packed."""

    def family(self, models: tuple[M, ...]) -> Family:
        """All models as a family."""


@dataclass(frozen=True, kw_only=True)
class FoldTraining(Generic[M]):
    """The training of models that are fitted in one go, each without the fold that it leaves out.

    Curves have one value. A checkpoint holds the models that are complete.
    """

    name: str
    label: str
    recipe: Recipe[M]
    dataset: Dataset
    seeds: Sequence[int]
    held_out: tuple[RowNumbers, ...]
    epochs: int = 1
    own_options: Mapping[str, str] = field(default_factory=dict, init=False)

    def fit(
        self, workers: Workers, on_epoch: OnEpoch, checkpoints: Checkpoints = NOWHERE
    ) -> Trained:
        """Fit one model after the other in this process; a model may use all cores."""
        own, recipe = checkpoints.owned_by(seeds=list(self.seeds)), self.recipe
        train, labels = self.dataset.features("train"), self.dataset.labels("train")
        models, curves = [], []
        for place, found in enumerate(own.found(len(self.seeds))):
            member = slice(place, place + 1)
            if found:
                packed = found.arrays.items()
                arrays = {n[len(MODEL) :]: v[0] for n, v in packed if n.startswith(MODEL)}
                model, history = recipe.unpack(arrays), found.curves
            else:
                fold = Fold.of(train, labels, self.held_out[place])
                model = recipe.fit_fold(fold, self.seeds[place])
                history = self._curves(model, fold)
                if own.folder:
                    arrays = {f"{MODEL}{n}": v[None] for n, v in recipe.pack(model).items()}
                    own.write(member, Snapshot.of(history, arrays))
            replay(member, history, on_epoch)
            models.append(model)
            curves.append(history)
        return Trained(
            family=recipe.family(tuple(models)),
            history=side_by_side(curves),
            held_out=self.held_out,
        )

    def _curves(self, model: M, fold: Fold) -> History:
        """Log loss on the rows of each side, and accuracy on the validation rows."""
        sides = {
            "train_loss": (fold.features, fold.labels),
            HELD_OUT: (fold.held_out_features, fold.held_out_labels),
            "val_loss": (self.dataset.features("val"), self.dataset.labels("val")),
        }
        curves = {}
        for name, (rows, truth) in sides.items():
            logits = torch.from_numpy(self.recipe.ask(model, rows))[None]
            found = validation_metrics(logits, torch.from_numpy(truth))
            curves[name] = found["val_loss"].double().numpy()[None]
        return curves | {"val_accuracy": found["val_accuracy"].double().numpy()[None]}


@dataclass(frozen=True, kw_only=True)
class FoldFamily(ABC):
    """A family whose models are arrays; a subclass says how one is fitted and how it is asked.

    ``name`` is that under which it is registered, ``words`` are for people, in the plural.
    """

    encoding: Encoding
    models: tuple[Arrays, ...] = ()

    name: ClassVar[str]
    words: ClassVar[str]
    work: ClassVar[int] = 1
    requirements: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def fit_fold(self, fold: Fold, seed: int) -> Arrays:
        """Fit one model, which may stop by the rows that it leaves out."""

    @staticmethod
    @abstractmethod
    def score(arrays: Arrays, x: NDArray[np.float32]) -> Floats:
        """Score encoded rows with one model.  Shape: (n, columns) -> logits (n, classes).

        Pulled models have the text of this function alone: it knows its arguments and ``np``.
        """

    @property
    def parameters(self) -> tuple[int | None, ...]:
        """Numbers of each model's arrays."""
        return tuple(sum(values.size for values in model.values()) for model in self.models)

    def ask(self, model: Arrays, features: pd.DataFrame) -> Floats:
        return self.score(model, self.encoding.encode(features))

    def pack(self, model: Arrays) -> Arrays:
        return model

    def unpack(self, arrays: Arrays) -> Arrays:
        return arrays

    def family(self, models: tuple[Arrays, ...]) -> Self:
        return replace(self, models=models)

    def members(self, members: slice) -> Self:
        """Some members as a family of their own."""
        return self.family(self.models[members])

    def logits(self, features: pd.DataFrame) -> Tensor:
        """Score raw rows with each member.  Shape: n rows -> (k, n, classes)."""
        x = self.encoding.encode(features)
        scored = np.stack([self.score(model, x) for model in self.models])
        return torch.from_numpy(scored.astype(np.float32))

    def save(self, folder: Path) -> None:
        """Write ``model-01.npz`` ..., ``encoding.json``, and ``scorer.py`` for pulled models."""
        for i, model in enumerate(self.models, 1):
            np.savez(folder / f"model-{i:02d}.npz", allow_pickle=False, **model)
        write_json(folder / ENCODING, self.encoding.to_dict())
        source = SCORER + textwrap.dedent(inspect.getsource(self.score))
        (folder / "scorer.py").write_text(source, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Rebuild what ``save`` wrote, bit for bit."""
        models = []
        for path in sorted(folder.glob("model-*.npz")):
            with np.load(path, allow_pickle=False) as arrays:
                models.append(dict(arrays))
        encoding = Encoding.from_dict(read_json(folder / ENCODING))
        return cls(encoding=encoding, models=tuple(models))

    @classmethod
    def kind(cls) -> Kind:
        """What registers this family."""

        def trainings(given: TeacherInputs) -> list[FoldTraining[Arrays]]:
            return [fold_training(given, cls.name, cls.words, cls(encoding=given.encoding))]

        return Kind(name=cls.name, runs=cls.name, trainings=trainings, load=cls.load)


class ArrayFamily(FoldFamily):
    """A family whose models are fitted to encoded rows and look at no others."""

    def fit_fold(self, fold: Fold, seed: int) -> Arrays:
        """Fit one model to the rows that it does not leave out."""
        x, classes = self.encoding.encode(fold.features), len(self.encoding.classes)
        return self.fit_arrays(x, fold.labels, classes, seed)

    @staticmethod
    @abstractmethod
    def fit_arrays(x: NDArray[np.float32], y: NDArray[np.int64], classes: int, seed: int) -> Arrays:
        """Fit one model.  Shape: x encoded columns (n, columns), gaps NaN; y class numbers (n,)."""


def fold_training(
    given: TeacherInputs, name: str, label: str, recipe: Recipe[M]
) -> FoldTraining[M]:
    """The training of as many models of a family as the configuration says."""
    k = given.config.n_own
    return FoldTraining(
        name=name,
        label=label,
        recipe=recipe,
        dataset=given.dataset,
        seeds=given.seeds(family_stream(name), k),
        held_out=given.folds(k),
    )
