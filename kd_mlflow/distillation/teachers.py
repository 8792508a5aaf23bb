"""Where soft targets come from: any teacher; our own ensemble, stored and rebuilt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import pandas as pd
import torch
from torch import Tensor

from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.config.rules import FAMILIES
from kd_mlflow.distillation.families import (
    ENCODING,
    Family,
    Trained,
    Training,
    family_kind,
    read_json,
    write_json,
)
from kd_mlflow.distillation.identity import FORMAT
from kd_mlflow.distillation.inputs import TeacherInputs
from kd_mlflow.distillation.logits import class_probabilities
from kd_mlflow.errors import RunError
from kd_mlflow.evaluation.comparison import EnsembleMetrics, evaluate_ensemble
from kd_mlflow.population.history import ignore_epoch
from kd_mlflow.population.losses import AVERAGES
from kd_mlflow.population.selection import Mixture, Unseen, select_mixture
from kd_mlflow.population.workers import HERE, Workers
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding
from kd_mlflow.table.hashing import distinct_rows

SCORED_BYTES = 2**28
"""Bound of the members' logits that are held at once: memory does not grow with the rows scored."""


class Part(NamedTuple):
    """Some models of a teacher: what they are called, how many, their share of its answer."""

    name: str
    models: int
    share: float


class Teacher(Protocol):
    """Whatever labels rows for students: our ensemble, or anybody's models."""

    @property
    def encoding(self) -> Encoding:
        """The encoding that its students get."""

    @property
    def parameters(self) -> int | None:
        """Trained values of all its members; None where they cannot be counted."""

    @property
    def work(self) -> int | None:
        """What a row costs all its members, in weights of a network; None where not known."""

    @property
    def source(self) -> str:
        """Where it comes from, for people."""

    @property
    def identity(self) -> str:
        """What it is, for fingerprints."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """What it is made of, for people."""

    @property
    def run_id(self) -> str | None:
        """The run that trained it; None where it was not trained here."""

    @property
    def tags(self) -> dict[str, str]:
        """What a run that it taught is tagged with."""

    def score(self, features: pd.DataFrame, averaging: str) -> Tensor:
        """Score raw rows with its members' average.  Shape: n rows -> (n, classes), logits."""


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Trained families and how much each counts; ``run_id`` is their run's.

    Without a ``mixture`` all members count alike. ``encoding`` is what its students get.
    """

    encoding: Encoding
    families: tuple[Family, ...]
    mixture: Mixture | None = None
    run_id: str = ""

    @property
    def weights(self) -> tuple[float, ...]:
        """Each member's share of the average, family by family; they sum to 1."""
        sizes = [len(family.parameters) for family in self.families]
        if self.mixture is None:
            return (1 / sum(sizes),) * sum(sizes)
        shares = zip(self.mixture.shares, sizes, strict=True)
        return tuple(share / size for share, size in shares for _ in range(size))

    @property
    def parameters(self) -> int | None:
        """Fitted numbers of all members that count; None where those of one are not known."""
        return total(number for family in self.used.families for number in family.parameters)

    @property
    def work(self) -> int | None:
        """What a row costs all members that count, in weights of a network; None if not known."""
        counted = [(total(family.parameters), family.work) for family in self.used.families]
        return total(None if number is None else number * work for number, work in counted)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Its families, in words."""
        shares = self.mixture.shares if self.mixture else None
        whole = len(self.weights)
        return tuple(
            Part(family.words, n := len(family.parameters), shares[i] if shares else n / whole)
            for i, family in enumerate(self.families)
        )

    @property
    def source(self) -> str:
        """The ensemble's run."""
        return f"run {self.run_id}"

    @property
    def identity(self) -> str:
        """The ensemble's run id."""
        return self.run_id

    @property
    def tags(self) -> dict[str, str]:
        """What a run that it taught is tagged with."""
        return {"kd.teachers_run_id": self.run_id}

    def score(self, features: pd.DataFrame, averaging: str) -> Tensor:
        """Score raw rows with the members' average.  Shape: n rows -> (n, classes), logits."""
        used = self.used
        row_bytes = 4 * len(used.weights) * len(self.encoding.classes)
        rows_at_once = max(1, SCORED_BYTES // row_bytes)
        parts = [
            features.iloc[start : start + rows_at_once]
            for start in range(0, len(features), rows_at_once)
        ]
        return torch.cat([used.average(used.member_logits(part), averaging) for part in parts])

    def member_logits(self, features: pd.DataFrame) -> Tensor:
        """Score raw rows with each member.  Shape: n rows -> (k, n, classes)."""
        return torch.cat([family.logits(features) for family in self.families])

    def average(self, member_logits: Tensor, averaging: str) -> Tensor:
        """The members' average, of logits or of probabilities, tempered where there is a mixture.

        Shape: (k, n, classes) -> (n, classes).
        """
        average, mixture = AVERAGES[averaging], self.mixture
        if mixture is None:
            return average(member_logits)
        sizes = torch.tensor([len(family.parameters) for family in self.families])
        own = torch.tensor(mixture.temperatures).repeat_interleave(sizes)
        tempered = member_logits / own[:, None, None]
        return average(tempered, torch.tensor(self.weights)) / mixture.temperature

    def save(self, folder: Path) -> None:
        """Write ``ensemble.json``, ``encoding.json`` and a folder per family; nothing pickled."""
        description = {
            "format": FORMAT,
            "families": [family.name for family in self.families],
            "mixture": asdict(self.mixture) if self.mixture else None,
        }
        write_json(folder / "ensemble.json", description)
        write_json(folder / ENCODING, self.encoding.to_dict())
        for i, family in enumerate(self.families, 1):
            own = folder / f"family-{i}"
            own.mkdir()
            family.save(own)

    @classmethod
    def load(cls, folder: Path) -> Ensemble:
        """Rebuild what ``save`` wrote, bit for bit.  Raises RunError for another format."""
        description = read_json(folder / "ensemble.json")
        if description["format"] != FORMAT:
            raise RunError(f"the ensemble has format {description['format']}, not {FORMAT}")
        mixture = description["mixture"]
        return cls(
            encoding=Encoding.from_dict(read_json(folder / ENCODING)),
            families=tuple(
                family_kind(name).load(folder / f"family-{i}")
                for i, name in enumerate(description["families"], 1)
            ),
            mixture=Mixture(**mixture) if mixture else None,
        )

    @property
    def used(self) -> Ensemble:
        """The ensemble without the families that do not count."""
        mixture = self.mixture
        if mixture is None or min(mixture.shares) > 0:
            return self
        kept = [i for i, share in enumerate(mixture.shares) if share]
        return replace(
            self,
            families=tuple(self.families[i] for i in kept),
            mixture=replace(
                mixture,
                shares=tuple(mixture.shares[i] for i in kept),
                temperatures=tuple(mixture.temperatures[i] for i in kept),
            ),
        )


def total(numbers: Iterable[int | None]) -> int | None:
    """The sum of numbers; None where one is not known."""
    every = list(numbers)
    known = [number for number in every if number is not None]
    return sum(known) if len(known) == len(every) else None


def mixture_of(trained: Sequence[Trained], dataset: Dataset) -> Mixture:
    """How much each family counts, by rows that it was not trained on: see ``select_mixture``."""
    train, val = dataset.features("train"), dataset.features("val")
    unseen = []
    for each in trained:
        family = each.family
        own = torch.full((len(train), len(dataset.table.classes)), torch.nan)
        for i, rows in enumerate(each.held_out):
            (own[rows],) = family.members(slice(i, i + 1)).logits(train.iloc[rows])
        unseen.append(Unseen(out_of_fold=own, val=family.logits(val)))
    labels, val_labels = (torch.from_numpy(dataset.labels(side)) for side in ("train", "val"))
    return select_mixture(unseen, labels, val_labels)


def teacher_trainings(given: TeacherInputs) -> list[Training]:
    """How each family of a resolved configuration is trained."""
    names = given.config.teacher_families.split(",")
    ordered = [*(name for name in FAMILIES if name in names), *(n for n in names if ":" in n)]
    return [training for name in ordered for training in family_kind(name).trainings(given)]


def train_ensemble(config: TeachersConfig, dataset: Dataset, workers: Workers = HERE) -> Ensemble:
    """Train all families of a resolved configuration, and nothing else: no run is logged."""
    given = TeacherInputs(config=config, dataset=dataset)
    return assembled(given, [each.fit(workers, ignore_epoch) for each in teacher_trainings(given)])


def assembled(given: TeacherInputs, trained: Sequence[Trained], *, run_id: str = "") -> Ensemble:
    """One ensemble of trained families, weighed as the configuration says."""
    greedy = given.config.weighting == "greedy"
    return Ensemble(
        encoding=given.encoding,
        families=tuple(each.family for each in trained),
        mixture=mixture_of(trained, given.dataset) if greedy else None,
        run_id=run_id,
    )


def evaluated(ensemble: Ensemble, dataset: Dataset, averaging: str) -> EnsembleMetrics:
    """Metrics of each teacher and of their averages on the test rows."""
    features = dataset.features("test")
    first, rows = distinct_rows(features)
    logits = ensemble.member_logits(features.iloc[first])[:, rows]
    return evaluate_ensemble(
        map(class_probabilities, logits),
        {name: class_probabilities(ensemble.average(logits, name)) for name in AVERAGES},
        dataset.labels("test"),
        parameters=[number for family in ensemble.families for number in family.parameters],
        ensemble_parameters=ensemble.parameters,
        averaging=averaging,
    )
