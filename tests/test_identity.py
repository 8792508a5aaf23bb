"""When two trainings are the same: what trains is part of it, down to the numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.config.groups import StudentRecipe
from kd_mlflow.distillation import identity
from kd_mlflow.distillation.identity import fingerprint, member_seeds
from kd_mlflow.distillation.inputs import held_out_rows
from kd_mlflow.distillation.students import (
    calibrated,
    student_groups,
    student_task,
    transfer_set,
)
from kd_mlflow.distillation.teachers import train_ensemble
from kd_mlflow.table.dataset import Dataset, Identity, Split, read_dataset

RECORDED = {
    8: {
        "work": [53_520.0],
        "left_out": [1_000.0, 4_001.87],
        "networks": [0.02025731, 0.02511491, 0.00103091, 0.004717547],
        "trees": [-1.663597, 9.089716],
        "sampled": [-1.97838, 13.64812],
        "weights": [0.0, 0.0, 0.0, 1.0],
        "adam": [0.0007106515, 0.007025615],
        "muon": [0.0008905624, 0.0070362774],
    },
}
"""Means and mean squares of what was trained, by the version of the training."""


def trained():
    """Two teachers, and one student of each kind by each optimizer, trained for two epochs.

    Of a table of 8,000 rows it is what a teacher leaves out: how many rows, and their mean number.
    """
    config = TeachersConfig(
        data="wine", n_teachers=2, teacher_epochs=2, teacher_hidden=(16, 8), n_boosted=2
    )
    dataset = read_dataset(config)
    config = config.resolved(len(dataset.split.train))
    ensemble = train_ensemble(config, dataset)
    recipe = StudentRecipe(
        student_epochs=2,
        augment="mixup",
        augment_factor=2,
        temperature=2.0,
        student_weight_decay=3e-4,
    )
    recipe = recipe.resolved(len(dataset.split.train))
    lessons = transfer_set(recipe, dataset, ensemble)
    members = [m for some in student_groups(recipe, [7]).values() for m in some]
    students = {}
    for optimizer in ("adam", "muon"):
        own = replace(
            recipe,
            student_optimizer=optimizer,
            baseline_optimizer="adam",
            strong_baseline_optimizer="adam",
        )
        students[optimizer] = student_task(own, lessons, members, lessons.binned(4), (8,))
        students[optimizer].fit()
    plain, binned, trees, sampled = ensemble.families
    rows, no_rows = np.arange(8_000), np.arange(0)
    table = replace(dataset.table, labels=rows % 2, row_hashes=None)
    split = Split(train=rows, val=no_rows, test=no_rows)
    (left_out,) = held_out_rows(Dataset(table=table, split=split), 1, seed=3)
    return {
        "work": [float(ensemble.work)],
        "left_out": [float(len(left_out)), float(left_out.mean())],
        "networks": numbers(plain.population) + numbers(binned.population),
        "trees": moments(trees.logits(dataset.features("test"))),
        "sampled": moments(sampled.logits(dataset.features("test"))),
        "weights": list(ensemble.weights),
        **{name: numbers(calibrated(recipe, task, lessons)) for name, task in students.items()},
    }


def numbers(population):
    """Mean and mean square of all weights."""
    return moments(torch.cat([p.detach().flatten() for p in population.parameters()]))


def moments(values):
    """Mean and mean square."""
    wide = values.double()
    return [float(wide.mean()), float(wide.square().mean())]


def test_training_is_what_its_version_was_recorded_with():
    """Whoever changes what training does raises identity.TRAINING and records the new numbers.

    Otherwise an ensemble of the older code would be reused as if this code had trained it.
    """
    assert identity.TRAINING in RECORDED, "record what this version of the training gives"
    for name, found in trained().items():
        assert found == pytest.approx(RECORDED[identity.TRAINING][name], abs=1e-5), (
            f"training of {name} changed: raise identity.TRAINING and record {found}"
        )


def test_no_two_purposes_share_a_seed():
    """Teachers, students, new rows, trees and folds of one seed draw from streams of their own."""
    streams = [value for name, value in vars(identity).items() if name.endswith("_STREAM")]
    assert len(streams) == 5
    drawn = {seed for stream in streams for seed in member_seeds(42, stream, 3)}
    assert len(drawn) == 15


@pytest.mark.parametrize("name", ["FORMAT", "TRAINING", "TORCH"])
def test_a_fingerprint_knows_what_trains(name, monkeypatch):
    """Another format, training or release of torch has another fingerprint."""
    same = Identity("digest", "split")
    before = fingerprint(same, {"seed": "1"})
    monkeypatch.setattr(identity, name, "other")
    assert fingerprint(same, {"seed": "1"}) != before


def test_a_fingerprint_knows_values_and_split():
    """The same values on other sides are another dataset."""
    marks = {fingerprint(Identity(d, s), {}) for d in ("a", "b") for s in ("x", "y")}
    assert len(marks) == 4
