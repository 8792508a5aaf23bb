"""Teachers of several families: which rows they leave out, how they stop, what they weigh."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import part_of
from sklearn.metrics import log_loss

from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.config.groups import StudentRecipe
from kd_mlflow.distillation import teachers
from kd_mlflow.distillation.boosting import Trees
from kd_mlflow.distillation.inputs import ALWAYS_TRAINED, TeacherInputs, folds, held_out_rows
from kd_mlflow.distillation.menu import LEAST_COMPRESSION, student_parameters
from kd_mlflow.distillation.networks import COMPACT, Networks, hidden_layers
from kd_mlflow.distillation.teachers import (
    Ensemble,
    assembled,
    mixture_of,
    teacher_trainings,
    train_ensemble,
)
from kd_mlflow.population.history import HELD_OUT, ignore_epoch
from kd_mlflow.population.selection import Mixture
from kd_mlflow.population.workers import HERE, Workers
from kd_mlflow.table.dataset import Dataset, Split, read_dataset

OPTIONS = part_of(TeachersConfig)


def config(**options):
    """A resolved configuration of small teachers on the smallest built-in table."""
    given = {
        **OPTIONS,
        "data": "wine",
        "boosting_rounds": 30,
        "n_teachers": 4,
        "n_boosted": 2,
        **options,
    }
    return TeachersConfig(**given).resolved(128)


@pytest.fixture(scope="module")
def dataset():
    """Three classes, thirteen numbers."""
    return read_dataset(config())


@pytest.fixture(scope="module")
def trained(dataset):
    """Each family, trained."""
    return [
        each.fit(HERE, ignore_epoch)
        for each in teacher_trainings(TeacherInputs(config=config(), dataset=dataset))
    ]


def with_labels(labels, hashes=None):
    """A dataset of nothing but training labels, and hashes of its rows."""
    labels = np.asarray(labels)
    table = dataclasses.replace(read_dataset(config()).table, labels=labels, row_hashes=hashes)
    rows = np.arange(len(labels))
    return Dataset(table=table, split=Split(train=rows, val=rows[:0], test=rows[:0]))


def test_folds_share_every_class_evenly():
    """Each fold has each class's rows, one more or less."""
    labels = np.repeat([0, 1, 2], [50, 23, 9])
    fold = folds(with_labels(labels), 5, seed=3)
    for label in range(3):
        counts = np.bincount(fold[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_equal_rows_are_in_one_fold():
    """A row that is there twice is left out twice or not at all."""
    hashes = np.repeat(np.arange(40, dtype=np.uint64), 2)
    fold = folds(with_labels(np.zeros(80, dtype=int), hashes), 5, seed=3)
    assert (fold[::2] == fold[1::2]).all()
    assert len(set(fold.tolist())) == 5


def test_rare_classes_train_every_teacher():
    """Rows of a class with fewer rows than folds are left out by nobody, unless all are rare."""
    labels = np.repeat([0, 1], [50, 3])
    fold = folds(with_labels(labels), 5, seed=3)
    assert (fold[labels == 1] == ALWAYS_TRAINED).all()
    assert (fold[labels == 0] >= 0).all()
    assert (folds(with_labels(np.repeat(np.arange(4), 3)), 5, seed=3) >= 0).all()


def test_one_teacher_leaves_out_a_fifth(dataset):
    """However few the teachers, each is trained on four fifths of the rows at least."""
    (rows,) = held_out_rows(dataset, 1, seed=3)
    assert len(rows) == pytest.approx(len(dataset.split.train) / 5, abs=3)


@pytest.mark.parametrize(("rows", "left_out"), [(4_000, 800), (8_000, 1_000), (40_000, 2_000)])
def test_of_many_rows_fewer_are_left_out(rows, left_out):
    """A fifth, or a thousand where that is less, or a twentieth."""
    (found,) = held_out_rows(with_labels(np.arange(rows) % 2), 1, seed=3)
    assert len(found) == pytest.approx(left_out, abs=3)


def test_a_fifth_is_left_out_where_rows_are_equal_or_have_times():
    """Equal rows count once; of stretches of time the first ones would be little."""
    labels = np.arange(8_000) % 2
    equal = with_labels(labels, hashes=np.arange(8_000).astype(np.uint64) // 20)
    timed = with_labels(labels)
    times = np.arange(8_000, dtype=np.float64)
    timed = dataclasses.replace(timed, table=dataclasses.replace(timed.table, times=times))
    for each in (equal, timed):
        (found,) = held_out_rows(each, 1, seed=3)
        assert len(found) == pytest.approx(1_600, abs=60)


def test_families_are_those_of_the_option(dataset):
    """Networks of two kinds of inputs and boosted models; networks alone; trees alone."""

    def kinds(**options):
        return [
            (each.name, each.label, len(each.seeds))
            for each in teacher_trainings(TeacherInputs(config=config(**options), dataset=dataset))
        ]

    networks = ("mlp", "networks", 2), ("mlp", "networks, piecewise-linear inputs", 2)
    boosted = (
        ("boosting", "boosted models", 1),
        ("boosting", "boosted models, columns sampled", 1),
    )
    assert kinds() == [*networks, *boosted]
    assert kinds(teacher_families="mlp") == [*networks]
    assert kinds(teacher_families="boosting") == [*boosted]
    assert kinds(n_boosted=1)[2:] == [boosted[0]]
    assert kinds(teacher_bins=0)[0] == ("mlp", "networks", 4)
    assert kinds(n_compact=3) == [*networks, ("mlp", "compact networks", 3), *boosted]


def test_compact_networks_are_like_students(dataset):
    """Two small layers, Muon, no dropout and twice the epochs, whatever the others have."""
    options = {"teacher_families": "mlp", "n_compact": 3, "teacher_hidden": (96, 96)}
    *others, compact = teacher_trainings(TeacherInputs(config=config(**options), dataset=dataset))
    plain, small = others[0].task, compact.task
    assert small.population.sizes[1:-1] == (64, 32)
    assert small.population.dropout == 0
    assert small.schedule.optimizer == "muon"
    assert small.schedule.weight_decay == 3e-4
    assert small.schedule.patience == plain.schedule.patience
    assert small.epochs == 2 * plain.epochs
    assert not set(small.seeds) & {seed for other in others for seed in other.seeds}
    assert [list(rows) for rows in small.sampling.held_out[:2]] == [
        list(rows) for rows in plain.sampling.held_out
    ]
    sizes = [each.task.population.sizes[1:-1] for each in (*others, compact) for _ in each.seeds]
    assert hidden_layers(config(**options)) == sizes  # as memory is asked for
    assert compact.own_options == {  # their runs say so
        "teacher_hidden": "64,32",
        "teacher_optimizer": "muon",
        "dropout": "0.0",
        "teacher_epochs": str(small.epochs),
    }
    assert not [own for each in others for own in each.own_options]
    (*_, whole) = teacher_trainings(
        TeacherInputs(config=config(**options, teacher_patience=0), dataset=dataset)
    )
    assert (whole.task.sampling.held_out, whole.task.schedule.patience) == ((), 0)


@pytest.mark.parametrize("rows", [5_000, 20_000, 60_000])
def test_compact_networks_alone_are_ten_times_the_smallest_student(dataset, rows):
    """Where no other family counts, a student of the menu still passes the check of compression."""
    by_rows = TeachersConfig(**{**OPTIONS, "teacher_families": "mlp"}).resolved(rows)
    compact = teacher_trainings(TeacherInputs(config=by_rows, dataset=dataset))[-1]
    population = compact.task.population
    smallest = student_parameters(compact.encoding, StudentRecipe().menu("student_hidden", rows)[0])
    assert compact.label == COMPACT
    assert population.k * population.parameters_per_member >= LEAST_COMPRESSION * smallest


def test_a_family_is_called_the_same_after_it_was_stored(dataset, tmp_path):
    """Compact networks stay compact; networks stored before they had a name are by their inputs."""
    options = {"teacher_families": "mlp", "n_compact": 1, "teacher_epochs": 1}
    for training in teacher_trainings(TeacherInputs(config=config(**options), dataset=dataset)):
        folder = tmp_path / training.label
        folder.mkdir()
        training.fit(HERE, ignore_epoch).family.save(folder)
        assert Networks.load(folder).words == training.label
        if training.label != COMPACT:
            described = folder / "networks.json"
            shape = json.loads(described.read_text())
            del shape["words"]
            described.write_text(json.dumps(shape))
            assert Networks.load(folder).words == training.label


def test_networks_whose_inputs_are_the_same_are_one_family(dataset, monkeypatch):
    """Where no column is a number bins change nothing: all networks are of one family."""
    monkeypatch.setattr(
        "kd_mlflow.distillation.inputs.piecewise_linear", lambda encoding, encoded, bins: encoding
    )
    found = teacher_trainings(TeacherInputs(config=config(teacher_families="mlp"), dataset=dataset))
    assert [(each.label, len(each.seeds)) for each in found] == [("networks", 4)]


def test_the_reference_recipe_is_one_family_of_equals(dataset):
    """No fold is left out, nothing is weighed: the ensemble as it was before families."""
    reference = TeachersConfig(data="wine", recipe="reference").resolved(128)
    (training,) = teacher_trainings(TeacherInputs(config=reference, dataset=dataset))
    assert training.task.sampling.held_out == ()
    assert training.task.schedule.patience == 0
    assert (reference.weighting, len(training.seeds)) == ("equal", 12)


def test_a_boosted_model_is_cut_at_its_best_round(dataset, trained):
    """It scores the rows that it left out as in the round of least log loss, as MLPs do."""
    boosted = trained[2]
    labels, features = dataset.labels("train"), dataset.features("train")
    for i, rows in enumerate(boosted.held_out):
        (logits,) = boosted.family.members(slice(i, i + 1)).logits(features.iloc[rows])
        least = np.nanmin(boosted.history[HELD_OUT][:, i])
        found = log_loss(labels[rows], logits.double().softmax(dim=1), labels=[0, 1, 2])
        assert found == pytest.approx(least, rel=1e-5)


def test_boosted_models_are_the_same_however_many_workers(dataset):
    """One worker and two give the same trees, line by line."""
    training = teacher_trainings(
        TeacherInputs(config=config(teacher_families="boosting", n_boosted=4), dataset=dataset)
    )[0]
    texts = [
        [
            booster.model_to_string()
            for booster in training.fit(Workers(count=count), ignore_epoch).family.boosters
        ]
        for count in (1, 2)
    ]
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[0][1]


def test_boosting_tells_every_round_and_stops_when_told(dataset):
    """The listener hears each round of each model; its error ends the training."""
    training = teacher_trainings(
        TeacherInputs(config=config(teacher_families="boosting", n_boosted=4), dataset=dataset)
    )[1]
    heard = []
    history = training.fit(HERE, lambda *call: heard.append(call)).history
    values = {(members.start, epoch): curve[HELD_OUT][0] for members, epoch, curve in heard}
    assert len(values) == np.isfinite(history[HELD_OUT]).sum() == len(heard)
    for (member, epoch), value in values.items():
        assert history[HELD_OUT][epoch - 1, member] == value

    def broken(*call):
        raise RuntimeError("listener broke")

    with pytest.raises(RuntimeError, match="listener broke"):
        training.fit(HERE, broken)


def test_parameters_are_counted_one_by_one(trained):
    """A tree has its leaves' values and a threshold fewer; a network its weights and biases."""
    trees = trained[2].family
    leaves = [
        int(line.split("=")[1])
        for line in trees.boosters[0].model_to_string().splitlines()
        if line.startswith("num_leaves=")
    ]
    assert trees.parameters[0] == sum(2 * n - 1 for n in leaves)
    plain = trained[0].family
    assert plain.parameters[0] == sum(w.numel() for w in plain.population.member(0).parameters())


def test_an_ensemble_is_the_weighted_mean_of_its_members(dataset, trained):
    """Members tempered, their probabilities added by weight, the sum tempered."""
    mixture = Mixture(
        shares=(0.5, 0.2, 0.2, 0.1), temperatures=(0.5, 1.0, 2.0, 1.5), temperature=0.8
    )
    families = tuple(each.family for each in trained)
    ensemble = Ensemble(encoding=families[0].encoding, families=families, mixture=mixture)
    rows = dataset.features("test")
    expected = sum(
        share * torch.softmax(family.logits(rows).double() / t, dim=2).mean(dim=0)
        for share, t, family in zip(mixture.shares, mixture.temperatures, families, strict=True)
    )
    scored = ensemble.score(rows, "probabilities").double()
    torch.testing.assert_close(
        scored.softmax(dim=1), (expected.log() / 0.8).softmax(dim=1), rtol=1e-5, atol=1e-7
    )
    assert sum(ensemble.weights) == pytest.approx(1)
    assert ensemble.weights[:2] == (0.25, 0.25)


def test_what_does_not_count_is_neither_scored_nor_counted(dataset, trained):
    """A family of share 0 adds no parameters and is not asked."""
    families = tuple(each.family for each in trained)
    mixture = Mixture(shares=(1.0, 0.0, 0.0, 0.0), temperatures=(1.0,) * 4, temperature=1.0)
    ensemble = Ensemble(encoding=families[0].encoding, families=families, mixture=mixture)
    assert ensemble.parameters == sum(families[0].parameters)
    alone = Ensemble(encoding=families[0].encoding, families=families[:1])
    rows = dataset.features("test")
    torch.testing.assert_close(
        ensemble.score(rows, "probabilities"), alone.score(rows, "probabilities")
    )


def test_rows_are_scored_in_chunks_as_at_once(dataset, trained, monkeypatch):
    """Chunks change no score."""
    ensemble = assembled(TeacherInputs(config=config(), dataset=dataset), trained)
    rows = dataset.features("train")
    whole = ensemble.score(rows, "probabilities")
    monkeypatch.setattr(teachers, "SCORED_BYTES", 4 * 6 * 3 * 50)
    torch.testing.assert_close(ensemble.score(rows, "probabilities"), whole)


def test_weights_see_no_test_row(dataset, trained):
    """Other test labels give the same weights; other validation labels do not."""

    def weights(side):
        labels = dataset.table.labels.copy()
        rows = getattr(dataset.split, side)
        labels[rows] = (labels[rows] + 1) % 3
        changed = dataclasses.replace(dataset.table, labels=labels)
        return mixture_of(trained, Dataset(table=changed, split=dataset.split))

    before = mixture_of(trained, dataset)
    assert weights("test") == before
    assert weights("val") != before


def test_an_ensemble_is_rebuilt_bit_for_bit(dataset, trained, tmp_path):
    """Saved and loaded it scores the same, and it is what it was."""
    ensemble = assembled(TeacherInputs(config=config(), dataset=dataset), trained)
    ensemble.save(tmp_path)
    loaded = Ensemble.load(tmp_path)
    rows = dataset.features("test")
    assert torch.equal(loaded.member_logits(rows), ensemble.member_logits(rows))
    assert torch.equal(loaded.score(rows, "probabilities"), ensemble.score(rows, "probabilities"))
    assert (loaded.weights, loaded.parts) == (ensemble.weights, ensemble.parts)
    assert [type(family) for family in loaded.families] == [Networks, Networks, Trees, Trees]


@pytest.mark.parametrize("families", ["mlp", "boosting"])
def test_gaps_and_categories_are_taken_by_every_family(families, tmp_path):
    """A table of two classes with gaps and texts trains either family, and new texts score."""
    import pandas as pd

    random = np.random.default_rng(0)
    frame = pd.DataFrame({"x": random.normal(size=300), "city": random.choice(list("abc"), 300)})
    frame["y"] = np.where(frame["x"] + (frame["city"] == "a") > 0.3, "yes", "no")
    frame.loc[::7, "x"] = np.nan
    frame.loc[::11, "city"] = None
    options = config(data=frame, target="y", teacher_families=families, teacher_epochs=20)
    dataset = read_dataset(options)
    ensemble = train_ensemble(options, dataset)
    new = frame.drop(columns="y").assign(city="never seen", x=1e30)
    assert torch.isfinite(ensemble.score(new, "probabilities")).all()
    rows = ensemble.score(dataset.features("test"), "probabilities")
    accuracy = (rows.argmax(dim=1).numpy() == dataset.labels("test")).mean()
    assert accuracy > 0.75
