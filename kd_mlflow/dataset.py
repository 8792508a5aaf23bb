"""A table with its split: the rows of each side, as tables and as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow.config import DataOptions
from kd_mlflow.data import Split, Table, load_table, split_rows
from kd_mlflow.encoding import Encoding
from kd_mlflow.training import Rows


@dataclass(frozen=True, kw_only=True)
class TestRows:
    """The rows that a version's logged accuracy was measured on."""

    __test__ = False  # pytest: this is no test case

    features: pd.DataFrame
    labels: NDArray[np.object_]


class Sides(NamedTuple):
    """A table's rows by what they are for, features and then the label."""

    train: pd.DataFrame
    val: pd.DataFrame
    test: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A table and its split."""

    table: Table
    split: Split

    def features(self, side: str) -> pd.DataFrame:
        """Feature columns of one side: train, val or test."""
        rows: pd.DataFrame = self.table.features.iloc[getattr(self.split, side)]
        return rows

    def labels(self, side: str) -> NDArray[np.int64]:
        """Class numbers of one side.  Shape: (n,)."""
        labels: NDArray[np.int64] = self.table.labels[getattr(self.split, side)]
        return labels

    def test_rows(self) -> TestRows:
        """Test rows with their labels as they stand in the table."""
        classes = np.array(self.table.classes, dtype=object)
        return TestRows(features=self.features("test"), labels=classes[self.labels("test")])

    def sides(self) -> Sides:
        """The rows of each side as tables of their own."""
        classes = np.array(self.table.classes)
        return Sides(
            *(
                self.features(side).assign(**{self.table.target: classes[self.labels(side)]})
                for side in Sides._fields
            )
        )


def read_dataset(config: DataOptions) -> Dataset:
    """Read and split the table that a configuration names."""
    table = load_table(config.data, config.target)
    return Dataset(table=table, split=split_rows(table, config.val_fraction))


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
