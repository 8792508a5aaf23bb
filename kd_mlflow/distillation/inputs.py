"""What a training takes from a table and its options: inputs, labels, schedule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.config.groups import TrainingOptions
from kd_mlflow.distillation.identity import FOLDS_STREAM, member_seeds
from kd_mlflow.population.sampling import Inputs, RowNumbers
from kd_mlflow.population.training import Rows, Schedule
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import ENCODED_ROWS, Encoding, Scaler, fit_encoding, piecewise_linear
from kd_mlflow.table.folds import held_out_rows

DENSE_BYTES = 2**29
"""Inputs of a table beyond this are not kept: they are made of its encoded columns as needed."""


@dataclass(frozen=True, kw_only=True)
class TeacherInputs:
    """What families of teachers are trained from: a resolved configuration and a table."""

    config: TeachersConfig
    dataset: Dataset

    @cached_property
    def encoding(self) -> Encoding:
        """What the table's training rows say about its columns."""
        return teachers_encoding(self.config, self.dataset)

    def binned(self, bins: int) -> Encoding:
        """The same with numbers in at most so many bins."""
        encoded = self.encoding.encode(self.dataset.features("train"))
        return piecewise_linear(self.encoding, encoded, bins)

    def seeds(self, stream: int, k: int) -> list[int]:
        """Seeds of a family's members."""
        return member_seeds(self.config.seed, stream, k)

    def folds(self, k: int) -> tuple[RowNumbers, ...]:
        """The training rows that each of ``k`` members leaves out."""
        (seed,) = self.seeds(FOLDS_STREAM, 1)
        return held_out_rows(self.dataset, k, seed)


def teachers_encoding(config: TeachersConfig, dataset: Dataset) -> Encoding:
    """What a table's training rows say about its columns."""
    return fit_encoding(
        dataset.features("train"),
        target=dataset.table.target,
        classes=dataset.table.classes,
        max_categories=config.max_categories,
        scaling=config.scaling,
        kinds=dataset.table.kinds,
        gap_texts=dataset.table.gap_texts,
        forms=dataset.table.forms,
    )


def training_device() -> torch.device:
    """Where models are trained."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def training_rows(encoding: Encoding, dataset: Dataset) -> Rows:
    """Inputs of the train and validation rows, on the device that trains."""
    train, val = (
        inputs_of(encoding, torch.from_numpy(encoding.encode(dataset.features(side))))
        for side in ("train", "val")
    )
    return Rows(train=train, val=val)


def inputs_of(encoding: Encoding, encoded: Tensor) -> Inputs:
    """Rows as inputs, on the device that trains: kept, or made batch by batch if they are many.

    A piecewise-linear column has as many inputs as bins.  Shape: encoded (n, columns).
    """
    encoded, scaler = encoded.to(training_device()), Scaler(encoding).to(training_device())
    many = Inputs(encoded, scaler)
    if 4 * len(encoded) * scaler.width > DENSE_BYTES:
        return many
    inputs = encoded.new_empty(len(encoded), scaler.width)
    for start in range(0, len(encoded), ENCODED_ROWS):
        part = slice(start, start + ENCODED_ROWS)
        inputs[part] = many[part]
    return Inputs(inputs)


def label_tensors(dataset: Dataset, device: torch.device) -> tuple[Tensor, Tensor]:
    """Class numbers of the train and validation rows.  Shapes: (n,) and (m,)."""
    train, val = (torch.from_numpy(dataset.labels(side)).to(device) for side in ("train", "val"))
    return train, val


def schedule_of(
    options: TrainingOptions, *, epochs: int, weight_decay: float | tuple[float, ...]
) -> Schedule:
    """The schedule of resolved options, for teachers or students."""
    return Schedule(
        epochs=epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=weight_decay,
        decay=options.schedule,
    )
