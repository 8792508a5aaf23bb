"""What students are trained on and towards: the transfer set, and one population's task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kd_mlflow.config.groups import StudentRecipe
from kd_mlflow.distillation.identity import NEW_ROWS_STREAM
from kd_mlflow.distillation.inputs import inputs_of, label_tensors, schedule_of, training_device
from kd_mlflow.distillation.logits import agreements, validation_metrics
from kd_mlflow.distillation.networks import COMPACT, PLAIN
from kd_mlflow.distillation.teachers import Teacher
from kd_mlflow.population.losses import UNLABELLED, DistillationLoss
from kd_mlflow.population.network import Population
from kd_mlflow.population.sampling import Sampling
from kd_mlflow.population.selection import fit_temperatures
from kd_mlflow.population.training import Rows, Schedule, Task
from kd_mlflow.table import new_rows
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding, Scaler, piecewise_linear

POOL_BYTES = 2**28
"""Bound of what new rows take in memory: encoded columns and soft targets."""

SMOOTH_SHARE = 0.2
"""Share of an ensemble from which on networks on plain inputs say that a table is smooth."""


@dataclass(frozen=True, kw_only=True)
class TransferSet:
    """Rows that students learn from, as their teacher scored them.

    The table's training rows come first, then new ones without a label; last its validation rows,
    from which nobody learns. ``taught_rows`` counts all but these. ``ensemble_parameters`` are the
    teacher's fitted numbers and ``ensemble_work`` is what a row costs it, in weights of a network,
    None where they are not known; ``augment`` is the kind of the new rows.
    Shape: encoded (n, columns); logits, the teacher's, (n, classes); labels (n,), UNLABELLED for
    new rows.
    """

    encoding: Encoding
    encoded: Tensor
    logits: Tensor
    labels: Tensor
    labelled_rows: int
    taught_rows: int
    ensemble_parameters: int | None = None
    ensemble_work: int | None = None
    augment: str = "none"

    @property
    def val_logits(self) -> Tensor:
        """The teacher's logits on the validation rows.  Shape: (n - taught_rows, classes)."""
        return self.logits[self.taught_rows :]

    @property
    def val_labels(self) -> Tensor:
        """Labels of the validation rows.  Shape: (n - taught_rows,)."""
        return self.labels[self.taught_rows :]

    def binned(self, bins: int) -> Encoding:
        """The encoding with numbers in at most so many bins, by the table's training rows."""
        encoded = self.encoded[: self.labelled_rows].cpu().numpy()
        return piecewise_linear(self.encoding, encoded, bins)

    def rows(self, encoding: Encoding) -> Rows:
        """Its rows as inputs of an encoding."""
        val = self.encoded[self.taught_rows :]
        return Rows(train=inputs_of(encoding, self.encoded), val=inputs_of(encoding, val))


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
    encoding, device = ensemble.encoding, training_device()
    recipe = replace(recipe, augment=augment_kind(recipe.augment, ensemble))
    labels, val_labels = label_tensors(dataset, device)
    encoded, logits = [], []

    def add(frame: pd.DataFrame) -> None:
        encoded.append(torch.from_numpy(encoding.encode(frame)).to(device))
        logits.append(ensemble.score(frame, recipe.averaging).to(device))

    add(dataset.features("train"))
    for frame in _new_rows(recipe, dataset, encoding, encoded[0]):
        add(frame)
    new = sum(map(len, encoded[1:]))
    add(dataset.features("val"))
    return TransferSet(
        encoding=encoding,
        encoded=torch.cat(encoded),
        logits=torch.cat(logits),
        labels=torch.cat([labels, labels.new_full((new,), UNLABELLED), val_labels]),
        labelled_rows=len(labels),
        taught_rows=len(labels) + new,
        ensemble_parameters=ensemble.parameters,
        ensemble_work=ensemble.work,
        augment=recipe.augment,
    )


def augment_kind(augment: str, ensemble: Teacher) -> str:
    """What ``auto`` is: mixup where networks on plain inputs count with a teacher, else neighbours.

    Such networks count on tables whose classes change smoothly between any two rows. On others rows
    between two far ones are nowhere near the table's.
    """
    if augment != "auto":
        return augment
    plain = sum(part.share for part in ensemble.parts if part.name in (COMPACT, PLAIN))
    return "mixup" if plain >= SMOOTH_SHARE else "neighbours"


def _new_rows(
    recipe: StudentRecipe, dataset: Dataset, encoding: Encoding, encoded: Tensor
) -> Iterator[pd.DataFrame]:
    """Make new raw rows, in chunks; none without augmentation."""
    if recipe.augment == "none":
        return iter(())
    features = dataset.features("train")
    row_bytes = 4 * (encoded.shape[1] + len(encoding.classes))
    count = min(recipe.augment_factor * len(features), POOL_BYTES // row_bytes)
    rng = np.random.default_rng(np.random.SeedSequence(recipe.seed, spawn_key=(NEW_ROWS_STREAM,)))
    pairs = (
        new_rows.any_pairs(len(features), count, rng)
        if recipe.augment == "mixup"
        else new_rows.near_pairs(encoding.inputs(features).numpy(), count, rng)
    )
    return new_rows.rows_between(features, pairs, rng, dataset.table.kinds)


def student_task(
    recipe: StudentRecipe,
    lessons: TransferSet,
    members: Sequence[StudentSetting],
    encoding: Encoding,
    hidden: tuple[int, ...],
) -> Task:
    """The training of one population of students on a transfer set.

    With patience each keeps its best epoch, by its own loss on the validation rows.
    """
    device, seeds = lessons.logits.device, [member.seed for member in members]
    sizes = (Scaler(encoding).width, *hidden, lessons.logits.shape[1])
    val_logits, val_labels = lessons.val_logits, lessons.val_labels
    classes = val_logits.argmax(dim=1)
    everything = np.arange(len(lessons.labels), dtype=np.int32)
    taught, labelled = everything[: lessons.taught_rows], everything[: lessons.labelled_rows]
    val = everything[lessons.taught_rows :]

    def evaluate(logits: Tensor) -> dict[str, Tensor]:
        return {
            **validation_metrics(logits, val_labels),
            "val_agreement": agreements(logits, classes),
        }

    return Task(
        population=Population.initialised(sizes, seeds=seeds).to(device),
        rows=lessons.rows(encoding),
        loss=DistillationLoss(
            lessons.logits,
            lessons.labels,
            temperature=torch.tensor([m.temperature for m in members], device=device),
            alpha=torch.tensor([m.alpha for m in members], device=device),
        ),
        schedule=tuple(schedule_for(recipe, lessons.labelled_rows, member) for member in members),
        seeds=seeds,
        sampling=Sampling(
            pools=tuple(taught if m.taught else labelled for m in members),
            mixup=tuple(m.mixup for m in members),
            epoch_rows=lessons.labelled_rows,
            held_out=(val,) * len(members) if recipe.student_patience else (),
        ),
        evaluate=evaluate,
    )


def schedule_for(recipe: StudentRecipe, rows: int, member: StudentSetting) -> Schedule:
    """The schedule of a distilled student or a baseline, on so many training rows."""
    schedule = schedule_of(
        recipe,
        recipe.baseline_optimizer_for(rows, strong=bool(member.mixup)),
        epochs=recipe.student_epochs,
        weight_decay=recipe.baseline_weight_decay,
        patience=recipe.student_patience,
    )
    if not member.taught:
        return schedule
    recipe = replace(recipe, student_optimizer=recipe.optimizer_for(rows))
    step_rows, rate = recipe.student_step
    return replace(
        schedule,
        optimizer=recipe.student_optimizer,
        batch_size=step_rows,
        learning_rate=rate,
        weight_decay=recipe.student_weight_decay,
    )


def calibrated(recipe: StudentRecipe, task: Task, lessons: TransferSet) -> Population:
    """The trained population, with temperatures fitted on validation rows if the recipe says so."""
    population = task.population
    if recipe.calibrate:
        logits = population.logits(task.rows.val)
        population.cool_(fit_temperatures(logits.cpu(), lessons.val_labels.cpu()))
    return population.cpu()
