"""Families of teachers: models of one kind that are trained together and score a table's rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import pandas as pd
from torch import Tensor

from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.config.groups import DataOptions
from kd_mlflow.config.rules import FAMILIES, OWN_FAMILIES
from kd_mlflow.distillation.identity import fingerprint
from kd_mlflow.distillation.inputs import TeacherInputs
from kd_mlflow.population.checkpoints import NOWHERE, Checkpoints
from kd_mlflow.population.history import History, OnEpoch
from kd_mlflow.population.sampling import RowNumbers
from kd_mlflow.population.workers import Workers
from kd_mlflow.table.dataset import Identity

ENCODING = "encoding.json"

UNMARKED = ("mlp", "boosting")
"""Families whose fingerprints know nothing of options for others: they are older than these."""

T_co = TypeVar("T_co", covariant=True)


class Family(Protocol):
    """Models of one kind, the members of an ensemble that belong together."""

    @property
    def name(self) -> str:
        """What its kind is called: the tag ``kd.family`` of its runs."""

    @property
    def words(self) -> str:
        """What its members are, for people, in the plural."""

    @property
    def parameters(self) -> tuple[int | None, ...]:
        """Fitted numbers of each member, None where they cannot be counted.  Length: k."""

    @property
    def work(self) -> int:
        """How many weights of a network cost as much time per row as one of its numbers."""

    @property
    def requirements(self) -> tuple[str, ...]:
        """Packages that its pulled models need besides numpy and pandas."""

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
    left out none.
    """

    family: Family
    history: History
    held_out: tuple[RowNumbers, ...]


class Trainable(Protocol[T_co]):
    """What can be trained: a population's task, or a family of teachers."""

    @property
    def seeds(self) -> Sequence[int]:
        """One seed per member."""

    @property
    def epochs(self) -> int:
        """Most epochs, or rounds of boosting."""

    def fit(self, workers: Workers, on_epoch: OnEpoch, checkpoints: Checkpoints = NOWHERE) -> T_co:
        """Train it, on all workers, from where checkpoints leave off."""


class Training(Trainable[Trained], Protocol):
    """The training of one family."""

    @property
    def label(self) -> str:
        """What is trained, for those who watch."""

    @property
    def name(self) -> str:
        """The family's name."""

    @property
    def own_options(self) -> Mapping[str, str]:
        """Options that it takes other values of than the configuration's, as text."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of family, as its module registers it.

    Its members' runs are called ``runs``-01 and so on. ``trainings`` says how it is trained, as one
    family or several; ``load`` rebuilds what a family's ``save`` wrote. ``rehearse`` raises what
    would otherwise fail after training; ``digest`` is of code that is none of this package's.
    """

    name: str
    runs: str
    trainings: Callable[[TeacherInputs], Sequence[Training]]
    load: Callable[[Path], Family]
    rehearse: Callable[[TeacherInputs], None] = lambda given: None
    digest: Callable[[], str] = str


def family_kind(name: str) -> Kind:
    """The kind of family of a name: one that is registered, or module:function of a user's."""
    kind: Kind = (
        import_module(FAMILIES[name].module).FAMILY
        if name in FAMILIES
        else import_module(OWN_FAMILIES).kind(name)
    )
    return kind


def teachers_fingerprint(identity: Identity, config: TeachersConfig) -> str:
    """The fingerprint of an ensemble of a resolved configuration.

    How its table is read, ``force`` and the recipe's name do not count. The code of a user's
    functions does; options that are about families beside ours count where there are such.
    """
    values = config.as_text()
    del values["own_pickle"]
    others = [name for name in config.teacher_families.split(",") if name not in UNMARKED]
    values |= {
        f"code of {name}": digest for name in others if (digest := family_kind(name).digest())
    }
    if not others:
        del values["n_own"]
    for name in ("force", "recipe", *(field.name for field in fields(DataOptions))):
        del values[name]
    return fingerprint(identity, values)


def write_json(path: Path, content: Any) -> None:
    """Write a document that people can read."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read what ``write_json`` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
