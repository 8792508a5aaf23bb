"""What students are trained on and towards: the transfer set, and one population's task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kd_mlflow.config import StudentRecipe
from kd_mlflow.distillation.identity import NEW_ROWS_STREAM
from kd_mlflow.distillation.inputs import label_tensors, schedule_of, training_rows
from kd_mlflow.distillation.teachers import Teacher
from kd_mlflow.evaluation.comparison import validation_metrics
from kd_mlflow.evaluation.metrics import agreements
from kd_mlflow.population.calibration import fit_temperatures
from kd_mlflow.population.losses import UNLABELLED, DistillationLoss
from kd_mlflow.population.network import Population
from kd_mlflow.population.sampling import Sampling
from kd_mlflow.population.training import Rows, Task
from kd_mlflow.table import new_rows
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding

POOL_BYTES = 2**28
"""Bound of what new rows take in memory: inputs and soft targets."""


@dataclass(frozen=True, kw_only=True)
class TransferSet:
    """Rows that students learn from: those of the table first, then new ones without a label.

    Shape: rows.train (n, d_in); logits, the ensemble's, (n, classes); labels (n,), UNLABELLED from
    row ``labelled_rows`` on; val_logits (m, classes); val_labels (m,).
    """

    rows: Rows
    logits: Tensor
    labels: Tensor
    labelled_rows: int
    val_logits: Tensor
    val_labels: Tensor


@dataclass(frozen=True, kw_only=True)
class StudentSetting:
    """How one student differs from the others of its population.

    ``taught`` by the ensemble: it sees new rows too. ``mixup`` is the Beta parameter of mixup on
    labels, 0 for none.
    """

    seed: int
    temperature: float
    alpha: float
    taught: bool = True
    mixup: float = 0.0


def student_groups(config: StudentRecipe, seeds: Sequence[int]) -> dict[str, list[StudentSetting]]:
    """Students by kind, each kind with the same seeds.

    A baseline is a student whose alpha is 0 and who sees the table's rows alone; a strong one mixes
    them and their labels too.
    """
    t = config.temperature
    groups = {
        "distilled": [StudentSetting(seed=s, temperature=t, alpha=config.alpha) for s in seeds],
        "baseline": [StudentSetting(seed=s, temperature=t, alpha=0.0, taught=False) for s in seeds],
    }
    if config.student_mixup:
        groups["strong_baseline"] = [
            replace(member, mixup=config.student_mixup) for member in groups["baseline"]
        ]
    return groups


def transfer_set(recipe: StudentRecipe, dataset: Dataset, ensemble: Teacher) -> TransferSet:
    """Encode the table's rows, add new ones as the recipe says, and let the teacher score all."""
    rows, averaging = training_rows(ensemble.encoding, dataset), recipe.averaging
    device = rows.train.device
    labels, val_labels = label_tensors(dataset, device)
    inputs = [rows.train]
    logits = [ensemble.score(dataset.features("train"), averaging).to(device)]
    for frame in _new_rows(recipe, dataset, ensemble.encoding, rows.train):
        inputs.append(ensemble.encoding.inputs(frame).to(device))
        logits.append(ensemble.score(frame, averaging).to(device))
    pool, new = torch.cat(inputs), sum(map(len, inputs[1:]))
    return TransferSet(
        rows=Rows(train=pool, val=rows.val),
        logits=torch.cat(logits),
        labels=torch.cat([labels, labels.new_full((new,), UNLABELLED)]),
        labelled_rows=len(labels),
        val_logits=ensemble.score(dataset.features("val"), averaging).to(device),
        val_labels=val_labels,
    )


def _new_rows(
    recipe: StudentRecipe, dataset: Dataset, encoding: Encoding, inputs: Tensor
) -> Iterator[pd.DataFrame]:
    """Make new raw rows, in chunks; none without augmentation."""
    if recipe.augment == "none":
        return iter(())
    features = dataset.features("train")
    row_bytes = 4 * (inputs.shape[1] + len(encoding.classes))
    count = min(recipe.augment_factor * len(features), POOL_BYTES // row_bytes)
    rng = np.random.default_rng(np.random.SeedSequence(recipe.seed, spawn_key=(NEW_ROWS_STREAM,)))
    pairs = (
        new_rows.any_pairs(len(features), count, rng)
        if recipe.augment == "mixup"
        else new_rows.near_pairs(inputs.cpu().numpy(), count, rng)
    )
    return new_rows.rows_between(features, pairs, rng, dataset.table.kinds)


def student_task(
    recipe: StudentRecipe,
    lessons: TransferSet,
    members: Sequence[StudentSetting],
    hidden: tuple[int, ...],
) -> Task:
    """The training of one population of students on a transfer set."""
    train, classes = lessons.rows.train, lessons.logits.shape[1]
    device, seeds = train.device, [member.seed for member in members]
    population = Population.initialised((train.shape[1], *hidden, classes), seeds=seeds)
    ensemble_classes = lessons.val_logits.argmax(dim=1)

    def evaluate(logits: Tensor) -> dict[str, Tensor]:
        agreement = agreements(logits, ensemble_classes)
        return {**validation_metrics(logits, lessons.val_labels), "val_agreement": agreement}

    return Task(
        population=population.to(device),
        rows=lessons.rows,
        loss=DistillationLoss(
            lessons.logits,
            lessons.labels,
            temperature=torch.tensor([m.temperature for m in members], device=device),
            alpha=torch.tensor([m.alpha for m in members], device=device),
        ),
        schedule=schedule_of(
            recipe, epochs=recipe.student_epochs, weight_decay=recipe.student_weight_decay
        ),
        seeds=seeds,
        sampling=Sampling(
            pools=tuple(len(train) if m.taught else lessons.labelled_rows for m in members),
            mixup=tuple(m.mixup for m in members),
            epoch_rows=lessons.labelled_rows,
        ),
        evaluate=evaluate,
    )


def calibrated(recipe: StudentRecipe, task: Task, lessons: TransferSet) -> Population:
    """The trained population, with temperatures fitted on validation rows if the recipe says so."""
    population = task.population
    if recipe.calibrate:
        logits = population.logits(lessons.rows.val)
        population.cool_(fit_temperatures(logits.cpu(), lessons.val_labels.cpu()))
    return population.cpu()
