"""What an earlier version of this package left in a store is found, read and moved by this one."""

import shutil
import subprocess
import sys

import mlflow
import pandas as pd
import pytest
from conftest import SMALL, forget_store, use_store
from earlier import TABLE, TARGET, unpack
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import kd_mlflow as kd
from kd_mlflow.models.any_model import named_model
from kd_mlflow.tracking.lookup import load_ensemble
from kd_mlflow.tracking.runs import Tracker

STUDENTS = {"n_students": 2, "student_epochs": 4, "student_hidden": (4,), "student_bins": 0}
GATE = {
    name: SMALL[name]
    for name in ("max_accuracy_gap", "max_log_loss_gap", "allow_worse_than_baseline", "policy")
} | {"min_compression": 0.01}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The store as it was left, with the tables of this MLflow."""
    folder = tmp_path_factory.mktemp("earlier")
    uri = unpack(folder)
    try:
        MlflowClient(uri).search_experiments()
    except MlflowException:  # made by an older MLflow: what its users run too
        subprocess.run([sys.executable, "-m", "mlflow", "db", "upgrade", uri], check=True)
    return folder


@pytest.fixture
def earlier(unpacked, tmp_path, monkeypatch):
    """Work in the folder on the test's own copy of the database; its client."""
    uri = f"sqlite:///{shutil.copy(unpacked / 'mlflow.db', tmp_path / 'mlflow.db')}"
    use_store(monkeypatch, uri, unpacked)
    yield MlflowClient(uri)
    forget_store()


def the_run(client, kind):
    """The newest run of a kind."""
    runs = client.search_runs(["1"], f"tags.`kd.kind` = '{kind}'", order_by=["start_time DESC"])
    return runs[0]


def test_an_earlier_history_is_read(earlier):
    """Every time in production is told, with who, why and how."""
    found = kd.history()
    told = [(period.version, period.kind) for period in found.periods]
    assert told == [("1", "promote"), ("2", "promote"), ("1", "rollback"), ("2", "promote")]
    assert {period.by for period in found.periods} == {"somebody"}
    assert found.periods[2].reason == "slow"
    assert (found.production, found.settled) == ("2", None)


@pytest.mark.slow
def test_an_earlier_production_answers(earlier):
    """It loads, and answers its own example."""
    model = kd.load_production()
    rows = pd.read_csv(TABLE).drop(columns=TARGET)
    assert set(model.predict(rows)["prediction"]) <= {"yes", "no"}


@pytest.mark.slow
def test_an_earlier_student_is_evaluated_as_it_was_then(earlier):
    """The metrics are those that the earlier version logged of the same rows, and a newer one."""
    logged = the_run(earlier, "evaluation").data.metrics
    found = kd.evaluate(data=TABLE, target=TARGET)
    assert found.findings.against == "kd-student version 3 (candidate)"
    metrics = earlier.get_run(found.run_id).data.metrics
    assert 0 < metrics.pop("against_balanced_accuracy") < 1
    assert metrics == pytest.approx(logged, abs=1e-6)


@pytest.mark.slow
def test_an_earlier_candidate_is_promoted_and_rolled_back(earlier):
    """Its artifact scores as was logged then, against the production of then; and back again."""
    decision = kd.promote(version="candidate", **GATE)
    assert (decision.promoted, decision.replaced) == (True, "2")
    assert {check.name for check in decision.checks if check.passed} >= {"reproduction", "task"}
    back = kd.rollback()
    assert (back.restored, back.replaced) == ("2", "3")
    assert kd.rollback(version="1").restored == "1"


@pytest.mark.slow
def test_an_earlier_candidate_is_compared_with_an_earlier_production(earlier):
    """Production is loaded, asked about the candidate's rows, and known to have seen none."""
    decision = kd.promote(**GATE | {"policy": "better"}, dry_run=True)
    (check,) = (check for check in decision.checks if check.name == "production")
    assert check.metrics["compared_rows"] + check.metrics["left_out_rows"] == 26


def test_an_earlier_ensemble_is_found_and_asked(earlier):
    """Its files rebuild what teaches, whose answers are those of the model that was logged."""
    run = the_run(earlier, "teachers")
    rows = pd.read_csv(TABLE).drop(columns=TARGET)
    ensemble = load_ensemble(Tracker(), run.info.run_id)
    ours = ensemble.score(rows, "logits").softmax(1).numpy()
    (output,) = run.outputs.model_outputs
    logged = named_model(Tracker(), f"models:/{output.model_id}")
    shares = logged.respondent.shares(rows, ["no", "yes"])
    assert shares == pytest.approx(ours, abs=1e-6)
    assert mlflow.pyfunc.load_model(logged.resolved).predict(rows).shape == (160, 3)


@pytest.mark.slow
def test_an_earlier_ensemble_teaches_again(earlier):
    """The same table and split lead to the ensemble that was trained then; version 4 follows."""
    found = kd.distill(data=TABLE, target=TARGET, temperature=3.0, **STUDENTS)
    run = earlier.get_run(found.run_id)
    teachers = the_run(earlier, "teachers").info.run_id
    assert (run.data.tags["kd.teachers_run_id"], found.version) == (teachers, "4")
    digests = {earlier.get_model_version("kd-student", v).tags["kd.data_digest"] for v in "14"}
    assert digests == {run.data.tags["kd.data_digest"]}
