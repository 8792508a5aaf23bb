"""The registered student works anywhere on any honest table and says what is wrong with others."""

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import mlflow.pyfunc.scoring_server
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import use_store
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.types.schema import AnyType

from kd_mlflow import pipeline
from kd_mlflow.models.own_models import PROFILE, SCHEMA
from kd_mlflow.table.profile import Profile
from kd_mlflow.tracking.runs import Tracker
from kd_mlflow.tracking.saved_model import write_example

URI = "models:/kd-student@production"
COLUMNS = [f"feature_{i:02d}" for i in range(20)]


@pytest.fixture(scope="module")
def held_out(finished_main):
    """Test rows of the table that the shared main was trained on."""
    return pipeline.read_dataset(finished_main.config).features("test")


@pytest.fixture(scope="module")
def folder(finished_main, tmp_path_factory):
    """The model's files as the registry gives them."""
    where = tmp_path_factory.mktemp("pulled")
    with pytest.MonkeyPatch.context() as patch:
        use_store(patch, finished_main.uri, where)
        pulled = mlflow.artifacts.download_artifacts(URI, dst_path=str(where))
        mlflow.set_tracking_uri(None)
    return Path(pulled)


@pytest.fixture(scope="module")
def student(folder):
    """The pyfunc flavour."""
    return mlflow.pyfunc.load_model(str(folder))


def probabilities(answer):
    """The answer's probability columns.  Shape: (n, classes)."""
    return answer[["probability_0", "probability_1"]].to_numpy()


def test_model_has_both_flavours(folder):
    """The model loads as a table scorer and as a torch module."""
    flavors = Model.load(str(folder)).flavors
    assert {"python_function", "pytorch"} <= flavors.keys()


# MLflow 3.18 has a wider setting besides
@pytest.mark.filterwarnings("ignore:Environment variable MLFLOW_ALLOW_PICKLE_DESERIALIZATION")
def test_model_loads_where_pickle_is_forbidden(folder, monkeypatch):
    """MLflow loads both flavours while it refuses to unpickle."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    assert mlflow.pyfunc.load_model(str(folder))
    assert mlflow.pytorch.load_model(str(folder), device="cpu")


def test_the_profile_counts_training_rows_and_is_not_read_to_score(folder, held_out, tmp_path):
    """Each column's counts sum to the training rows; without the file the answers are the same."""
    profile = Profile.from_dict(json.loads((folder / PROFILE).read_text()))
    assert [column.name for column in profile.columns] == COLUMNS
    assert {sum(column.counts) for column in profile.columns} == {sum(profile.classes)}
    bare = shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns(PROFILE))
    answers = [mlflow.pyfunc.load_model(str(each)).predict(held_out) for each in (folder, bare)]
    pd.testing.assert_frame_equal(*answers)


def test_a_row_made_of_the_schema_is_answered(folder, student):
    """``schema.json`` beside the model names its columns; their least values are a row it takes."""
    columns = json.loads((folder / SCHEMA).read_text())["columns"]
    assert [column["name"] for column in columns] == COLUMNS
    row = {column["name"]: [column["range_in_training"][0]] for column in columns}
    assert len(student.predict(pd.DataFrame(row))) == 1


def test_prediction_is_the_likeliest_class_and_probabilities_sum_to_one(student, held_out):
    """``prediction`` is the class of the largest probability."""
    answer = student.predict(held_out)
    assert list(answer) == ["prediction", "probability_0", "probability_1"]
    assert (answer["prediction"].to_numpy() == probabilities(answer).argmax(axis=1)).all()
    assert probabilities(answer).sum(axis=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table[COLUMNS[::-1]],
        lambda table: table.assign(extra="text", row_id=range(len(table)))[
            ["extra", *COLUMNS, "row_id"]
        ],
        lambda table: table.set_index(np.arange(len(table)) + 7),
        lambda table: table.astype(object),
    ],
    ids=["reversed columns", "extra columns", "another index", "object columns"],
)
def test_the_same_rows_get_the_same_probabilities(student, held_out, change):
    """Order of columns, extra columns, the index and the columns' type change no probability."""
    answer, expected = student.predict(change(held_out)), student.predict(held_out)
    np.testing.assert_array_equal(probabilities(answer), probabilities(expected))


def test_whole_numbers_are_numbers(student, held_out):
    """Integer columns score as the same numbers with a decimal point."""
    whole = held_out.round().astype("int64")
    answer, expected = student.predict(whole), student.predict(whole.astype("float64"))
    np.testing.assert_array_equal(probabilities(answer), probabilities(expected))


def test_one_row_scores_as_it_does_among_others(student, held_out):
    """A single row gets the probabilities it has in the whole table."""
    one, all_rows = student.predict(held_out.iloc[[5]]), student.predict(held_out)
    assert probabilities(one)[0] == pytest.approx(probabilities(all_rows)[5], abs=1e-6)


def test_both_flavours_agree(folder, student, held_out):
    """The torch module on the columns in training order gives the pyfunc's probabilities."""
    module = mlflow.pytorch.load_model(str(folder), device="cpu")
    with torch.inference_mode():
        logits = module(torch.tensor(held_out[COLUMNS].to_numpy(np.float32)))
    expected = torch.softmax(logits, dim=1).numpy()
    np.testing.assert_allclose(
        probabilities(student.predict(held_out)), expected, rtol=0, atol=1e-6
    )


def test_signature_names_columns_and_answers(student):
    """The signature lists the raw columns in training order and what the model answers."""
    signature = student.metadata.signature
    assert signature.inputs.input_names() == COLUMNS
    assert {type(column.type) for column in signature.inputs} == {AnyType}
    assert signature.outputs.input_names() == ["prediction", "probability_0", "probability_1"]


def test_input_example_is_scored(folder, student):
    """The model carries an example of raw columns that it accepts itself."""
    example = Model.load(str(folder)).load_input_example(str(folder))
    assert list(example) == COLUMNS
    assert len(student.predict(example)) == len(example) == 2


def test_an_example_comes_back_as_it_was(tmp_path):
    """MLflow reads what is written: numbers to the last digit, gaps, dates and any text."""
    moments = pd.to_datetime(["2024-03-31 12:00:00.000001", None]).astype("datetime64[us]")
    example = pd.DataFrame(
        {
            "number": [0.1 + 0.2, np.nan],
            "whole": np.array([2**53 + 1, -1]),
            "narrow": np.array([0.1, 1e30], dtype=np.float32),
            "truth": [True, False],
            'a "name"': pd.Series(["Ærø, 007", None], dtype=object),
            "moment": moments,
            "kind": pd.Categorical(["a", None]),
            "mixed": pd.Series([np.int64(3), "three"], dtype=object),
        },
        index=[7, 9],
    )
    described = Model()
    write_example(tmp_path, described, example)
    loaded = described.load_input_example(str(tmp_path))
    assert list(loaded) == list(example)
    expected = example.astype(object).where(example.notna(), None).values.tolist()
    expected[0][5] = "2024-03-31T12:00:00.000001"
    assert loaded.astype(object).where(loaded.notna(), None).values.tolist() == expected
    request = json.loads(described.get_serving_input(str(tmp_path)))
    assert request == {"dataframe_split": json.loads((tmp_path / "input_example.json").read_text())}


def test_requirements_can_be_installed_anywhere(folder):
    """Requirements pin public versions, without +cpu; torch is an extra of the torch flavour."""
    lines = (folder / "requirements.txt").read_text().split()
    assert sorted(line.split("==")[0] for line in lines) == ["mlflow-skinny", "numpy", "pandas"]
    extra = (folder / "requirements-pytorch.txt").read_text().splitlines()
    assert extra == ["-r requirements.txt", f"torch=={torch.__version__.split('+')[0]}"]
    assert not [line for line in [*lines, extra[1]] if "+" in line or "==" not in line]
    assert Model.load(str(folder)).metadata["extras"] == {"pytorch": extra[1:]}
    environment = (folder / "conda.yaml").read_text() + (folder / "python_env.yaml").read_text()
    assert "torch" not in environment


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="feature_07"), "feature_07"),
        (lambda table: table.assign(feature_07="tall"), "feature_07.*tall"),
        (lambda table: table.assign(feature_07=np.inf), "feature_07.*finite"),
        (lambda table: table.assign(feature_07=1e300), "feature_07.*finite"),
        (lambda table: table.head(0), "no rows to score"),
    ],
    ids=["missing", "text", "infinite", "too large", "no rows"],
)
def test_a_wrong_table_is_refused_by_name(student, held_out, change, message):
    """A table the model cannot score raises MlflowException, which names the column."""
    with pytest.raises(MlflowException, match=message):
        student.predict(change(held_out.head(3)))


PULL = """
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("kd_mlflow", "torch"):
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Blocker())
for name in ("kd_mlflow", "torch"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} can be imported: this test would prove nothing")
import mlflow, pandas
rows = pandas.read_json(sys.argv[1], orient="split")
for uri in sys.argv[2:]:
    print(json.dumps(mlflow.pyfunc.load_model(uri).predict(rows).to_dict("list")))
"""


@pytest.mark.slow
def test_models_need_neither_this_package_nor_torch(finished, student, held_out, tmp_path):
    """From an empty folder where neither can be imported both give the answers that they give here.

    The student's are the loaded model's, the ensemble's those that distil.
    """
    rows, taught = held_out.head(20).reset_index(drop=True), finished.result.taught
    table = tmp_path / "rows.json"
    rows.to_json(table, orient="split", double_precision=15)
    empty = tmp_path / "empty"
    empty.mkdir()
    done = subprocess.run(
        [sys.executable, "-I", "-c", PULL, str(table), URI, f"runs:/{taught.run_id}/ensemble"],
        cwd=empty,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    own, ensembles = (
        probabilities(pd.DataFrame(json.loads(line))) for line in done.stdout.splitlines()[-2:]
    )
    np.testing.assert_allclose(own, probabilities(student.predict(rows)), atol=1e-6)
    averaging = finished.config.resolved(3600).averaging
    expected = taught.ensemble.score(rows, averaging).double().softmax(dim=1)
    np.testing.assert_allclose(ensembles, expected.numpy(), atol=1e-6)


def test_pulled_files_are_the_logged_ones(folder, finished):
    """What the registry gives holds the graph, its encoding and its code, nothing of the run."""
    names = {path.name for path in folder.iterdir()}
    assert {"MLmodel", "encoding.json", "weights.npz", "requirements.txt"} <= names
    assert {"bounds.py", "scoring.py", "student.py"} <= names
    assert Tracker().client.get_model_version("kd-student", "1").source.startswith("models:/")


def test_bulk_scoring_leaves_no_value_unchecked(student, held_out):
    """A hundred thousand rows score as their rows do, and one bad value among them is named."""
    many = held_out.sample(100_000, replace=True, random_state=0)
    answer = probabilities(student.predict(many))
    expected = pd.DataFrame(probabilities(student.predict(held_out)), index=held_out.index)
    np.testing.assert_allclose(answer, expected.loc[many.index].to_numpy(), atol=1e-6)
    many = many.reset_index(drop=True)
    many.loc[77_777, "feature_03"] = np.inf
    with pytest.raises(MlflowException, match=r"'feature_03' takes finite numbers.* row 77777"):
        student.predict(many)


def test_loading_replaces_nothing_of_mlflow(folder, held_out):
    """Whoever loads and asks a student has the MLflow that they had."""
    modules = (mlflow.pyfunc, mlflow.models.utils, mlflow.pyfunc.scoring_server)
    before = [dict(vars(module)) for module in modules]
    mlflow.pyfunc.load_model(str(folder)).predict(held_out.head(2))
    assert [dict(vars(module)) for module in modules] == before


def test_where_mlflow_visits_each_value_the_answers_are_the_same(folder, held_out, monkeypatch):
    """An MLflow that loads models in a way that the model does not know: one warning."""
    expected = mlflow.pyfunc.load_model(str(folder)).predict(held_out)
    source = inspect.getsource(mlflow.pyfunc.load_model)
    monkeypatch.setattr(mlflow.pyfunc, "load_model", None)
    exec(re.sub(r"\bmodel_meta\b(?!=)", "described", source), vars(mlflow.pyfunc))
    with pytest.warns(UserWarning, match="does not know how MLflow .* loads it") as caught:
        plain = mlflow.pyfunc.load_model(str(folder))
    assert len(caught) == 1
    assert not plain.metadata.signature._is_signature_from_type_hint
    pd.testing.assert_frame_equal(plain.predict(held_out), expected)


@pytest.mark.parametrize(
    "given",
    [
        lambda table: table.to_dict("records"),
        lambda table: table.to_dict("list"),
        lambda table: {name: table[name].to_numpy() for name in table},
    ],
    ids=["records", "columns", "arrays"],
)
def test_rows_come_as_python_has_them(student, held_out, given):
    """Lists, dictionaries and arrays score as the DataFrame of their rows."""
    rows = held_out.head(5).reset_index(drop=True)
    pd.testing.assert_frame_equal(student.predict(given(rows)), student.predict(rows))


def test_mlflow_predicts_from_json_and_from_csv(folder, student, held_out, tmp_path):
    """``mlflow.models.predict`` gives the model's answers from both of its formats."""
    rows = held_out.head(3).reset_index(drop=True)
    for kind in ("json", "csv"):
        answers = tmp_path / kind
        mlflow.models.predict(
            str(folder), rows, content_type=kind, output_path=str(answers), env_manager="local"
        )
        found = pd.DataFrame(json.loads(answers.read_text())["predictions"])
        np.testing.assert_allclose(
            probabilities(found), probabilities(student.predict(rows)), atol=1e-6
        )
