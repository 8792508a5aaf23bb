"""What can fail after training fails before it, and what has no memory is refused."""

import uuid

import numpy as np
import pandas as pd
import pytest
from conftest import TINY

from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import MainConfig, TeachersConfig
from kd_mlflow.config.groups import DataOptions
from kd_mlflow.distillation.inputs import teachers_encoding
from kd_mlflow.errors import DataError
from kd_mlflow.steps import rehearsal
from kd_mlflow.table.dataset import read_dataset

N = 300


def frame(**columns):
    """A column of numbers, a label, and others."""
    rng = np.random.default_rng(0)
    plain = pd.DataFrame({"a": rng.normal(size=N), "y": rng.integers(0, 2, N)})
    return plain.assign(**columns)


ODD = {
    "d": ["unknown", *pd.date_range("2020-01-01", periods=N - 1).strftime("%Y-%m-%d")],
    "far": ["9999-12-31", "0001-01-01", "2024-01-01"] * (N // 3),  # beyond nanoseconds
    "m": [3, "x", 2.5] * (N // 3),
    "u": [uuid.UUID(int=i % 7) for i in range(N)],
    7: np.arange(N) % 5,
    "a|b\n# c": np.arange(N) % 3,  # names that structure texts
    "<b>`x`": ["u", "v"] * (N // 2),
}


@pytest.mark.slow
def test_odd_columns_end_in_a_student_that_scores_the_frame(store):
    """From the frame as its user has it to production, and back: the student scores it."""
    table = frame(**{str(name): cells for name, cells in ODD.items()})
    table.columns = [*table.columns[:2], *ODD]
    result = pipeline.run_main(MainConfig(data=table, target="y", **TINY))
    assert result.decision.promoted, result.decision.reason
    student = pipeline.load_production("kd-student")
    assert len(student.predict(table.drop(columns="y"))) == N


def test_what_packaging_cannot_take_is_refused_before_training(store, monkeypatch):
    """An error of the packaging is a refusal before the first epoch, and leaves no ensemble."""

    def fails(module, *, example, rows):
        raise ValueError("no such name")

    monkeypatch.setattr(rehearsal, "rehearse", fails)
    with pytest.raises(DataError, match="cannot be packaged and asked: no such name"):
        pipeline.run_teachers(TeachersConfig(data="wine", n_teachers=1, teacher_epochs=1))
    assert store.search_runs(["1"]) == []


def test_a_table_beyond_this_machines_memory_is_refused(store, monkeypatch):
    """The estimate, the machine's memory and the way out stand in one line."""
    monkeypatch.setattr(rehearsal, "MEMORY_SHARE", 1e-3)
    with pytest.raises(DataError, match=r"needs about 1\.\d GiB, this machine has .* max_categor"):
        pipeline.run_teachers(TeachersConfig(data="wine", n_teachers=1, teacher_epochs=1))


def test_students_beyond_this_machines_memory_are_refused_before_the_teachers(store):
    """``main`` asks for both before it trains either."""
    wide = {**TINY, "student_hidden": (10**8,)}
    with pytest.raises(DataError, match=r"needs about .* narrower layers"):
        pipeline.run_main(MainConfig(data="wine", **wide))
    assert [run.data.tags["kd.kind"] for run in store.search_runs(["1"])] == ["pipeline"]


def test_the_estimate_grows_with_rows_inputs_and_classes():
    """More of anything that takes memory is a larger estimate."""

    def estimate(n, columns, classes):
        rng = np.random.default_rng(0)
        table = pd.DataFrame(rng.normal(size=(n, columns))).assign(y=np.arange(n) % classes)
        config = TeachersConfig(data=table, target="y")
        dataset = read_dataset(DataOptions(data=table, target="y"))
        encoding = teachers_encoding(config, dataset)
        return rehearsal.memory_estimate(dataset, encoding, 3 * [(8,)])

    base = estimate(600, 5, 2)
    assert all(more > base for more in (estimate(900, 5, 2), estimate(600, 9, 2)))
    assert estimate(600, 5, 9) > base


def test_the_target_of_a_built_in_table_is_no_other():
    """A target that a built-in table does not have is refused, not ignored."""
    with pytest.raises(DataError, match="has the target 'target'; received target 'colour'"):
        read_dataset(DataOptions(data="wine", target="colour"))
    assert read_dataset(DataOptions(data="wine", target="target")).table.target == "target"
