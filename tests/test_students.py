"""What students learn from: the transfer set is the ensemble's, bounded, and fair to baselines."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.config.groups import StudentRecipe
from kd_mlflow.distillation import students
from kd_mlflow.distillation.menu import OPTIMIZERS
from kd_mlflow.distillation.networks import Networks
from kd_mlflow.distillation.students import calibrated, student_groups, student_task, transfer_set
from kd_mlflow.distillation.teachers import Ensemble
from kd_mlflow.distillation.trained import TrainedStudents
from kd_mlflow.population.losses import AVERAGES, UNLABELLED
from kd_mlflow.population.network import Population
from kd_mlflow.table.dataset import read_dataset
from kd_mlflow.table.encoding import fit_encoding

RECIPE = StudentRecipe(
    augment_factor=2, student_epochs=2, n_students=2, student_hidden=(4,), temperature=2.0
).resolved(100)


@pytest.fixture(scope="module")
def dataset():
    """The smallest built-in table, three classes."""
    return read_dataset(TeachersConfig(data="wine"))


@pytest.fixture(scope="module")
def ensemble(dataset):
    """Untrained teachers: transfer sets do not ask how good they are."""
    features = dataset.features("train")
    encoding = fit_encoding(features, target="y", classes=dataset.table.classes, max_categories=4)
    sizes = (features.shape[1], 8, 3)
    family = Networks(encoding=encoding, population=Population.initialised(sizes, seeds=[1, 2]))
    return Ensemble(encoding=encoding, families=(family,))


@pytest.mark.parametrize("augment", ["mixup", "neighbours"])
@pytest.mark.parametrize("averaging", ["logits", "probabilities"])
def test_the_ensemble_scores_every_row_of_the_transfer_set(dataset, ensemble, augment, averaging):
    """Table rows come first with their labels, new ones have none; soft targets fit all inputs."""
    recipe = dataclasses.replace(RECIPE, augment=augment, averaging=averaging)
    lessons = transfer_set(recipe, dataset, ensemble)
    n = len(dataset.split.train)
    assert lessons.labelled_rows == n
    m = len(dataset.split.val)
    assert lessons.taught_rows == 3 * n
    assert len(lessons.labels) == len(lessons.encoded) == len(lessons.logits) == 3 * n + m
    np.testing.assert_array_equal(lessons.labels[:n], dataset.labels("train"))
    assert set(lessons.labels[n : 3 * n].tolist()) == {UNLABELLED}
    np.testing.assert_array_equal(lessons.val_labels, dataset.labels("val"))
    (family,) = ensemble.families
    rows = lessons.rows(lessons.encoding)
    expected = AVERAGES[averaging](family.population.logits(rows.train))
    torch.testing.assert_close(lessons.logits, expected)
    assert torch.equal(rows.train[3 * n :], rows.val[:])
    assert len(torch.unique(lessons.encoded, dim=0)) > 2 * n


def test_without_augmentation_the_transfer_set_is_the_table(dataset, ensemble):
    """``augment=none`` adds no row."""
    lessons = transfer_set(dataclasses.replace(RECIPE, augment="none"), dataset, ensemble)
    assert lessons.taught_rows == lessons.labelled_rows == len(dataset.split.train)


def test_new_rows_are_bounded_in_memory(dataset, ensemble, monkeypatch):
    """However large the factor, new rows take no more bytes than the bound."""
    row_bytes = 4 * (dataset.table.features.shape[1] + 3)
    monkeypatch.setattr(students, "POOL_BYTES", 50 * row_bytes)
    lessons = transfer_set(dataclasses.replace(RECIPE, augment_factor=1000), dataset, ensemble)
    assert lessons.taught_rows - lessons.labelled_rows == 50


def test_the_same_seed_makes_the_same_rows(dataset, ensemble):
    """New rows follow from the seed."""
    first, again, other = (
        transfer_set(dataclasses.replace(RECIPE, seed=seed), dataset, ensemble).encoded
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_baselines_share_seeds_and_epochs_with_students(dataset, ensemble):
    """First weights, too; they have labels alone, and Adam with a decay of their own."""
    groups = student_groups(RECIPE, [7, 8])
    lessons = transfer_set(RECIPE, dataset, ensemble)
    members = [member for group in groups.values() for member in group]
    adam = dict.fromkeys(OPTIMIZERS.values(), "adam")
    muon = dataclasses.replace(RECIPE, student_optimizer="muon", **adam)
    task = student_task(muon, lessons, members, lessons.encoding, RECIPE.student_hidden)
    n = lessons.labelled_rows
    assert list(groups) == ["distilled", "baseline", "strong_baseline"]
    assert task.seeds == [7, 8] * 3
    assert [len(pool) for pool in task.sampling.pools] == [3 * n, 3 * n, n, n, n, n]
    assert all(list(pool) == list(range(len(pool))) for pool in task.sampling.pools)
    assert task.sampling.mixup == (0, 0, 0, 0, 0.4, 0.4)
    assert task.sampling.epoch_rows == n
    own, *baselines = task.schedules[1:]
    assert {s.optimizer for s in baselines} == {"adam"}
    assert {s.batch_size for s in baselines} == {RECIPE.batch_size}
    assert {s.learning_rate for s in baselines} == {RECIPE.learning_rate}
    assert {s.weight_decay for s in baselines} == {RECIPE.baseline_weight_decay}
    assert own == task.schedules[0]
    assert (own.optimizer, own.weight_decay) == ("muon", RECIPE.student_weight_decay)
    assert own.batch_size == 4 * RECIPE.batch_size
    assert own.learning_rate == 2 * RECIPE.learning_rate
    assert own.weight_decay < baselines[0].weight_decay
    for weights in task.population.parameters():
        for other in (2, 4):
            assert torch.equal(weights[:2], weights[other : other + 2])


def test_each_kind_of_baseline_has_its_own_optimizer(dataset, ensemble):
    """Plain and strong ones are told apart by their mixup."""
    lessons = transfer_set(RECIPE, dataset, ensemble)
    groups = student_groups(RECIPE, [7])
    (plain,), (strong,) = groups["baseline"], groups["strong_baseline"]
    for kinds in itertools.product(("adam", "muon"), repeat=2):
        own = dict(zip(OPTIMIZERS.values(), kinds, strict=True))
        recipe = dataclasses.replace(RECIPE, **own)
        task = student_task(recipe, lessons, [plain, strong], lessons.encoding, (4,))
        assert tuple(schedule.optimizer for schedule in task.schedules) == kinds


def test_reference_has_no_strong_baselines():
    """Without mixup there is nothing stronger than the baseline."""
    recipe = StudentRecipe(recipe="reference").resolved(100)
    assert list(student_groups(recipe, [1])) == ["distilled", "baseline"]


def test_a_baselines_step_of_muon_is_a_third_as_long_as_a_students(dataset, ensemble):
    """It has as many rows: labels say less of a row than an ensemble does."""
    lessons = transfer_set(RECIPE, dataset, ensemble)
    muon = dict.fromkeys(("student_optimizer", *OPTIMIZERS.values()), "muon")
    recipe = dataclasses.replace(RECIPE, **muon)
    members = [member for group in student_groups(recipe, [7]).values() for member in group]
    task = student_task(recipe, lessons, members, lessons.encoding, (4,))
    own, *baselines = task.schedules
    assert {s.optimizer for s in task.schedules} == {"muon"}
    assert {s.batch_size for s in task.schedules} == {4 * RECIPE.batch_size}
    for schedule in baselines:
        assert own.learning_rate == pytest.approx(3 * schedule.learning_rate)


@pytest.mark.parametrize("place", [0, 1])
def test_the_nearest_student_is_known_by_validation_rows(dataset, ensemble, place):
    """It is the one of least divergence there, and is scored as it is served."""
    lessons = transfer_set(RECIPE, dataset, ensemble)
    members = student_groups(RECIPE, [7, 8])["distilled"]
    task = student_task(RECIPE, lessons, members, lessons.encoding, (4,))
    said = task.population.logits(task.rows.val)[place]
    agreed = dataclasses.replace(
        lessons, logits=torch.cat([lessons.logits[: lessons.taught_rows], said])
    )
    trained = TrainedStudents(
        population=task.population,
        encoding=lessons.encoding,
        kinds=["distilled"],
        history=task.fit(),
        lessons=agreed,
    )
    fresh = dataclasses.replace(
        trained,
        population=student_task(RECIPE, lessons, members, lessons.encoding, (4,)).population,
    )
    assert fresh.nearest() == place
    served = dataclasses.replace(fresh, place=place)
    rows = ensemble.encoding.encode(dataset.features("test"))
    assert torch.equal(served.score(rows)[place], served.score_registered(rows))
    torch.testing.assert_close(fresh.score(rows), served.score(rows))


@pytest.mark.parametrize("calibrate", [True, False])
def test_calibration_lowers_validation_log_loss_and_keeps_answers(dataset, ensemble, calibrate):
    """A finished population answers as before; calibrated, its validation log loss is no higher."""
    recipe = dataclasses.replace(RECIPE, calibrate=calibrate)
    lessons = transfer_set(recipe, dataset, ensemble)
    members = [member for group in student_groups(recipe, [7]).values() for member in group]
    task = student_task(recipe, lessons, members, lessons.encoding, (4,))
    task.fit()
    before = task.population.logits(task.rows.val)
    after = calibrated(recipe, task, lessons).logits(task.rows.val)
    assert torch.equal(after.argmax(dim=2), before.argmax(dim=2))
    if not calibrate:
        assert torch.equal(after, before)
        return
    for a, b in zip(after, before, strict=True):
        losses = [torch.nn.functional.cross_entropy(x, lessons.val_labels) for x in (a, b)]
        assert losses[0] < losses[1]
