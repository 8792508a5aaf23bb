"""Where soft targets come from: any teacher; ours is stored without pickle and found again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kd_mlflow.config import TeachersConfig, WorkerOptions
from kd_mlflow.encoding import Encoding
from kd_mlflow.errors import RunError
from kd_mlflow.losses import AVERAGES
from kd_mlflow.models import Population, StackedLinear
from kd_mlflow.tracking import Tracker

if TYPE_CHECKING:
    from mlflow.entities import Run

ARTIFACT = "ensemble"
SCORED_ROWS = 65_536
"""Rows whose members' logits are held at once: memory does not grow with the rows scored."""

FORMAT = 1
"""Goes into the fingerprint: an ensemble of another format is trained anew, not misread."""


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
    def tags(self) -> dict[str, str]:
        """Tags of a run that it taught."""

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
        """Tags of a run that it taught."""
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
        return torch.cat(
            [average(self.member_logits(rows)) for rows in torch.split(inputs, SCORED_ROWS)]
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
        """Rebuild what ``save`` wrote, bit for bit."""
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


def fingerprint(data_digest: str, values: dict[str, str]) -> str:
    """SHA-256 of data and configuration: equal where training would give the same models."""
    elsewhere = {field.name for field in fields(WorkerOptions)}
    decisive = sorted(item for item in values.items() if item[0] not in elsewhere)
    content = json.dumps([FORMAT, data_digest, decisive])
    return hashlib.sha256(content.encode()).hexdigest()


def teachers_fingerprint(data_digest: str, config: TeachersConfig) -> str:
    """The fingerprint of an ensemble of a resolved configuration.

    Where its table lies, ``force`` and the recipe's name do not count.
    """
    values = config.as_text()
    for name in ("data", "target", "force", "recipe"):
        del values[name]
    return fingerprint(data_digest, values)


def find_ensemble(tracker: Tracker, **tags: str) -> Run | None:
    """The newest finished ensemble with these ``kd.`` tags, if there is one."""
    runs = tracker.newest("teachers", **tags)
    return next((run for run in runs if "kd.reused_run_id" not in run.data.tags), None)


def choose_ensemble(tracker: Tracker, teachers: str, data_digest: str) -> Run:
    """Resolve the option ``teachers``: latest, or a run id.

    Raises RunError where there is none, it is no finished ensemble, or it knows other data.
    """
    if teachers == "latest" and (run := find_ensemble(tracker, data_digest=data_digest)):
        return run
    run = choose_run(tracker, "teachers", "an ensemble", teachers, data_digest)
    if source := run.data.tags.get("kd.reused_run_id"):
        run = tracker.get(source)
    return run


def choose_run(tracker: Tracker, kind: str, noun: str, given: str, data_digest: str) -> Run:
    """Resolve an option that names a run of a kind: latest, or a run id; ``noun`` is for errors.

    Raises RunError where there is none, it is of another kind or unfinished, or knows other data.
    """
    if given == "latest":
        found = tracker.newest(kind, data_digest=data_digest)
        if not found:
            raise RunError(
                f"no finished {noun.split()[1]} trained on this data in this experiment; "
                f"run the entry point {kind} first"
            )
        return found[0]
    try:
        run = tracker.get(given)
    except RunError as error:
        raise RunError(f"{error}; give the run id of {noun}, or latest") from None
    own = run.data.tags.get("kd.kind", "none")
    if own != kind:
        raise RunError(f"run {given} is not {noun}: kd.kind is {own!r}, not {kind!r}")
    if run.info.status != "FINISHED":
        raise RunError(f"run {given}, {noun}, is not finished: {run.info.status}")
    if (theirs := run.data.tags.get("kd.data_digest")) != data_digest:
        raise RunError(
            f"run {given}, {noun}, was trained on other data "
            f"(digest {str(theirs)[:12]}, this table has {data_digest[:12]}); "
            "give its own table, or latest"
        )
    return run


def load_ensemble(tracker: Tracker, run_id: str) -> Ensemble:
    """Fetch and rebuild the ensemble of a run."""
    return replace(Ensemble.load(tracker.download(run_id, ARTIFACT)), run_id=run_id)
