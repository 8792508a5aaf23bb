"""The ensemble is a model like the student: answered without torch, scored, found, registered."""

from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import TINY
from sklearn.metrics import log_loss

from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.distillation.teachers import train_ensemble
from kd_mlflow.models.any_model import named_model
from kd_mlflow.models.own_models import save_ensemble, served_teacher
from kd_mlflow.population.selection import Mixture
from kd_mlflow.serving.ensemble_scoring import Members, Trees
from kd_mlflow.table.dataset import read_dataset
from kd_mlflow.table.example_rows import made_rows
from kd_mlflow.tracking.lookup import ENSEMBLE, load_ensemble
from kd_mlflow.tracking.runs import Tracker

FAMILIES = 4
"""Networks, networks on bins, boosted models, boosted models that sample columns."""

MIXTURE = Mixture(shares=(0.5, 0.2, 0.3, 0.0), temperatures=(2.0, 0.7, 1.0, 1.5), temperature=1.3)


@pytest.fixture(scope="module")
def dataset():
    """Three classes; numbers, some far from 0 or missing, categories, dates."""
    rng, n = np.random.default_rng(0), 240
    x = rng.normal(size=n)
    frame = pd.DataFrame({"x": x, "year": 1.6e9 + rng.normal(size=n)})
    frame["name"] = rng.choice(list("abc"), n)
    frame["gaps"] = np.where(rng.random(n) < 0.2, np.nan, rng.exponential(size=n))
    frame["day"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, n), "D")
    frame["label"] = np.where(x > 0.5, "high", np.where(frame["name"] == "a", "a", "rest"))
    return read_dataset(TeachersConfig(data=frame, target="label"))


@pytest.fixture(scope="module")
def ensemble(dataset):
    """A small one of all families."""
    options = {**TINY, "n_teachers": 4, "n_boosted": 2, "teacher_bins": 4, "boosting_rounds": 5}
    known = {name: value for name, value in options.items() if hasattr(TeachersConfig, name)}
    config = TeachersConfig(data="wine", weighting="equal", **known)
    found = train_ensemble(config.resolved(len(dataset.split.train)), dataset)
    assert len(found.families) == FAMILIES
    return found


def saved(folder, ensemble, dataset, averaging="probabilities"):
    """Write its model; return the folder."""
    example = made_rows(dataset.features("train"), ensemble.encoding.columns)
    save_ensemble(folder, ensemble, averaging=averaging, example=example)
    return folder


def lines(folder):
    """Its requirements."""
    return (folder / "requirements.txt").read_text().splitlines()


def shares(answer):
    """The answer's probability columns.  Shape: (n, classes)."""
    return answer.filter(like="probability_").to_numpy(np.float64)


def test_trees_are_asked_in_one_thread(tmp_path):
    """Threads of which each has a row or none wait for each other: a row took 6 ms, not 0.02."""
    asked = []

    class Booster:
        def predict(self, rows, **given):
            asked.append(given["num_threads"])
            return np.zeros(len(rows))

    trees = Trees(tmp_path)
    trees.boosters = [Booster(), Booster()]
    assert trees(np.zeros((3, 2), dtype=np.float32)).shape == (2, 3, 2)
    assert asked == [1, 1]


@pytest.mark.parametrize("averaging", ["logits", "probabilities"])
@pytest.mark.parametrize("mixture", [None, MIXTURE], ids=["equals", "weighed"])
def test_numpy_averages_as_torch_does(tmp_path, ensemble, dataset, averaging, mixture):
    """Every family, weighed or not, in both averages: probabilities are equal to 1e-6."""
    own, features = replace(ensemble, mixture=mixture), dataset.features("test")
    saved(tmp_path, own, dataset)
    found = Members(tmp_path, averaging).probabilities(own.encoding.encode(features))
    expected = own.score(features, averaging).double().softmax(dim=1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


class Others:
    """A teacher that is no ensemble of ours."""

    def score(self, rows, averaging):
        """Tell what it was asked."""
        return len(rows), averaging


def test_a_teacher_is_timed_as_it_is_served(ensemble, dataset, monkeypatch):
    """What is timed gives an ensemble's answers from raw rows, without torch; others are asked."""
    features = dataset.features("test")
    expected = ensemble.score(features, "logits").double().softmax(dim=1).numpy()
    encode, score = served_teacher(ensemble, "logits")
    monkeypatch.setattr(type(ensemble), "score", None)
    np.testing.assert_allclose(score(encode(features), features), expected, atol=1e-6)
    assert served_teacher(Others(), "logits").score(None, features) == (len(features), "logits")


def test_many_rows_are_scored_as_few_are(tmp_path, ensemble, dataset, monkeypatch):
    """How many rows are scored at once changes no probability."""
    encoded = ensemble.encoding.encode(dataset.features("test"))
    saved(tmp_path, ensemble, dataset)
    expected = Members(tmp_path, "logits").probabilities(encoded)
    monkeypatch.setattr("kd_mlflow.serving.scoring.ROWS_AT_ONCE", 32)
    monkeypatch.setattr("kd_mlflow.serving.ensemble_scoring.BATCH_BYTES", 1)
    found = Members(tmp_path, "logits").probabilities(encoded)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_equal_rows_get_equal_answers(tmp_path, ensemble, dataset):
    """Within rounding, wherever a row stands, and beside however many others."""
    saved(tmp_path, ensemble, dataset)
    members, row = Members(tmp_path, "probabilities"), dataset.features("test").head(1)
    one = ensemble.encoding.encode(row)
    for n in (1, 5, 37):
        many, alone = (members.probabilities(rows) for rows in (one.repeat(n, axis=0), one))
        assert np.abs(many - alone).max() < 1e-6


def test_lightgbm_is_required_where_trees_count(tmp_path, ensemble, dataset):
    """An ensemble whose boosted families have no share needs mlflow-skinny, numpy and pandas."""
    alone = Mixture(shares=(0.5, 0.5, 0.0, 0.0), temperatures=(1.0,) * 4, temperature=1.0)
    needs = []
    for name, mixture in (("all", None), ("networks", alone)):
        folder = saved(tmp_path / name, replace(ensemble, mixture=mixture), dataset)
        needs.append({line.split("==")[0] for line in lines(folder)})
    assert needs[1] == {"mlflow-skinny", "numpy", "pandas"}
    assert needs[0] == needs[1] | {"lightgbm"}


def test_the_model_says_nothing_of_where_it_was_made(tmp_path, ensemble, dataset, monkeypatch):
    """No file names a folder of this machine, and a project's lock at hand is not copied."""
    project = tmp_path / "project"
    project.mkdir()
    for name in ("uv.lock", "pyproject.toml"):
        (project / name).write_text('version = 1\n[project]\nname = "theirs"\nversion = "1"\n')
    monkeypatch.chdir(project)
    folder = saved(tmp_path / "model", ensemble, dataset)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not {"uv.lock", "pyproject.toml"} & {path.name for path in files}
    places = (str(Path(__file__).parents[1]), str(tmp_path))
    texts = [path.read_text() for path in files if path.suffix != ".npz"]
    assert not [text for text in texts if any(place in text for place in places)]


@pytest.fixture
def model(finished, monkeypatch):
    """The shared run's ensemble as anyone pulls it, where MLflow refuses to unpickle."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    return mlflow.pyfunc.load_model(f"runs:/{finished.result.taught.run_id}/ensemble")


def test_it_scores_the_logged_metrics(finished, model):
    """Accuracy and log loss of its answers on the test rows are those that its run logged."""
    dataset, logged = pipeline.read_dataset(finished.config), finished.result.taught.metrics
    answer, labels = model.predict(dataset.features("test")), dataset.labels("test")
    accuracy = (answer["prediction"].to_numpy() == labels).mean()
    assert accuracy == pytest.approx(logged["ensemble_test_accuracy"], abs=1e-9)
    found = shares(answer) / shares(answer).sum(axis=1, keepdims=True)
    assert log_loss(labels, found) == pytest.approx(logged["ensemble_test_log_loss"], abs=1e-6)


def test_the_store_shows_its_metrics_beside_its_data_set(finished):
    """The logged model is its run's, has its options, and the metrics of its own average."""
    run = finished.client.get_run(finished.result.taught.run_id)
    (output,) = run.outputs.model_outputs
    logged = finished.client.get_logged_model(output.model_id)
    assert (logged.name, logged.source_run_id) == ("ensemble", run.info.run_id)
    own = {k: v for k, v in run.data.metrics.items() if k.startswith("ensemble_test_")}
    own = {name: value for name, value in own.items() if "_averaged_" not in name}
    assert own.keys() >= {"ensemble_test_accuracy", "ensemble_test_log_loss", "ensemble_test_ece"}
    assert {metric.key: metric.value for metric in logged.metrics} == own
    assert {metric.dataset_name for metric in logged.metrics} == {"synthetic"}
    assert logged.params["n_teachers"] == str(finished.config.n_teachers)


def test_it_takes_and_shows_what_a_student_does(finished, model):
    """Columns by name in any order; an example that is scored and is no row of the table."""
    features = pipeline.read_dataset(finished.config).features("test").head(5)
    pd.testing.assert_frame_equal(model.predict(features), model.predict(features.iloc[:, ::-1]))
    example = model.input_example
    assert list(example) == list(features)
    assert len(model.predict(example)) == 2
    outputs = model.metadata.signature.outputs.input_names()
    assert outputs == ["prediction", "probability_0", "probability_1"]


def test_evaluate_scores_it(finished, model):
    """By its URI it is asked as a model of ours: it names its classes and columns."""
    dataset = pipeline.read_dataset(finished.config)
    rows = dataset.features("test").head(40)
    found = named_model(Tracker(), f"runs:/{finished.result.taught.run_id}/ensemble")
    assert found.classes(rows, np.array([], dtype=object)) == ("0", "1")
    assert found.pickles == ()
    asked = found.respondent.shares(rows, ("0", "1"))
    np.testing.assert_allclose(asked, shares(model.predict(rows)), atol=1e-7)


def test_an_ensemble_of_an_earlier_version_is_found(store, ensemble, dataset):
    """Its files lay in a folder of its run, without a model; they are read to the same bits."""
    tracker = Tracker()
    with tracker.run("teachers", "earlier") as run:
        run.folder(ensemble.save, ENSEMBLE)
    found, features = load_ensemble(tracker, run.id), dataset.features("test")
    assert found.run_id == run.id
    assert (found.score(features, "logits") == ensemble.score(features, "logits")).all()


@pytest.mark.slow
def test_it_is_registered_as_any_model_is(own_main):
    """Under a name of its own, by its run; nothing has registered it before."""
    uri = f"runs:/{own_main.result.taught.run_id}/ensemble"
    assert [model.name for model in own_main.client.search_registered_models()] == ["kd-student"]
    version = mlflow.register_model(uri, "kd-ensemble")
    rows = pipeline.read_dataset(own_main.config).features("test").head(3)
    pulled = mlflow.pyfunc.load_model(f"models:/kd-ensemble/{version.version}")
    pd.testing.assert_frame_equal(pulled.predict(rows), mlflow.pyfunc.load_model(uri).predict(rows))
