"""Networks as teachers: one population per family, and how a table trains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.distillation.families import ENCODING, Kind, Trained, read_json, write_json
from kd_mlflow.distillation.identity import TEACHER_STREAM
from kd_mlflow.distillation.inputs import TeacherInputs, label_tensors, schedule_of, training_rows
from kd_mlflow.distillation.logits import validation_metrics
from kd_mlflow.population.checkpoints import NOWHERE, Checkpoints
from kd_mlflow.population.history import OnEpoch
from kd_mlflow.population.losses import LabelLoss
from kd_mlflow.population.network import Population, StackedLinear
from kd_mlflow.population.optimizers import MUON
from kd_mlflow.population.sampling import Inputs, RowNumbers, Sampling
from kd_mlflow.population.training import Task
from kd_mlflow.population.workers import Workers
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding, Scaler

MLP = "mlp"

PLAIN, COMPACT = "networks", "compact networks"
"""What networks are called whose numbers are inputs as they are."""

COMPACT_RECIPE: dict[str, Any] = {
    "teacher_hidden": (64, 32),
    "teacher_optimizer": MUON,
    "teacher_weight_decay": 3e-4,
    "dropout": 0.0,
}
"""How compact networks differ: they are as students are, who learn more of a smooth table from
labels alone than networks of ten times the numbers.
"""

COMPACT_EPOCHS = 2
"""How many times the epochs of the others they are trained, at most."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Multilayer perceptrons with the encoding of their inputs."""

    encoding: Encoding
    population: Population
    words: str = PLAIN
    name: str = MLP
    work: ClassVar[int] = 1

    requirements: ClassVar[tuple[str, ...]] = ()

    @property
    def parameters(self) -> tuple[int, ...]:
        """Weights and biases of each member."""
        return (self.population.parameters_per_member,) * self.population.k

    def members(self, members: slice) -> Networks:
        """Some members as a family of their own."""
        return replace(self, population=self.population.members(members))

    def logits(self, features: pd.DataFrame) -> Tensor:
        """Score raw rows with each member.  Shape: n rows -> (k, n, classes)."""
        device = next(self.population.parameters()).device
        encoded = torch.from_numpy(self.encoding.encode(features)).to(device)
        inputs = Inputs(encoded, Scaler(self.encoding).to(device))
        return self.population.logits(inputs).cpu()

    def save(self, folder: Path) -> None:
        """Write ``weights.npz``, what describes it, and ``scaler.npz``, by which it is served."""
        weights = {n: p.detach().cpu().numpy() for n, p in self.population.named_parameters()}
        np.savez(folder / "weights.npz", allow_pickle=False, **weights)
        shape = {"sizes": self.population.sizes, "dropout": self.population.dropout}
        shape["words"] = self.words
        write_json(folder / "networks.json", shape)
        write_json(folder / ENCODING, self.encoding.to_dict())
        scaler = {n: values.numpy() for n, values in Scaler(self.encoding).state_dict().items()}
        np.savez(folder / "scaler.npz", allow_pickle=False, **scaler)

    @classmethod
    def load(cls, folder: Path) -> Networks:
        """Rebuild what ``save`` wrote, bit for bit."""
        shape = read_json(folder / "networks.json")
        with np.load(folder / "weights.npz", allow_pickle=False) as weights:
            layers = [
                StackedLinear(
                    torch.from_numpy(weights[f"layers.{i}.weight"]),
                    torch.from_numpy(weights[f"layers.{i}.bias"]),
                )
                for i in range(len(shape["sizes"]) - 1)
            ]
        encoding = Encoding.from_dict(read_json(folder / ENCODING))
        return cls(
            encoding=encoding,
            population=Population(layers, dropout=shape["dropout"]),
            words=shape.get("words") or inputs_name(encoding),  # older ones have none
        )


@dataclass(frozen=True, kw_only=True)
class NetworkTraining:
    """The training of one family of networks."""

    encoding: Encoding
    task: Task
    label: str
    own_options: Mapping[str, str]
    name: str = MLP

    @property
    def seeds(self) -> Sequence[int]:
        """One seed per member."""
        return self.task.seeds

    @property
    def epochs(self) -> int:
        """Most epochs."""
        return self.task.epochs

    def fit(
        self, workers: Workers, on_epoch: OnEpoch, checkpoints: Checkpoints = NOWHERE
    ) -> Trained:
        """Train it, on all workers, from where checkpoints leave off."""
        history = self.task.fit(workers, on_epoch, checkpoints)
        population = self.task.population.cpu()
        family = Networks(encoding=self.encoding, population=population, words=self.label)
        return Trained(family=family, history=history, held_out=self.task.sampling.held_out)


def network_trainings(given: TeacherInputs) -> list[NetworkTraining]:
    """How networks of a configuration are trained: with bins every second one takes them.

    Each half is a family of its own, since what suits one table is wrong for the next; so are the
    compact ones, whose numbers are inputs as they are.
    """
    config, n = given.config, given.config.n_teachers
    seeds = given.seeds(TEACHER_STREAM, n + config.n_compact)
    with_bins = given.binned(config.teacher_bins) if config.teacher_bins else given.encoding
    binned = n // 2 if with_bins != given.encoding else 0  # no numbers: the same inputs
    epochs = COMPACT_EPOCHS * config.teacher_epochs
    compact = replace(config, teacher_epochs=epochs, **COMPACT_RECIPE)
    given_as, rows = config.as_text(), len(given.dataset.split.train)

    def training(
        label: str, own: TeachersConfig, encoding: Encoding, members: Sequence[int]
    ) -> NetworkTraining:
        optimizer = own.teacher_optimizer_for(rows, bins=has_bins(encoding))
        own = replace(own, teacher_optimizer=optimizer)
        return NetworkTraining(
            label=label,
            encoding=encoding,
            own_options={name: v for name, v in own.as_text().items() if v != given_as[name]},
            task=training_task(
                own,
                encoding,
                given.dataset,
                held_out=given.folds(len(members)) if config.teacher_patience else (),
                seeds=members,
            ),
        )

    families = (
        (inputs_name(given.encoding), config, given.encoding, seeds[: n - binned]),
        (inputs_name(with_bins), config, with_bins, seeds[n - binned : n]),
        (COMPACT, compact, given.encoding, seeds[n:]),
    )
    return [training(*each) for each in families if each[-1]]


def hidden_layers(config: TeachersConfig) -> list[tuple[int, ...]]:
    """Widths of each network's hidden layers, the compact ones last."""
    compact: tuple[int, ...] = COMPACT_RECIPE["teacher_hidden"]
    return [config.teacher_hidden] * config.n_teachers + [compact] * config.n_compact


def training_task(
    config: TeachersConfig,
    encoding: Encoding,
    dataset: Dataset,
    *,
    held_out: Sequence[RowNumbers],
    seeds: Sequence[int],
) -> Task:
    """The training of networks by a configuration that names their optimizer.

    Each sees the rows that it does not hold out, if any.
    """
    rows = training_rows(encoding, dataset)
    device = rows.val.values.device
    labels, val_labels = label_tensors(dataset, device)
    population = Population.initialised(
        (Scaler(encoding).width, *config.teacher_hidden, len(encoding.classes)),
        seeds=seeds,
        dropout=config.dropout,
    )
    mixup, n = config.teacher_mixup, len(labels)
    return Task(
        population=population.to(device),
        rows=rows,
        loss=LabelLoss(labels),
        schedule=schedule_of(
            config,
            config.teacher_optimizer,
            epochs=config.teacher_epochs,
            weight_decay=config.teacher_weight_decay,
            patience=config.teacher_patience,
        ),
        seeds=seeds,
        sampling=Sampling.leaving_out(n, held_out, mixup=mixup)
        if held_out
        else Sampling.whole(n, len(seeds), mixup=mixup),
        evaluate=lambda logits: validation_metrics(logits, val_labels),
    )


def inputs_name(encoding: Encoding) -> str:
    """What networks of an encoding are called."""
    return f"{PLAIN}, piecewise-linear inputs" if has_bins(encoding) else PLAIN


def has_bins(encoding: Encoding) -> bool:
    """Whether some number of an encoding is in bins."""
    return any(column.edges for column in encoding.columns)


FAMILY = Kind(name=MLP, runs="teacher", trainings=network_trainings, load=Networks.load)
