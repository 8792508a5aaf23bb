"""Networks as teachers: one population per family, and how a table trains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

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
from kd_mlflow.population.sampling import Inputs, RowNumbers, Sampling
from kd_mlflow.population.training import Task
from kd_mlflow.population.workers import Workers
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding, Scaler

MLP = "mlp"

PLAIN = "networks"
"""What networks are called whose numbers are inputs as they are."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Multilayer perceptrons with the encoding of their inputs."""

    encoding: Encoding
    population: Population
    name: str = MLP
    work: ClassVar[int] = 1

    requirements: ClassVar[tuple[str, ...]] = ()

    @property
    def words(self) -> str:
        """What its members are, for people."""
        return words(self.encoding)

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
        return cls(
            encoding=Encoding.from_dict(read_json(folder / ENCODING)),
            population=Population(layers, dropout=shape["dropout"]),
        )


@dataclass(frozen=True, kw_only=True)
class NetworkTraining:
    """The training of one family of networks."""

    encoding: Encoding
    task: Task
    label: str
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
        family = Networks(encoding=self.encoding, population=self.task.population.cpu())
        return Trained(family=family, history=history, held_out=self.task.sampling.held_out)


def network_trainings(given: TeacherInputs) -> list[NetworkTraining]:
    """How networks of a configuration are trained: with bins every second one takes them.

    Each half is a family of its own, since what suits one table is wrong for the next.
    """
    config = given.config
    seeds = given.seeds(TEACHER_STREAM, config.n_teachers)
    with_bins = given.binned(config.teacher_bins) if config.teacher_bins else given.encoding
    binned = len(seeds) // 2 if with_bins != given.encoding else 0  # no numbers: the same inputs
    groups = [(given.encoding, seeds[: len(seeds) - binned])]
    if binned:
        groups.append((with_bins, seeds[-binned:]))
    return [
        network_training(
            config,
            encoding,
            given.dataset,
            held_out=given.folds(len(own)) if config.teacher_patience else (),
            seeds=own,
        )
        for encoding, own in groups
    ]


def network_training(
    config: TeachersConfig,
    encoding: Encoding,
    dataset: Dataset,
    *,
    held_out: Sequence[RowNumbers],
    seeds: Sequence[int],
) -> NetworkTraining:
    """The training of networks, each on the rows that it does not hold out, if any."""
    rows = training_rows(encoding, dataset)
    device = rows.val.values.device
    labels, val_labels = label_tensors(dataset, device)
    population = Population.initialised(
        (Scaler(encoding).width, *config.teacher_hidden, len(encoding.classes)),
        seeds=seeds,
        dropout=config.dropout,
    )
    mixup, n = config.teacher_mixup, len(labels)
    task = Task(
        population=population.to(device),
        rows=rows,
        loss=LabelLoss(labels),
        schedule=schedule_of(
            config,
            config.teacher_optimizer_for(n, bins=has_bins(encoding)),
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
    return NetworkTraining(encoding=encoding, task=task, label=words(encoding))


def words(encoding: Encoding) -> str:
    """What networks of an encoding are called."""
    return f"{PLAIN}, piecewise-linear inputs" if has_bins(encoding) else PLAIN


def has_bins(encoding: Encoding) -> bool:
    """Whether some number of an encoding is in bins."""
    return any(column.edges for column in encoding.columns)


FAMILY = Kind(name=MLP, runs="teacher", trainings=network_trainings, load=Networks.load)
