"""Families of teachers: models of one kind that are trained together and score a table's rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow.population.checkpoints import NOWHERE, Checkpoints
from kd_mlflow.population.history import History, OnEpoch, best_epochs
from kd_mlflow.population.sampling import RowNumbers
from kd_mlflow.population.workers import Workers

ENCODING = "encoding.json"


class Family(Protocol):
    """Models of one kind, the members of an ensemble that belong together."""

    @property
    def name(self) -> str:
        """What its kind is called: the tag ``kd.family`` of its runs."""

    @property
    def words(self) -> str:
        """What its members are, for people, in the plural."""

    @property
    def parameters(self) -> tuple[int, ...]:
        """Fitted numbers of each member.  Length: k."""

    def members(self, members: slice) -> Self:
        """Some members as a family of their own."""

    def logits(self, features: pd.DataFrame) -> Tensor:
        """Score raw rows with each member.  Shape: n rows -> (k, n, classes)."""

    def save(self, folder: Path) -> None:
        """Write what ``load`` needs, without pickled objects."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Rebuild what ``save`` wrote, bit for bit."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A family after its training.

    ``held_out`` are the numbers of the training rows that each member left out, empty where they
    left out none; ``best`` is each member's best epoch, from 1.
    """

    family: Family
    history: History
    held_out: tuple[RowNumbers, ...]

    @property
    def best(self) -> NDArray[np.int64]:
        """The epoch, from 1, that each member was taken from.  Shape: (k,)."""
        return best_epochs(self.history)


class Training(Protocol):
    """The training of one family."""

    @property
    def label(self) -> str:
        """What is trained, for those who watch."""

    @property
    def name(self) -> str:
        """The family's name."""

    @property
    def seeds(self) -> Sequence[int]:
        """One seed per member."""

    @property
    def epochs(self) -> int:
        """Most epochs, or rounds of boosting."""

    def fit(
        self, workers: Workers, on_epoch: OnEpoch, checkpoints: Checkpoints = NOWHERE
    ) -> Trained:
        """Train it, on all workers, from where checkpoints leave off."""


def write_json(path: Path, content: Any) -> None:
    """Write a document that people can read."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read what ``write_json`` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
