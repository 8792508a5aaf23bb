"""Training without a store: the figures and answers of the entry points, and nothing written."""

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import TINY, part_of
from scipy.sparse import csr_matrix

import kd_mlflow as kd
from kd_mlflow.config.entry_points import DistillConfig, TeachersConfig
from kd_mlflow.config.groups import StudentFit
from kd_mlflow.errors import ConfigError, DataError

TEACHERS, STUDENTS = part_of(TeachersConfig), part_of(StudentFit)
FEW, FEW_STUDENTS = (
    {name: value for name, value in TINY.items() if hasattr(options, name)}
    for options in (TeachersConfig, StudentFit)
)
RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "x": RNG.normal(size=300),
        "city": RNG.choice(list("abc"), 300),
        "gaps": np.where(RNG.random(300) < 0.2, np.nan, RNG.exponential(size=300)),
    }
)
FRAME["kind"] = np.where(FRAME["x"] + (FRAME["city"] == "a") > RNG.normal(size=300), "yes", "no")
NEW = FRAME.drop(columns="kind").head(20).assign(x=lambda rows: rows["x"] + 0.1)

EXTENDED = np.longdouble if np.finfo(np.longdouble).bits > 64 else np.complex128
"""More digits than float64 has; not on every machine."""


@pytest.fixture(scope="module")
def ensemble():
    """An ensemble of networks and trees on a table of numbers, gaps and texts."""
    return kd.fit_ensemble(FRAME, target="kind", **TEACHERS)


@pytest.mark.slow
def test_figures_and_answers_are_those_of_the_entry_points(store, ensemble):
    """Ensemble and student of one table and configuration are equal to the last digit."""
    data = {"data": FRAME, "target": "kind"}
    taught = kd.train_teachers(**data, **TEACHERS)
    assert dict(ensemble.metrics) == taught.metrics
    rows = taught.ensemble.score(NEW, ensemble.averaging).double().softmax(dim=1).numpy()
    np.testing.assert_array_equal(ensemble.predict_proba(NEW), rows)
    result = kd.distill(**data, **part_of(DistillConfig), registered_seed="first")
    student = kd.fit_student(ensemble, **STUDENTS)
    assert student.metrics == result.comparison.students["distilled"][0]
    pulled = mlflow.pyfunc.load_model(f"models:/{result.model_name}/{result.version}")
    np.testing.assert_array_equal(student.predict_proba(NEW), shares(pulled.predict(NEW)))
    np.testing.assert_array_equal(student.predict(NEW), pulled.predict(NEW)["prediction"])


def shares(answer):
    """An answer's probabilities.  Shape: (n, classes)."""
    return answer.filter(like="probability_").to_numpy()


def test_nothing_is_written_and_no_store_is_asked(tmp_path, monkeypatch):
    """With a store that is not there, from an empty folder: it stays empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KD_MLFLOW_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    kd.fit_student(kd.fit_ensemble(FRAME, target="kind", **FEW), **FEW_STUDENTS)
    assert list(tmp_path.iterdir()) == []


def test_arrays_are_the_table_of_their_columns():
    """Rows and labels as arrays give the models that their DataFrame gives."""
    x, y = FRAME[["x", "gaps"]].to_numpy(), FRAME["kind"].to_numpy()
    named = FRAME[["x", "gaps", "kind"]].set_axis(["0", "1", "label"], axis=1)
    of_arrays = kd.fit_ensemble((x, y), **FEW)
    of_table = kd.fit_ensemble(named, target="label", **FEW)
    assert of_arrays.metrics == of_table.metrics
    assert of_arrays.classes == ("no", "yes")
    np.testing.assert_array_equal(of_arrays.predict_proba(x), of_table.predict_proba(named))
    assert set(of_arrays.predict(x)) <= {"no", "yes"}
    for fitted in (of_arrays, kd.fit_student(of_arrays, **FEW_STUDENTS)):
        with pytest.raises(DataError, match="no rows to score"):
            fitted.predict_proba(x[:0])
    with pytest.raises(DataError, match=r"y has the shape \(10, 2\): give one label a row"):
        kd.fit_ensemble((np.zeros((10, 3)), np.eye(2)[[0, 1] * 5]))
    with pytest.raises(DataError, match=r"x has \d+ rows and y 10 labels"):
        kd.fit_ensemble((x, y[:10]), **FEW)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (None, "data takes a DataFrame of pandas or polars"),
        ((1, 2, 3), r"arrays are given as \(x, y\); received 3"),
        ((np.zeros((1, 2, 3)), [0]), r"x has the shape \(1, 2, 3\): give rows and columns"),
        ((csr_matrix(np.eye(3)), [0, 1, 0]), r"of a sparse matrix x.toarray\(\)"),
        ((np.zeros((9, 2), dtype=EXTENDED), [0, 1, 0] * 3), "convert it to plain numbers"),
    ],
)
def test_what_is_no_table_is_said(table, said):
    """What no table can be made of is an error of this package."""
    with pytest.raises(DataError, match=said):
        kd.fit_ensemble(table, **FEW)


def test_classes_of_two_types_are_answered():
    """A number and a text are two classes, too."""
    mixed = FRAME[["x", "kind"]].assign(kind=[1 if k == "no" else "a" for k in FRAME["kind"]])
    fitted = kd.fit_ensemble(mixed, target="kind", **FEW)
    assert set(fitted.predict(mixed)) <= set(fitted.classes)


def test_another_table_beside_the_first_is_refused():
    """``data`` is the first argument; a second one would be passed over in silence."""
    with pytest.raises(ConfigError, match="data is the first argument here"):
        kd.fit_ensemble(FRAME, target="kind", data="wine")
