"""What a training takes from a table and its options: inputs, labels, schedule."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_mlflow.config import TrainingOptions
from kd_mlflow.population.training import Rows, Schedule
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding


def training_rows(encoding: Encoding, dataset: Dataset) -> Rows:
    """Scaled inputs of the train and validation rows, on the device that trains."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    split, features = dataset.split, dataset.table.features
    train, val = (encoding.inputs(features, rows).to(device) for rows in (split.train, split.val))
    return Rows(train=train, val=val)


def label_tensors(dataset: Dataset, device: torch.device) -> tuple[Tensor, Tensor]:
    """Class numbers of the train and validation rows.  Shapes: (n,) and (m,)."""
    train, val = (torch.from_numpy(dataset.labels(side)).to(device) for side in ("train", "val"))
    return train, val


def schedule_of(options: TrainingOptions, *, epochs: int, weight_decay: float) -> Schedule:
    """The schedule of resolved options, for teachers or students."""
    return Schedule(
        epochs=epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=weight_decay,
        decay=options.schedule,
    )
