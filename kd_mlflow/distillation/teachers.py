"""Where soft targets come from: any teacher; our own ensemble, trained, stored and rebuilt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kd_mlflow.config import TeachersConfig
from kd_mlflow.distillation.identity import FORMAT, TEACHER_STREAM, member_seeds
from kd_mlflow.distillation.inputs import label_tensors, schedule_of, training_rows
from kd_mlflow.errors import RunError
from kd_mlflow.evaluation.comparison import validation_metrics
from kd_mlflow.population.losses import AVERAGES, LabelLoss
from kd_mlflow.population.network import Population, StackedLinear
from kd_mlflow.population.sampling import Sampling
from kd_mlflow.population.training import Task
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding, fit_encoding

SCORED_BYTES = 2**28
"""Bound of the members' logits that are held at once: memory does not grow with the rows scored."""


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
    def run_id(self) -> str | None:
        """The run that trained it; None where it was not trained here."""

    @property
    def tags(self) -> dict[str, str]:
        """What a run that it taught is tagged with."""

    def score(self, features: pd.DataFrame, averaging: str) -> Tensor:
        """Score raw rows with its members' average.  Shape: n rows -> (n, classes), logits."""


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Trained teachers with the encoding of the tables they score; ``run_id`` is their run's."""

    encoding: Encoding
    population: Population
    run_id: str = ""

    @property
    def parameters(self) -> int:
        """Trained values of all members."""
        return self.population.k * self.population.parameters_per_member

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
        """Encode and score raw rows.  Shape: n rows -> (n, classes), logits."""
        return self.logits(self.encoding.inputs(features), averaging)

    def member_logits(self, inputs: Tensor) -> Tensor:
        """Score a table's inputs with each member.  Shape: (n, d_in) -> (k, n, classes)."""
        device = next(self.population.parameters()).device
        return self.population.logits(inputs.to(device)).cpu()

    def logits(self, inputs: Tensor, averaging: str) -> Tensor:
        """Score a table's inputs with the members' average: of logits or of probabilities.

        Shape: (n, d_in) -> (n, classes).
        """
        average = AVERAGES[averaging]
        row_bytes = 4 * self.population.k * self.population.sizes[-1]
        rows_at_once = max(1, SCORED_BYTES // row_bytes)
        return torch.cat(
            [average(self.member_logits(rows)) for rows in torch.split(inputs, rows_at_once)]
        )

    def save(self, folder: Path) -> None:
        """Write ``weights.npz``, ``ensemble.json`` and ``encoding.json``; no pickled objects."""
        weights = {n: p.detach().cpu().numpy() for n, p in self.population.named_parameters()}
        np.savez(folder / "weights.npz", allow_pickle=False, **weights)
        description = {
            "format": FORMAT,
            "members": self.population.k,
            "sizes": self.population.sizes,
            "dropout": self.population.dropout,
        }
        for name, content in (("ensemble", description), ("encoding", self.encoding.to_dict())):
            text = json.dumps(content, indent=1, ensure_ascii=False)
            (folder / f"{name}.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Ensemble:
        """Rebuild what ``save`` wrote, bit for bit.  Raises RunError for another format."""
        description = json.loads((folder / "ensemble.json").read_text(encoding="utf-8"))
        encoding = json.loads((folder / "encoding.json").read_text(encoding="utf-8"))
        if description["format"] != FORMAT:
            raise RunError(f"the ensemble has format {description['format']}, not {FORMAT}")
        with np.load(folder / "weights.npz", allow_pickle=False) as weights:
            layers = [
                StackedLinear(
                    torch.from_numpy(weights[f"layers.{i}.weight"]),
                    torch.from_numpy(weights[f"layers.{i}.bias"]),
                )
                for i in range(len(description["sizes"]) - 1)
            ]
        return cls(
            encoding=Encoding.from_dict(encoding),
            population=Population(layers, dropout=description["dropout"]),
        )


def teacher_task(config: TeachersConfig, encoding: Encoding, dataset: Dataset) -> Task:
    """The training of the ensemble's members."""
    rows = training_rows(encoding, dataset)
    labels, val_labels = label_tensors(dataset, rows.train.device)
    seeds = member_seeds(config.seed, TEACHER_STREAM, config.n_teachers)
    population = Population.initialised(
        (rows.train.shape[1], *config.teacher_hidden, len(encoding.classes)),
        seeds=seeds,
        dropout=config.dropout,
    )
    return Task(
        population=population.to(rows.train.device),
        rows=rows,
        loss=LabelLoss(labels),
        schedule=schedule_of(
            config, epochs=config.teacher_epochs, weight_decay=config.teacher_weight_decay
        ),
        seeds=seeds,
        sampling=Sampling.whole(len(labels), config.n_teachers, mixup=config.teacher_mixup),
        evaluate=lambda logits: validation_metrics(logits, val_labels),
    )


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
    )
