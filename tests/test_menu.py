"""Choosing a student: the smallest that says nearly what its teacher says."""

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import torch

from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.config.groups import StudentRecipe
from kd_mlflow.distillation import boosting, menu
from kd_mlflow.distillation.menu import Trial, choose_student, fit_here
from kd_mlflow.distillation.students import augment_kind, transfer_set
from kd_mlflow.distillation.teachers import Part, train_ensemble
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
    return dataclasses.replace(taught, ensemble_parameters=None, ensemble_work=None)


def chosen(lessons, recipe):
    """The trials, the kept one last."""
    return choose_student(recipe, lessons, seed=3, fit=fit_here)


def scripted(monkeypatch, divergences):
    """Let trials find given divergences, by bins and widths, instead of training."""

    def tried(recipe, lessons, settings, size, fit):
        bins, hidden = size
        parameters = menu.student_parameters(lessons.binned(bins), hidden)
        return Trial(
            bins=bins,
            hidden=hidden,
            temperature=settings[0].temperature,
            parameters=parameters,
            divergence=divergences[bins, hidden],
        )

    monkeypatch.setattr(menu, "_try", tried)


@pytest.fixture
def many(lessons):
    """The same for a recipe that looks at the number of rows; nobody is trained on it."""
    return dataclasses.replace(lessons, labelled_rows=3_000)


SMALL, WIDE, WIDEST = (64, 32), (128, 64), (256, 128)
FREE = {"student_bins": None, "student_hidden": None}


@pytest.mark.parametrize(
    ("divergences", "kept"),
    [
        ({(0, SMALL): 0.0004}, (0, SMALL)),
        ({(0, SMALL): 0.0100, (16, SMALL): 0.0004}, (16, SMALL)),
        ({(0, SMALL): 0.0100, (16, SMALL): 0.0300, (0, WIDE): 0.0050}, (0, WIDE)),
        (
            {(0, SMALL): 0.01, (16, SMALL): 0.005, (64, SMALL): 0.004}
            | {(64, WIDE): 0.0045, (16, WIDE): 0.0047},
            (64, SMALL),
        ),
        (
            {(0, SMALL): 0.01, (16, SMALL): 0.012} | {(0, WIDE): 0.003, (16, WIDE): 0.0033},
            (0, WIDE),
        ),
        (
            {(0, SMALL): 0.0102, (16, SMALL): 0.0101, (64, SMALL): 0.01}
            | {(0, WIDE): 0.0099, (16, WIDE): 0.0098, (64, WIDE): 0.0097},
            (0, SMALL),
        ),
        (
            {(0, SMALL): 0.0011, (16, SMALL): 0.001, (64, SMALL): 0.0013} | {(16, WIDE): 0.0003},
            (16, WIDE),
        ),
    ],
)
def test_the_smallest_within_tolerance_is_kept(monkeypatch, many, divergences, kept):
    """Bins are tried, the better ones with wide layers; nothing after what is near enough.

    Whatever else is tried has no divergence here, and fails.
    """
    scripted(monkeypatch, divergences)
    trials = chosen(many, dataclasses.replace(RECIPE, **FREE))
    assert {trial.size for trial in trials} == divergences.keys()
    assert trials[-1].size == kept


def test_layers_between_are_tried_with_the_best_inputs(monkeypatch, many):
    """From 5,000 rows on four widths are on the menu, the two between go with the best inputs."""
    divergences = {(0, SMALL): 0.05, (16, SMALL): 0.04, (16, WIDEST): 0.02, (0, WIDEST): 0.01}
    divergences |= {(0, WIDE): 0.0104, (0, (192, 96)): 0.0101}
    scripted(monkeypatch, divergences)
    more = dataclasses.replace(many, labelled_rows=5_000)
    recipe = StudentRecipe().resolved(5_000)
    inputs = {bins: many.binned(bins) for bins in (0, 16)}
    monkeypatch.setattr(menu, "_different_inputs", lambda recipe, lessons: inputs)
    *others, kept = chosen(more, recipe)
    assert [trial.size for trial in others] == [size for size in divergences if size != (0, WIDE)]
    assert kept.size == (0, WIDE)


@pytest.mark.parametrize(("ensemble", "tried"), [(2_000_000, 4), (35_000, 1), (100, 4)])
def test_a_student_is_ten_times_smaller_than_its_ensemble(monkeypatch, many, ensemble, tried):
    """Larger sizes of the menu are not tried, unless all are larger."""
    sizes = [(0, SMALL), (16, SMALL), (64, SMALL), (64, WIDE)]
    scripted(monkeypatch, dict(zip(sizes, (0.05, 0.045, 0.02, 0.01), strict=True)))
    counted = dataclasses.replace(many, ensemble_parameters=ensemble, ensemble_work=ensemble)
    trials = chosen(counted, dataclasses.replace(RECIPE, **FREE))
    assert len(trials) == tried
    assert ensemble == 100 or all(t.parameters * 10 <= ensemble for t in trials)


@pytest.mark.parametrize(("trees", "most"), [(5_000, 600), (10_000, 7_300), (50_000, 60_600)])
def test_of_trees_a_student_may_have_more_numbers_than_a_tenth(many, trees, most):
    """A tree's number takes longer than a weight: the limit is of work, with what a row costs."""
    taught = dataclasses.replace(
        many, ensemble_parameters=trees, ensemble_work=boosting.TREE_WORK * trees
    )
    cheap = [n for n in range(100, 100_000, 100) if menu._is_cheap(n, taught)]
    assert max(cheap) == most


def test_settings_whose_networks_are_the_same_are_tried_once(monkeypatch, many):
    """Without a number bins change no input: one size of each width is left."""
    scripted(monkeypatch, {(0, SMALL): 0.04, (0, WIDE): 0.05})
    monkeypatch.setattr(type(many), "binned", lambda self, bins: self.encoding)
    trials = chosen(many, dataclasses.replace(RECIPE, **FREE))
    assert {(t.bins, t.hidden) for t in trials} == {(0, SMALL), (0, WIDE)}


def test_temperatures_are_tried_with_the_smallest(monkeypatch, many):
    """Larger sizes have the temperature that suited the smallest."""
    tried = []

    def remembered(recipe, lessons, settings, size, fit):
        tried.append([setting.temperature for setting in settings])
        return Trial(
            bins=size[0], hidden=size[1], temperature=3.0, parameters=1, divergence=1 / len(tried)
        )

    monkeypatch.setattr(menu, "_try", remembered)
    free = dataclasses.replace(RECIPE, student_hidden=None)
    assert chosen(many, free)[-1].temperature == 3.0
    assert tried[0] == [1.0, 2.0, 3.0]
    assert tried[1:] == [[3.0]] * (len(tried) - 1)


@pytest.mark.parametrize(
    ("augment", "plain", "kind"),
    [
        ("auto", 0.1, "neighbours"),
        ("auto", 0.2, "mixup"),
        ("mixup", 0.1, "mixup"),
        ("neighbours", 0.9, "neighbours"),
        ("none", 0.1, "none"),
    ],
)
def test_auto_makes_near_rows_where_plain_networks_hardly_count(augment, plain, kind):
    """A kind that is named stays; else a fifth of the weight decides."""
    binned = Part("networks, piecewise-linear inputs", 6, 1 - plain)
    for name in ("networks", "compact networks"):
        parts = (Part(name, 6, plain), binned)
        assert augment_kind(augment, SimpleNamespace(parts=parts)) == kind


def test_the_recipe_that_is_kept_names_the_kind_of_its_rows(lessons):
    """What stands in reports is what was done, not that it was chosen."""
    narrow = dataclasses.replace(RECIPE, student_hidden=(8,), student_bins=0, temperature=2.0)
    near = dataclasses.replace(lessons, augment="neighbours")
    kept, _ = menu.chosen(narrow, near, seed=0, fit=fit_here)
    assert kept.augment == "neighbours"


@pytest.mark.parametrize(
    ("plain", "strong", "hidden", "smaller"),
    [
        ("adam", "muon", (4,), (4,)),
        ("muon", "adam", (256, 128), (64, 32)),
        ("muon", None, (4,), (4,)),
    ],
)
def test_baselines_take_the_optimizer_that_is_better_on_validation_rows(
    lessons, monkeypatch, plain, strong, hidden, smaller
):
    """Small ones of each kind are trained with each, side by side; the students have muon."""
    recipe = dataclasses.replace(
        RECIPE,
        student_optimizer="muon",
        baseline_optimizer="auto",
        strong_baseline_optimizer="auto",
        student_mixup=0.4 if strong else 0.0,
        student_bins=0,
        student_hidden=hidden,
        temperature=1.0,
    )
    tried = []

    def fit(task, label):
        optimizers, mixed = [own.optimizer for own in task.schedules], task.sampling.mixup
        tried.append((label, task.population.sizes[1:-1], optimizers, mixed))
        better = [strong if mixup else plain for mixup in mixed]
        sure = torch.tensor(
            [1.0 if o == b else -1.0 for o, b in zip(optimizers, better, strict=True)]
        )
        right = torch.nn.functional.one_hot(lessons.val_labels, 3) * sure[:, None, None]
        monkeypatch.setattr(task.population, "logits", lambda _: right)
        return {}

    named = menu.baselines_named(recipe, lessons, seed=3, fit=fit)
    kept = {"baseline_optimizer": plain, "strong_baseline_optimizer": strong or "adam"}
    assert named == dataclasses.replace(recipe, **kept)
    kinds = 2 if strong else 1
    sides = (["adam", "muon"] * kinds, (0.0, 0.0, 0.4, 0.4)[: 2 * kinds])
    assert tried == [("baselines: adam and muon", smaller, *sides)]


@pytest.mark.parametrize(
    ("students", "given", "kept"), [("muon", "adam", "adam"), ("adam", "auto", "adam")]
)
def test_baselines_are_not_tried_where_there_is_no_choice(lessons, students, given, kept):
    """Theirs is named, or students have too few steps for muon."""
    options = dict.fromkeys(menu.OPTIMIZERS.values(), given)
    recipe = dataclasses.replace(RECIPE, student_optimizer=students, **options)
    named = menu.baselines_named(recipe, lessons, seed=3, fit=None)
    assert {named.baseline_optimizer, named.strong_baseline_optimizer} == {kept}


def test_one_kind_of_baseline_may_be_named(lessons):
    """The other kind is tried alone."""
    recipe = dataclasses.replace(
        RECIPE, student_optimizer="muon", student_bins=0, student_hidden=(4,), temperature=1.0
    )
    for given, asked in itertools.permutations(menu.OPTIMIZERS.values()):
        heard = []
        named = menu.baselines_named(
            dataclasses.replace(recipe, **{given: "muon", asked: "auto"}, student_epochs=1),
            lessons,
            seed=3,
            fit=lambda task, label, heard=heard: heard.append(len(task.seeds)) or task.fit(),
        )
        assert heard == [2]
        assert getattr(named, given) == "muon"
        assert getattr(named, asked) in ("adam", "muon")


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
    assert menu.shortened(task).epochs == task.epochs
    monkeypatch.setattr(menu, "TRIED_ROWS", 600)
    short = menu.shortened(task)
    assert short.sampling.epoch_rows * short.epochs <= 600
    assert short.epochs == menu.LEAST_EPOCHS
