"""A pulled model answers in a process that knows nothing of this package."""

import shutil

import mlflow
import numpy as np
import pandas as pd
import pytest

from kd_mlflow import pipeline
from kd_mlflow.errors import Unavailable
from kd_mlflow.evaluation.reproduction import TOLERANCE, repetition
from kd_mlflow.models import clean_process
from kd_mlflow.models.clean_process import CleanProcess, write_rows
from kd_mlflow.models.pulled import ROWS

CODE_FILE = "student.py"


@pytest.fixture(scope="module")
def pulled(finished_main, tmp_path_factory):
    """The registered student in a folder, and rows for it."""
    folder = tmp_path_factory.mktemp("pulled") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", finished_main.uri)
        version = finished_main.client.get_model_version("kd-student", "1")
        mlflow.artifacts.download_artifacts(
            artifact_uri=version.source, dst_path=str(folder), tracking_uri=finished_main.uri
        )
    rows = pipeline.read_dataset(finished_main.config).features("test").head(50)
    return folder, rows


@pytest.mark.slow
def test_it_answers_as_the_model_does_here(pulled):
    """Probabilities and predictions are those of the model loaded in this process; timed too."""
    folder, rows = pulled
    with CleanProcess() as clean:
        answers = clean.ask(folder, rows, timed=True)
    here = mlflow.pyfunc.load_model(str(folder)).predict(rows)
    named = [f"probability_{name}" for name in answers.classes]
    np.testing.assert_allclose(answers.probabilities, here[named].to_numpy(), atol=1e-7)
    predicted = [answers.classes[place] for place in answers.places]
    assert predicted == [str(name) for name in here["prediction"]]
    assert answers.latency_ms > 0


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
    monkeypatch.setattr(clean_process, "PATIENCE_S", 0.2)
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


def test_rows_of_any_kind_are_handed_over(tmp_path):
    """Columns that Parquet has no type for are written as the texts that models read of them."""
    rows = pd.DataFrame(
        {"n": [1.5, None], "mixed": [True, "a"], "d": pd.to_datetime(["2020", None])}
    )
    write_rows(rows, tmp_path)
    read = pd.read_parquet(tmp_path / ROWS)
    pd.testing.assert_frame_equal(read[["n", "d"]], rows[["n", "d"]], check_dtype=False)
    assert list(read["mixed"]) == ["True", "a"]
