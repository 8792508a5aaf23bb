"""Families are open: one that the docs show, and functions of a user's that return classifiers."""

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from catboost import CatBoost
from conftest import ROOT, TINY
from scipy.special import softmax
from sklearn.metrics import log_loss

from kd_mlflow.config import rules
from kd_mlflow.config.entry_points import MainConfig, TeachersConfig
from kd_mlflow.config.rules import Address
from kd_mlflow.distillation import catboost_models
from kd_mlflow.distillation.families import family_kind, teachers_fingerprint
from kd_mlflow.distillation.inputs import TeacherInputs, teachers_encoding
from kd_mlflow.distillation.one_shot import ArrayFamily
from kd_mlflow.distillation.teachers import Ensemble, teacher_trainings, train_ensemble
from kd_mlflow.errors import ConfigError, TrainingError
from kd_mlflow.evaluation import gate as gates
from kd_mlflow.evaluation.case import Examined
from kd_mlflow.models import estimators
from kd_mlflow.models.any_model import pickle_files
from kd_mlflow.models.own_models import save_ensemble
from kd_mlflow.pipeline import run_main, run_teachers
from kd_mlflow.population.checkpoints import Checkpoints
from kd_mlflow.population.history import HELD_OUT, ignore_epoch
from kd_mlflow.population.workers import HERE
from kd_mlflow.steps.rehearsal import rehearse_families
from kd_mlflow.table.dataset import read_dataset
from kd_mlflow.table.example_rows import made_rows

RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "x": RNG.normal(size=240),
        "n": RNG.integers(0, 9, 240),
        "city": RNG.choice(list("abc"), 240),
    }
)
FRAME["label"] = np.where(FRAME["x"] > 0.4, "high", np.where(FRAME["city"] == "a", "a", "rest"))

MODULE = """
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.svm import LinearSVC

def piped(model):
    coded = OneHotEncoder(handle_unknown="ignore")
    columns = make_column_transformer((coded, ["city"]), remainder="passthrough")
    return make_pipeline(columns, model)

def make_forest():
    return piped(RandomForestClassifier(n_estimators=5))

make_forest.licence = "MIT"

class Mine(LogisticRegression):
    pass

def make_mine():
    return piped(Mine())

def make_boosted():
    from xgboost import XGBClassifier
    return XGBClassifier(n_estimators=3)

def broken():
    raise ValueError("no such file")

def make_margins():
    return LinearSVC()

def untrainable():
    return RandomForestClassifier(n_estimators=2)

nothing = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a module of the user's, as the command line stands in it."""
    (tmp_path / "my_models.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("my_models", None)  # a page's, whose commands were run before
    yield tmp_path
    sys.modules.pop("my_models", None)


def config(families="my_models:make_forest", **options):
    """A resolved configuration of few small teachers."""
    small = {name: value for name, value in TINY.items() if hasattr(TeachersConfig, name)}
    given = {**small, "n_own": 2, "data": FRAME, "target": "label", **options}
    return TeachersConfig(teacher_families=families, **given).resolved(170)


@pytest.fixture(scope="module")
def dataset():
    """Three classes of numbers and texts."""
    return read_dataset(TeachersConfig(data=FRAME, target="label"))


def pulled(folder, ensemble, dataset):
    """The ensemble as MLflow loads it."""
    example = made_rows(dataset.features("train"), ensemble.encoding.columns)
    save_ensemble(folder, ensemble, averaging="probabilities", example=example)
    return mlflow.pyfunc.load_model(str(folder))


def shares(answer):
    """An answer's probabilities.  Shape: (n, classes)."""
    return answer.filter(like="probability_").to_numpy(np.float64)


def code_of(page):
    """The blocks of Python of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)


def module_of(path, name):
    """Import a file under a name."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_the_family_of_the_page_is_one_file_and_a_line(tmp_path, monkeypatch, dataset):
    """Trained, weighed, stored, rebuilt and pulled without this package, as the page says."""
    code, line = code_of("extending.md")[:2]
    assert len(code.splitlines()) <= 35
    name = "kd_mlflow.distillation.bayes"
    (tmp_path / "bayes.py").write_text(code)
    monkeypatch.setitem(sys.modules, name, None)
    module_of(tmp_path / "bayes.py", name)
    added = eval(f"{{{line}}}", {"Address": Address})
    for key, address in added.items():
        monkeypatch.setitem(rules.FAMILIES, key, address)
    ensemble = train_ensemble(config("mlp,bayes", weighting="greedy"), dataset)
    assert [part.name for part in ensemble.parts] == ["networks", "naive Bayes models"]
    assert ensemble.parts[1].share > 0
    rows, model = dataset.features("test"), pulled(tmp_path / "model", ensemble, dataset)
    expected = ensemble.score(rows, "probabilities").double().softmax(dim=1).numpy()
    np.testing.assert_allclose(shares(model.predict(rows)), expected, atol=1e-6)
    again = Ensemble.load(tmp_path / "model")
    assert torch.equal(again.score(rows, "probabilities"), ensemble.score(rows, "probabilities"))


@pytest.mark.parametrize("missing", ["fit_arrays", "score"])
def test_a_family_of_half_a_model_is_refused_at_once(missing, dataset):
    """Before anything is trained: a subclass says how a model is fitted and how it is asked."""
    given = {"fit_arrays": staticmethod(lambda *given: {}), "score": staticmethod(lambda *given: 0)}
    del given[missing]
    half = type("Half", (ArrayFamily,), {"name": "half", "words": "halves", **given})
    with pytest.raises(TypeError, match=missing):
        half(encoding=teachers_encoding(config(), dataset))


def test_the_check_of_the_page_is_one_file_and_a_line(tmp_path, monkeypatch):
    """The gate asks it, and a candidate that disagrees with its ensemble fails by it."""
    (tmp_path / "agreement.py").write_text(code_of("extending.md")[2])
    monkeypatch.setitem(sys.modules, "agreement", None)
    check = module_of(tmp_path / "agreement.py", "agreement").AGREEMENT
    monkeypatch.setattr(gates, "CHECKS", (check,))
    findings = Examined(logged={"test_agreement": 0.8}, reproduced={}, task=None)
    (found,) = gates.gate(findings, None, None)
    assert (found.name, found.passed, found.question) == ("agreement", False, check.question)
    assert "0.8000, at least 0.9 required" in found.reason


def test_a_function_of_the_user_is_a_family(own, dataset):
    """A model per fold with a seed of its own, asked about the rows that it has not seen."""
    (training,) = teacher_trainings(TeacherInputs(config=config(), dataset=dataset))
    trained = training.fit(HERE, ignore_epoch)
    assert (training.name, training.label) == (
        "my_models:make_forest",
        "models of my_models:make_forest",
    )
    assert {name: values.shape for name, values in trained.history.items()} == dict.fromkeys(
        ("train_loss", HELD_OUT, "val_loss", "val_accuracy"), (1, 2)
    )
    for i, rows in enumerate(trained.held_out):
        (logits,) = trained.family.members(slice(i, i + 1)).logits(
            dataset.features("train").iloc[rows]
        )
        found = log_loss(dataset.labels("train")[rows], logits.double().softmax(dim=1))
        assert trained.history[HELD_OUT][0, i] == pytest.approx(found, rel=1e-4)
    assert not set(trained.held_out[0]) & set(trained.held_out[1])
    seeds = [one.model[-1].random_state for one in trained.family.models]
    assert seeds == [seed % (2**31 - 1) for seed in training.seeds]
    again = training.fit(HERE, ignore_epoch).family
    rows = dataset.features("test")
    assert torch.equal(again.logits(rows), trained.family.logits(rows))


def test_what_is_built_in_is_no_family():
    """A function of Python's own has no source to digest, and makes no classifier: one line."""
    assert family_kind("os:getcwd").digest() == ""
    with pytest.raises(ConfigError, match="os:getcwd, of teacher_families, must return"):
        family_kind("os:getcwd").rehearse(
            TeacherInputs(config=config(), dataset=read_dataset(config()))
        )


@pytest.mark.slow
def test_it_is_stored_without_pickle_and_scored_beside_ours(own, dataset):
    """The pulled ensemble answers as the one that was trained, to columns as text too."""
    ensemble = train_ensemble(config("mlp,my_models:make_forest", weighting="equal"), dataset)
    rows, model = dataset.features("test"), pulled(own / "model", ensemble, dataset)
    expected = ensemble.score(rows, "probabilities").double().softmax(dim=1).numpy()
    np.testing.assert_allclose(shares(model.predict(rows)), expected, atol=1e-6)
    texts = rows.astype(str).iloc[:, ::-1]
    np.testing.assert_allclose(shares(model.predict(texts)), expected, atol=1e-6)
    lines = (own / "model/requirements.txt").read_text().splitlines()
    needs = {line.split("==")[0] for line in lines}
    assert needs == {"mlflow-skinny", "numpy", "pandas", "scikit-learn", "skops"}
    assert list((own / "model").rglob("*.pkl")) == []
    again = Ensemble.load(own / "model")
    assert torch.equal(again.score(rows, "probabilities"), ensemble.score(rows, "probabilities"))
    assert ensemble.parameters is None
    assert again.parts[1].name == "models of my_models:make_forest, licence MIT"


@pytest.mark.slow
def test_pickles_need_the_users_word(own, dataset):
    """A class of the user's is refused before training; allowed, it says that it is pickled."""
    with pytest.raises(TrainingError, match=r"only be stored as pickles: own_pickle=true"):
        rehearse_families(TeacherInputs(config=config("my_models:make_mine"), dataset=dataset))
    allowed = config("my_models:make_mine", own_pickle=True)
    rehearse_families(TeacherInputs(config=allowed, dataset=dataset))
    ensemble = train_ensemble(allowed, dataset)
    assert ensemble.parts[0].name == "models of my_models:make_mine (pickled)"
    rows, model = dataset.features("test"), pulled(own / "model", ensemble, dataset)
    expected = ensemble.score(rows, "probabilities").double().softmax(dim=1).numpy()
    np.testing.assert_allclose(shares(model.predict(rows)), expected, atol=1e-6)
    assert (own / "model/family-1/model-01/code/my_models.py").read_text() == MODULE


@pytest.mark.parametrize(
    ("family", "error", "words"),
    [
        ("nowhere:make", ConfigError, "nowhere:make, which cannot be imported: No module named"),
        ("my_models:absent", ConfigError, "cannot be imported: module 'my_models' has no attr"),
        ("my_models:nothing", ConfigError, "my_models:nothing, which is no function"),
        ("my_models:broken", ConfigError, "my_models:broken, .* raises ValueError: no such file"),
        ("my_models:make_margins", ConfigError, "predict_proba; received LinearSVC"),
        ("my_models:untrainable", TrainingError, "cannot be trained on this table: could not"),
    ],
)
def test_what_is_no_family_is_said_in_a_line(own, dataset, family, error, words):
    """A wrong module or name, a function that raises, a model without probabilities or fit."""
    with pytest.raises(error, match=words):
        train_ensemble(config(family), dataset)


@pytest.mark.parametrize("families", ["forest", "mlp,mlp", "a:b:c", "mlp,,boosting"])
def test_names_of_no_family_are_refused_at_once(families):
    """Neither registered nor module:function, or twice."""
    with pytest.raises(
        ConfigError, match="teacher_families must be one or more of mlp, boosting, catboost"
    ):
        TeachersConfig(teacher_families=families)


def test_a_class_that_a_fold_lacks_gets_the_least_probability(own, dataset):
    """A model that has not seen a class says nearly nothing of it, and the ensemble trains."""
    (training,) = teacher_trainings(TeacherInputs(config=config(), dataset=dataset))
    rest = np.flatnonzero(dataset.labels("train") == 2).astype(np.int32)
    without = replace(training, held_out=(rest, training.held_out[1]))
    family = without.fit(HERE, ignore_epoch).family
    assert [one.known for one in family.models] == [(0, 1), (0, 1, 2)]
    found = family.logits(dataset.features("test")).double().softmax(dim=2)
    assert (found[0, :, 2] < 1e-5).all()
    assert (found[1, :, 2] > 1e-5).any()


def test_complete_models_are_taken_up_again(own, dataset, tmp_path, monkeypatch):
    """A training that is interrupted after one model fits the others alone, to the same answers."""
    (training,) = teacher_trainings(TeacherInputs(config=config(), dataset=dataset))
    checkpoints, heard = Checkpoints(folder=tmp_path / "kept"), []

    def stop(members, epoch, values):
        heard.append(members.start)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.fit(HERE, stop, checkpoints)
    fitted, make = [], estimators.function_of(training.recipe.name)
    monkeypatch.setattr(estimators, "function_of", lambda name: lambda: fitted.append(1) or make())
    resumed = training.fit(HERE, ignore_epoch, checkpoints)
    assert (heard, len(fitted)) == ([0], 1)
    whole, rows = training.fit(HERE, ignore_epoch), dataset.features("test")
    assert torch.equal(resumed.family.logits(rows), whole.family.logits(rows))
    assert {n: v.tolist() for n, v in resumed.history.items()} == {
        n: v.tolist() for n, v in whole.history.items()
    }


def test_the_file_counts_as_an_option_does(own, dataset):
    """Another text of the module is another ensemble; ours have nothing of options for others."""

    def mark(families, **options):
        return teachers_fingerprint(dataset.identity, config(families, **options))

    before = mark("my_models:make_forest")
    assert mark("my_models:make_forest", n_own=3) != before
    assert mark("my_models:make_forest", own_pickle=True) == before
    (own / "my_models.py").write_text(MODULE + "\n# another depth\n")
    assert mark("my_models:make_forest") != before
    assert mark("mlp", n_own=3) == mark("mlp")


@pytest.mark.slow
def test_xgboost_is_stored_in_its_own_format(own, dataset):
    """Without pickle; it is given class numbers, for it takes no texts."""
    numbers = FRAME.drop(columns="city")
    options = config("my_models:make_boosted", data=numbers)
    table = read_dataset(options)
    ensemble = train_ensemble(options, table)
    rows, model = table.features("test"), pulled(own / "model", ensemble, table)
    expected = ensemble.score(rows, "probabilities").double().softmax(dim=1).numpy()
    np.testing.assert_allclose(shares(model.predict(rows)), expected, atol=1e-6)
    assert list((own / "model/family-1/model-01").glob("*.pkl")) == []
    needs = (own / "model/requirements.txt").read_text()
    assert "xgboost" in needs


NOISY = FRAME.assign(
    label=FRAME["label"].where(RNG.random(240) > 0.2, RNG.permutation(FRAME["label"]))
)
"""Its labels are wrong in places: boosting is over early."""


@pytest.fixture(scope="module")
def noisy():
    """Three classes that cannot be told for sure."""
    return read_dataset(TeachersConfig(data=NOISY, target="label"))


@pytest.fixture(scope="module")
def catboost_trained(noisy):
    """Two models of CatBoost, each without its fold."""
    (training,) = teacher_trainings(
        TeacherInputs(config=config("catboost", data=NOISY), dataset=noisy)
    )
    return training.fit(HERE, ignore_epoch)


def test_catboost_stops_by_the_rows_left_out(noisy, catboost_trained):
    """Its log loss on them is the least of any round's, far from the last of a thousand."""
    trained, train, labels = catboost_trained, noisy.features("train"), noisy.labels("train")
    for i, rows in enumerate(trained.held_out):
        arrays = trained.family.models[i]
        model = CatBoost().load_model(blob=arrays["model"].tobytes())
        x = trained.family.encoding.encode(train.iloc[rows]).astype(object)
        places = arrays["categories"]
        assert len(places) > 0
        x[:, places] = np.nan_to_num(x[:, places].astype(float), nan=-1).astype(int)
        by_round = [
            log_loss(labels[rows], softmax(raw, axis=1))
            for raw in model.staged_predict(x, prediction_type="RawFormulaVal")
        ]
        assert len(by_round) < 900
        assert int(np.argmin(by_round)) == len(by_round) - 1
        assert trained.history[HELD_OUT][0, i] == pytest.approx(by_round[-1], rel=1e-5)


def test_numbers_of_catboost_are_leaves_and_thresholds(catboost_trained):
    """As many as its own export of trees holds."""
    for arrays, numbers in zip(
        catboost_trained.family.models, catboost_trained.family.parameters, strict=True
    ):
        model = CatBoost().load_model(blob=arrays["model"].tobytes())
        trees = [model._get_tree_splits(i, None) for i in range(model.tree_count_)]
        assert numbers == len(model.get_leaf_values()) + sum(map(len, trees))


@pytest.mark.parametrize("classes", [2, 3])
def test_catboost_is_pulled_as_it_was_trained(tmp_path, classes):
    """Weighed, stored without pickle, rebuilt and pulled; gaps and unseen categories answer too."""
    frame = NOISY[NOISY["label"].isin(sorted(set(NOISY["label"]))[:classes])]
    dataset = read_dataset(TeachersConfig(data=frame, target="label"))
    given = config("mlp,catboost", weighting="greedy", data=frame)
    ensemble = train_ensemble(given, dataset)
    assert ensemble.parts[1].name == "CatBoost models"
    assert ensemble.parts[1].share > 0
    rows, model = dataset.features("test").head(20), pulled(tmp_path / "m", ensemble, dataset)
    texts = rows.select_dtypes(exclude="number").columns
    odd = rows.assign(**dict.fromkeys(texts, "never seen"))
    gaps = rows.assign(**{name: pd.Series(None, rows.index, dtype="object") for name in texts})
    for asked in (rows, odd, gaps):
        expected = ensemble.score(asked, "probabilities").double().softmax(dim=1).numpy()
        np.testing.assert_allclose(shares(model.predict(asked)), expected, atol=1e-6)
    again = Ensemble.load(tmp_path / "m")
    assert torch.equal(again.score(rows, "probabilities"), ensemble.score(rows, "probabilities"))
    assert not pickle_files(tmp_path / "m")
    assert "catboost" in (tmp_path / "m" / "requirements.txt").read_text()


def test_without_catboost_one_line_says_what_to_install(monkeypatch, dataset):
    """Before anything is trained, and where an ensemble of it is loaded."""
    monkeypatch.setattr(catboost_models, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'kd-mlflow\[catboost\]'"):
        rehearse_families(TeacherInputs(config=config("mlp,catboost"), dataset=dataset))
    with pytest.raises(ConfigError, match="not installed"):
        family_kind("catboost").load(Path("anywhere"))


@pytest.mark.slow
def test_a_forest_teaches_from_end_to_end(store, own):
    """Train, distil, promote, pull; runs with figures; the second time it is reused."""
    families = "mlp,my_models:make_forest"
    options = {**TINY, "data": FRAME, "target": "label", "n_own": 2, "teacher_families": families}
    result = run_main(MainConfig(**options))
    assert result.decision.promoted, result.decision.reason
    experiment = mlflow.get_run(result.taught.run_id).info.experiment_id
    children = mlflow.MlflowClient().search_runs(
        [experiment], "tags.`kd.family` = 'my_models:make_forest'"
    )
    assert sorted(run.info.run_name for run in children) == ["make_forest-01", "make_forest-02"]
    for run in children:
        known = {"test_accuracy", "test_log_loss", "weight", "val_loss", "held_out_loss"}
        assert run.data.metrics.keys() >= known
        assert "parameters" not in run.data.metrics
    version = mlflow.MlflowClient().get_model_version("kd-student", "1")
    assert "models of my_models:make_forest, licence MIT" in version.description
    student = mlflow.pyfunc.load_model("models:/kd-student@production")
    assert len(student.predict(FRAME.head(3))) == 3
    teachers = {n: v for n, v in options.items() if hasattr(TeachersConfig, n)}
    assert run_teachers(TeachersConfig(**teachers)).reused
