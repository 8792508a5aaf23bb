"""Choosing a student: the smallest that says nearly what its teacher says."""

import dataclasses

import pytest
import torch

from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.config.groups import StudentRecipe
from kd_mlflow.distillation import menu
from kd_mlflow.distillation.menu import Trial, choose_student, fit_here
from kd_mlflow.distillation.students import transfer_set
from kd_mlflow.distillation.teachers import train_ensemble
from kd_mlflow.table.dataset import read_dataset

RECIPE = StudentRecipe(student_epochs=30, augment_factor=2).resolved(3_000)


@pytest.fixture(scope="module")
def lessons():
    """What a small ensemble of boosted trees says of the smallest built-in table, uncounted."""
    config = TeachersConfig(
        data="wine", teacher_families="boosting", n_boosted=1, boosting_rounds=20
    )
    dataset = read_dataset(config)
    config = config.resolved(len(dataset.split.train))
    taught = transfer_set(RECIPE, dataset, train_ensemble(config, dataset))
    return dataclasses.replace(taught, ensemble_parameters=None)


def chosen(lessons, recipe):
    """The trials, the kept one last."""
    return choose_student(recipe, lessons, seed=3, fit=fit_here)


def scripted(monkeypatch, divergences):
    """Let trials find given divergences, by bins and widths, instead of training."""

    def tried(recipe, lessons, settings, size, fit):
        bins, hidden = size
        parameters = menu.student_parameters(lessons, bins, hidden)
        return Trial(
            bins=bins,
            hidden=hidden,
            temperature=settings[0].temperature,
            parameters=parameters,
            divergence=divergences[bins, hidden],
        )

    monkeypatch.setattr(menu, "_try", tried)


SMALL, WIDE = (64, 32), (128, 64)


@pytest.mark.parametrize(
    ("divergences", "kept", "tried"),
    [
        ((0.0004, 0.0, 0.0, 0.0), (0, SMALL), 1),
        ((0.0100, 0.0097, 0.0096, 0.0098), (0, SMALL), 4),
        ((0.0100, 0.0095, 0.0018, 0.0015), (8, SMALL), 4),
        ((0.0100, 0.0004, 0.0, 0.0), (8, SMALL), 2),
        ((0.0100, 0.0095, 0.0090, 0.0020), (8, WIDE), 4),
    ],
)
def test_the_smallest_within_tolerance_is_kept(monkeypatch, lessons, divergences, kept, tried):
    """Sizes are tried small to large, no further than one that none can beat by the tolerance."""
    sizes = sorted(
        [(0, SMALL), (0, WIDE), (8, SMALL), (8, WIDE)],
        key=lambda size: menu.student_parameters(lessons, *size),
    )
    found = dict(zip(sizes, divergences, strict=True))
    scripted(monkeypatch, found)
    trials = chosen(lessons, dataclasses.replace(RECIPE, student_bins=None, student_hidden=None))
    assert len(trials) == tried
    least = min(trial.divergence for trial in trials)
    within = [t for t in trials if t.divergence <= least + RECIPE.menu_tolerance]
    assert trials[-1].parameters == min(trial.parameters for trial in within)
    assert found[trials[-1].bins, trials[-1].hidden] == trials[-1].divergence


@pytest.mark.parametrize(("ensemble", "tried"), [(1_000_000, 4), (35_000, 1), (100, 4)])
def test_a_student_is_ten_times_smaller_than_its_ensemble(monkeypatch, lessons, ensemble, tried):
    """Larger sizes of the menu are not tried, unless all are larger."""
    sizes = [(0, SMALL), (0, WIDE), (8, SMALL), (8, WIDE)]
    scripted(monkeypatch, dict(zip(sizes, (0.04, 0.03, 0.02, 0.01), strict=True)))
    counted = dataclasses.replace(lessons, ensemble_parameters=ensemble)
    trials = chosen(counted, dataclasses.replace(RECIPE, student_bins=None, student_hidden=None))
    assert len(trials) == tried
    assert ensemble == 100 or all(t.parameters * 10 <= ensemble for t in trials)


def test_a_given_option_narrows_the_menu(lessons):
    """What is given is not varied; where all is given nothing is trained."""
    narrow = dataclasses.replace(RECIPE, student_hidden=(8,), temperature=2.0)
    assert {(trial.hidden, trial.temperature) for trial in chosen(lessons, narrow)} == {((8,), 2.0)}
    assert chosen(lessons, dataclasses.replace(narrow, student_bins=4)) == ()
    reference = StudentRecipe(recipe="reference").resolved(3_000)
    assert chosen(lessons, reference) == ()


def test_a_trial_measures_the_divergence_on_validation_rows(lessons):
    """KL of teacher and student, of the temperature that is nearest: above 0, below a guess's."""
    recipe = dataclasses.replace(RECIPE, student_hidden=(8,), student_bins=0)
    (trial,) = chosen(lessons, recipe)
    teacher = torch.log_softmax(lessons.val_logits.double(), dim=1)
    guess = -torch.log(torch.tensor(3.0))
    blind = float((teacher.exp() * (teacher - guess)).sum(dim=1).mean())
    assert 0 < trial.divergence < blind
    assert trial.temperature in (1.0, 2.0, 3.0)


def test_trials_of_large_tables_see_a_part_of_the_steps(lessons, monkeypatch):
    """Rows over all epochs are bounded, and so is one epoch; small tables are tried in full."""
    members = [
        menu.StudentSetting(seed=1, temperature=2.0, alpha=1.0),
    ]
    task = menu.student_task(RECIPE, lessons, members, lessons.encoding, (4,))
    assert menu.shortened(task).schedule.epochs == task.schedule.epochs
    monkeypatch.setattr(menu, "TRIED_ROWS", 600)
    short = menu.shortened(task)
    assert short.sampling.epoch_rows * short.schedule.epochs <= 600
    assert short.schedule.epochs == menu.LEAST_EPOCHS
