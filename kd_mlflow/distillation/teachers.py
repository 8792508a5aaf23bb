"""Where soft targets come from: any teacher; our own ensemble, stored and rebuilt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import pandas as pd
import torch
from torch import Tensor

from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.config.rules import BOOSTING, MLP
from kd_mlflow.distillation.boosting import Trees, boosting_training
from kd_mlflow.distillation.families import (
    ENCODING,
    Family,
    Trained,
    Training,
    read_json,
    write_json,
)
from kd_mlflow.distillation.identity import (
    BOOSTING_STREAM,
    FOLDS_STREAM,
    FORMAT,
    TEACHER_STREAM,
    member_seeds,
)
from kd_mlflow.distillation.logits import class_probabilities
from kd_mlflow.distillation.networks import Networks, network_training
from kd_mlflow.errors import RunError
from kd_mlflow.evaluation.comparison import EnsembleMetrics, evaluate_ensemble
from kd_mlflow.population.history import ignore_epoch
from kd_mlflow.population.losses import AVERAGES
from kd_mlflow.population.selection import Mixture, Unseen, choose
from kd_mlflow.population.workers import HERE, Workers
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding, fit_encoding, piecewise_linear
from kd_mlflow.table.folds import held_out_rows
from kd_mlflow.table.hashing import distinct_rows

FAMILIES: Mapping[str, type[Family]] = {MLP: Networks, BOOSTING: Trees}
"""The kinds of teachers that are trained here, by name."""

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
    def parameters(self) -> int:
        """Fitted numbers of all members that count: of weights above 0."""
        each = [number for family in self.families for number in family.parameters]
        return sum(n for n, weight in zip(each, self.weights, strict=True) if weight)

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
                FAMILIES[name].load(folder / f"family-{i}")
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
            mixture=Mixture(
                shares=tuple(mixture.shares[i] for i in kept),
                temperatures=tuple(mixture.temperatures[i] for i in kept),
                temperature=mixture.temperature,
            ),
        )


def mixture_of(trained: Sequence[Trained], dataset: Dataset) -> Mixture:
    """How much each family counts, by rows that it was not trained on: see ``selection.choose``."""
    train, val = dataset.features("train"), dataset.features("val")
    unseen = []
    for each in trained:
        family = each.family
        own = torch.full((len(train), len(dataset.table.classes)), torch.nan)
        for i, rows in enumerate(each.held_out):
            (own[rows],) = family.members(slice(i, i + 1)).logits(train.iloc[rows])
        unseen.append(Unseen(out_of_fold=own, val=family.logits(val)))
    labels, val_labels = (torch.from_numpy(dataset.labels(side)) for side in ("train", "val"))
    return choose(unseen, labels, val_labels)


def teacher_trainings(config: TeachersConfig, dataset: Dataset) -> list[Training]:
    """How each family of a resolved configuration is trained.

    With bins every second network takes them, and every second boosted model samples columns: each
    half is a family, since what suits one table is wrong for the next.
    """
    families, plain = config.teacher_families.split(","), teachers_encoding(config, dataset)
    (fold_seed,) = member_seeds(config.seed, FOLDS_STREAM, 1)
    trainings: list[Training] = []
    if MLP in families:
        seeds = member_seeds(config.seed, TEACHER_STREAM, config.n_teachers)
        binned = len(seeds) // 2 if config.teacher_bins else 0
        groups = [(plain, seeds[: len(seeds) - binned])]
        if binned:
            encoding = teachers_encoding(config, dataset, bins=config.teacher_bins)
            groups.append((encoding, seeds[-binned:]))
        for encoding, own in groups:
            held_out = (
                held_out_rows(dataset, len(own), fold_seed) if config.teacher_patience else ()
            )
            trainings.append(
                network_training(config, encoding, dataset, held_out=held_out, seeds=own)
            )
    if BOOSTING in families:
        seeds = member_seeds(config.seed, BOOSTING_STREAM, config.n_boosted)
        half = len(seeds) // 2
        for sampled, own in ((False, seeds[half:]), (True, seeds[:half])):
            rows = held_out_rows(dataset, len(own), fold_seed)
            if own:
                trainings.append(
                    boosting_training(
                        config, plain, dataset, held_out=rows, seeds=own, sampled=sampled
                    )
                )
    return trainings


def train_ensemble(config: TeachersConfig, dataset: Dataset, workers: Workers = HERE) -> Ensemble:
    """Train all families of a resolved configuration, and nothing else: no run is logged."""
    trained = [each.fit(workers, ignore_epoch) for each in teacher_trainings(config, dataset)]
    return assembled(config, dataset, trained)


def assembled(
    config: TeachersConfig, dataset: Dataset, trained: Sequence[Trained], *, run_id: str = ""
) -> Ensemble:
    """One ensemble of trained families, weighed as the configuration says."""
    return Ensemble(
        encoding=teachers_encoding(config, dataset),
        families=tuple(each.family for each in trained),
        mixture=mixture_of(trained, dataset) if config.weighting == "greedy" else None,
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


def teachers_encoding(config: TeachersConfig, dataset: Dataset, *, bins: int = 0) -> Encoding:
    """What a table's training rows say about its columns."""
    features = dataset.features("train")
    encoding = fit_encoding(
        features,
        target=dataset.table.target,
        classes=dataset.table.classes,
        max_categories=config.max_categories,
        scaling=config.scaling,
        kinds=dataset.table.kinds,
        gap_texts=dataset.table.gap_texts,
    )
    return piecewise_linear(encoding, encoding.encode(features), bins) if bins else encoding
