"""Groups and times in all that reads a table: main, the gate, evaluate, sweep and own teachers."""

import numpy as np
import pandas as pd
import pytest
from conftest import TINY, copied_store, copy_store, flat, forget_store, use_store
from test_groups import visits

import kd_mlflow as kd
from kd_mlflow.config.entry_points import EvaluateConfig, MainConfig
from kd_mlflow.errors import DataError
from kd_mlflow.pipeline import run_evaluate, run_main
from kd_mlflow.tracking.runs import Tracker


@pytest.fixture(scope="module")
def customers(empty_database, tmp_path_factory):
    """A main by customers, and the table that it read; tests copy its store."""
    folder = tmp_path_factory.mktemp("customers")
    path = folder / "visits.csv"
    visits(150, 6).to_csv(path, index=False)
    with copied_store(empty_database, folder):
        return run_main(MainConfig(data=str(path), target="y", group="who", **TINY)), path


@pytest.fixture
def by_customer(customers, tmp_path, monkeypatch):
    """That main and its table, in the test's own copy of the store."""
    _, path = customers
    use_store(monkeypatch, copy_store(path.with_name("mlflow.db"), tmp_path), tmp_path)
    yield customers
    forget_store()


@pytest.mark.slow
def test_groups_from_main_to_the_gate_and_evaluate(by_customer):
    """Whom production was trained on is known by who it is, whatever else of the rows changed.

    The report of a main by time has each column's index between the sides.
    """
    result, path = by_customer
    assert "150 groups by who: median 6 rows, largest 6" in flat(result.distill)
    tracker = Tracker()
    report = tracker.download(result.distill.run_id, "report.html").read_text()
    assert "150 groups by who: median 6 rows" in report
    (version,) = tracker.client.search_model_versions("name = 'kd-student'")
    assert "150 groups by who" in version.description
    run = tracker.client.get_run(result.distill.run_id)
    assert run.data.params["kd.group"] == "who"
    assert (
        run.data.tags["kd.split"]
        == tracker.client.get_run(result.taught.run_id).data.tags["kd.split"]
    )

    old = visits(150, 6).assign(b=lambda f: f["b"] + 0.5)  # no row is one of those of before
    new = visits(80, 6, seed=1).assign(who=lambda f: "new-" + f["who"])
    later = pd.concat([old, new], ignore_index=True)
    later["a"] += (later["day"] > "2024-03-10") * 3
    options = TINY | {"policy": "non_inferior", "margin": 1.0}
    decision = run_main(MainConfig(data=later, target="y", group="who", **options)).decision
    (check,) = [each for each in decision.checks if each.name == "production"]
    assert check.metrics["left_out_rows"] == 0  # whoever was trained on is nowhere tested on
    assert "groups" in check.reason
    result = run_main(MainConfig(data=later, target="y", time="day", **options))
    report = tracker.download(result.distill.run_id, "report.html").read_text()
    assert "How far the test rows have moved" in report
    assert "the latest by day to test on" in flat(result.distill)
    assert "the latest by day to test on" in report
    assert "The test rows are later than the training rows." in report
    (check,) = [each for each in result.decision.checks if each.name == "production"]
    first = kd.split(data=str(path), target="y", group="who")
    table = pd.read_csv(path)
    trained = set(table["who"].drop(first.test.index))
    tested = kd.split(data=later, target="y", time="day").test.index
    second = kd.split(data=later, target="y", group="who")  # of version 2, in production by now
    taught = set(later["who"].drop(second.test.index))
    assert check.metrics["left_out_rows"] == later["who"][tested].isin(taught).sum()

    own = EvaluateConfig(data=str(path), target="y", group="who", model="models:/kd-student/1")
    found = run_evaluate(own).findings
    assert found.rows == len(first.test)
    assert not any("flatter" in note for note in found.notes)  # none of them taught it

    known = later["who"].isin(trained)
    found = run_evaluate(
        EvaluateConfig(data=later, target="y", group="who", model="models:/kd-student/1")
    ).findings
    assert found.rows == (~known).sum()
    assert f"left out: {known.sum():,} rows of {len(trained)} groups" in found.notes[0]
    found = run_evaluate(
        EvaluateConfig(data=later[known], target="y", group="who", model="models:/kd-student/1")
    ).findings
    assert found.rows == known.sum()
    assert "all of them, so the numbers flatter it" in found.notes[0]
    with pytest.raises(DataError, match="group 'nobody' is not a column"):
        run_evaluate(EvaluateConfig(data=later, target="y", group="nobody"))


@pytest.mark.slow
def test_another_group_is_another_ensemble(by_customer):
    """What was trained by customers is reused for customers, and for nothing else."""
    _, path = by_customer
    config = {"data": str(path), "target": "y", **{k: v for k, v in TINY.items() if k in TEACHERS}}
    assert kd.train_teachers(group="who", **config).reused
    assert not kd.train_teachers(time="day", group="who", **config).reused


TEACHERS = ("n_teachers", "teacher_epochs", "teacher_hidden", "n_boosted", "boosting_rounds")


@pytest.mark.slow
def test_a_sweep_is_by_groups(by_customer):
    """A sweep finds the ensemble of its groups and says how many there are."""
    _, path = by_customer
    small = {"n_students": 1, "student_epochs": 1, "student_hidden": (4,), "augment": "none"}
    result = kd.sweep(
        data=str(path), target="y", group="who", temperatures=(1,), alphas=(0.5,), sizes="", **small
    )
    assert "150 groups by who" in flat(result)


def test_kd_split_honours_both():
    """Users train models of their own on whole groups of the past."""
    frame = visits(200)
    train, val, test = kd.split(data=frame, target="y", group="who", time="day")
    latest = frame.groupby("who")["day"].transform("max")
    assert latest[train.index].max() < latest[val.index].min()
    assert latest[val.index].max() < latest[test.index].min()
    assert list(train) == ["a", "b", "y"]
    who = frame["who"]
    assert not set(who[train.index]) & set(who[test.index])
    assert np.isclose(len(test) / len(frame), 0.2, atol=0.03)
