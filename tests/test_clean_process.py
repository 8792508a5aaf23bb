"""A pulled model answers in a process that knows nothing of this package."""

import io
import os
import shutil
from functools import partial
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, forget_store, use_store
from mlflow.entities.model_registry import ModelVersion
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier

from kd_mlflow import pipeline
from kd_mlflow.errors import RegistryError, Unavailable
from kd_mlflow.evaluation.reproduction import TOLERANCE, repetition
from kd_mlflow.local_state import scratch
from kd_mlflow.models import processes
from kd_mlflow.models.processes import CleanProcess, ask_production, written_rows

CODE_FILE = "student.py"


@pytest.fixture(scope="module")
def pulled(finished_main, tmp_path_factory):
    """The registered student in a folder, and rows for it."""
    folder = tmp_path_factory.mktemp("pulled") / "model"
    with pytest.MonkeyPatch.context() as patch:
        use_store(patch, finished_main.uri, tmp_path_factory.mktemp("asking"))
        version = finished_main.client.get_model_version("kd-student", "1")
        mlflow.artifacts.download_artifacts(artifact_uri=version.source, dst_path=str(folder))
        forget_store()
    rows = pipeline.read_dataset(finished_main.config).features("test").head(50)
    return folder, rows


@pytest.mark.slow
def test_another_processor_gives_the_same_answers(pulled, monkeypatch):
    """Other kernels of the matrix product round otherwise: far less than the gate allows."""
    folder, rows = pulled
    here = mlflow.pyfunc.load_model(str(folder)).predict(rows)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    with CleanProcess() as clean:
        answers = clean.ask(folder, rows, timed=False)
    named = [f"probability_{name}" for name in answers.classes]
    found = repetition(here[named].to_numpy(), answers.probabilities, answers.places, None)
    assert (found.other_probabilities, found.other_classes) == (0, 0)
    assert found.max_difference < TOLERANCE / 10


@pytest.mark.slow
def test_a_model_that_needs_this_package_does_not_load(pulled, tmp_path):
    """What would fail on a server fails here, and the error's last line says why."""
    folder = shutil.copytree(pulled[0], tmp_path / "model")
    code = next(folder.rglob(CODE_FILE))
    code.write_text("import kd_mlflow\n" + code.read_text().replace("from __future__", "# "))
    with CleanProcess() as clean:
        answers = clean.ask(folder, pulled[1], timed=False)
    assert isinstance(answers, Unavailable)
    assert "does not load and score" in answers.reason
    assert "kd_mlflow" in answers.reason


@pytest.mark.slow
def test_a_model_that_hangs_is_given_up(pulled, tmp_path, monkeypatch):
    """It is killed as the block ends."""
    monkeypatch.setattr(processes, "PATIENCE_S", 0.2)
    with CleanProcess() as clean:
        process = clean.process
        answers = clean.ask(pulled[0], pulled[1], timed=False)
        assert isinstance(answers, Unavailable)
        assert "within 0.2 seconds" in answers.reason
    assert process.poll() is not None


def test_a_process_that_is_never_asked_ends_with_the_block():
    """A main that fails before it promotes leaves none behind."""
    with CleanProcess() as clean:
        assert clean.process.poll() is None
    assert clean.process.poll() is not None


def test_rows_of_any_kind_are_handed_over():
    """Columns that Parquet has no type for are written as the texts that models read of them."""
    rows = pd.DataFrame(
        {"n": [1.5, None], "mixed": [True, "a"], "d": pd.to_datetime(["2020", None])}
    )
    read = pd.read_parquet(io.BytesIO(written_rows(rows)))
    pd.testing.assert_frame_equal(read[["n", "d"]], rows[["n", "d"]], check_dtype=False)
    assert list(read["mixed"]) == ["True", "a"]


@pytest.mark.slow
def test_it_answers_as_here_and_knows_nothing_of_the_caller(pulled, tmp_path, monkeypatch):
    """Probabilities and predictions are those of the model loaded in this process; timed too.

    Neither a password nor an address is in its environment, and no row in a file of its own.
    """
    for name in ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "ANY_OTHER"):
        monkeypatch.setenv(name, "hush")
    monkeypatch.setenv("KD_MLFLOW_STATE", str(tmp_path))
    rows, folder = pulled[1], shutil.copytree(pulled[0], tmp_path / "model")
    (code,) = folder.rglob(CODE_FILE)
    told = tmp_path / "told"
    spy = f"open({str(told)!r}, 'w').write(repr((dict(__import__('os').environ))))"
    code.write_text(code.read_text().replace("from __future__ import annotations\n", spy + "\n"))
    with CleanProcess() as clean:
        answers = clean.ask(folder, rows, timed=True)
        (lock,) = (tmp_path / "scratch").glob("*.lock")
        assert {*(tmp_path / "scratch").rglob("*")} == {lock, lock.with_suffix("")}
    assert "hush" not in told.read_text()
    assert "OMP_NUM_THREADS" in told.read_text()
    assert not list((tmp_path / "scratch").iterdir())
    here = mlflow.pyfunc.load_model(str(pulled[0])).predict(rows)
    named = [f"probability_{name}" for name in answers.classes]
    np.testing.assert_allclose(answers.probabilities, here[named].to_numpy(), atol=1e-7)
    predicted = [answers.classes[place] for place in answers.places]
    assert predicted == [str(name) for name in here["prediction"]]
    assert answers.latency_ms > 0


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, monkeypatch):
    """Its folder goes, one that is in use stays; nobody else may look into either."""
    monkeypatch.setenv("KD_MLFLOW_STATE", str(tmp_path))
    given = os.umask(0)
    try:
        with scratch() as used:
            left = used.with_name("left")
            left.mkdir()
            Path(f"{left}.lock").touch()
            with scratch():
                assert not left.exists()
                assert used.exists()
            for path in (*used.parent.rglob("*"), used.parent):
                assert path.stat().st_mode & 0o077 == 0
    finally:
        os.umask(given)
    assert not list(used.parent.iterdir())


class Spy(ClassifierMixin, BaseEstimator):
    """A classifier of anybody's that tells what it finds in the environment, as its one class."""

    def fit(self, features, labels):
        """Learn the classes."""
        self.classes_ = np.unique(labels)
        return self

    def predict_proba(self, features):
        """Tell, by an error."""
        import os

        raise ValueError(f"it found {os.environ.get('MLFLOW_TRACKING_PASSWORD')} of the caller's")


@pytest.mark.slow
@pytest.mark.parametrize("model", [DummyClassifier(strategy="prior"), Spy()])
def test_production_of_other_origins_is_asked_apart(tmp_path, monkeypatch, model):
    """It answers as it does here, and knows no password."""
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests"))))
    rows = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": ["x", "y", None]})
    mlflow.sklearn.save_model(
        model.fit(rows, ["no", "yes", "yes"]),
        tmp_path / "model",
        serialization_format="cloudpickle",
        pip_requirements=[],  # else MLflow loads it in a process that looks what it imports
    )
    version = ModelVersion("m", "7", 0, source="models:/m-0")
    ask = partial(ask_production, version, tmp_path / "model", rows, ["yes", "no"])
    if isinstance(model, Spy):
        with pytest.raises(RegistryError, match=r"it found None of the caller's.*policy=any"):
            ask()
        return
    found = ask()
    assert found.classes == ("no", "yes")
    assert found.columns == ("a", "b")
    np.testing.assert_allclose(found.answers, [[2 / 3, 1 / 3]] * 3)
