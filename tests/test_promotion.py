"""What production is challenged by, what it is replaced by, and what bad states do to it."""

import logging
import sqlite3
from contextlib import closing

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import TINY, part_of
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, PERMISSION_DENIED
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier

import kd_mlflow as kd
from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import MainConfig
from kd_mlflow.config.groups import StudentRecipe
from kd_mlflow.errors import KDError, RegistryError, StoreError
from kd_mlflow.registry import moves

NAME = "kd-student"
FREE = {
    "allow_worse_than_baseline": True,
    "min_compression": 1.0,
    "max_accuracy_gap": 1.0,
    "max_log_loss_gap": 0.0,
}
"""A gate that asks of the task and of production alone."""

ONE = part_of(StudentRecipe) | {"n_students": 1, "student_epochs": 1}


def aliases(client, name=NAME):
    """Aliases of the registered model; versions as text."""
    found = client.get_registered_model(name).aliases
    return {alias: str(version) for alias, version in found.items()}


def registered_again(client, version="1"):
    """Register a student's model once more: the same artifact and run, a new candidate."""
    first = client.get_model_version(NAME, version)
    tags = {k: v for k, v in first.tags.items() if not k.startswith("kd.pro")}
    made = client.create_model_version(
        NAME,
        source=first.source,
        run_id=first.run_id,
        tags=tags | {"kd.promotion": "pending"},
        model_id=first.source.removeprefix("models:/"),
    )
    client.set_registered_model_alias(NAME, "candidate", made.version)
    return str(made.version)


@pytest.mark.slow
def test_a_student_of_one_epoch_does_not_replace_a_trained_one(own_main):
    """It is rejected, with the figures of both on the same rows, and production stays."""
    kd.distill(**ONE, data=own_main.config.data)
    decision = kd.promote(**FREE)
    (check,) = [check for check in decision.checks if check.name == "production"]
    assert not decision.promoted
    assert check.metrics["gain_over_production_high"] < 0
    assert check.metrics["compared_rows"] == 1000
    assert f"against {check.metrics['production_test_accuracy']:.4f} of version 1" in check.reason
    lost, kept = (check.metrics[f"{who}_test_log_loss"] for who in ("candidate", "production"))
    assert lost > kept > 0
    assert aliases(own_main.client) == {"production": "1"}


@pytest.mark.slow
def test_an_equal_student_is_no_better(own_main):
    """The same model again fails ``policy=better``: the interval is a point."""
    registered_again(own_main.client)
    assert not kd.promote(**FREE, policy="better").promoted
    assert aliases(own_main.client)["production"] == "1"


def customers(folder, target, random):
    """A table of the same columns a, b, c and classes for any target."""
    table = pd.DataFrame(random.normal(size=(600, 3)), columns=["a", "b", "c"])
    table[target] = np.where(table["a"] > 0, "yes", "no")
    path = folder / f"{target}.csv"
    table.to_csv(path, index=False)
    return {"data": str(path), "target": target}


@pytest.mark.slow
def test_a_student_of_another_target_is_refused(store, tmp_path):
    """Same columns, same class names, another label: whatever the options, it is another task."""
    random = np.random.default_rng(0)
    first, second = (customers(tmp_path, target, random) for target in ("churned", "bought"))
    assert pipeline.run_main(MainConfig(**TINY, **first)).decision.promoted
    decision = pipeline.run_main(MainConfig(**TINY, **second, allow_schema_change=True)).decision
    assert not decision.promoted
    assert "it predicts 'bought', production 'churned'" in decision.reason
    assert "model_name of its own" in decision.reason


@pytest.mark.slow
def test_a_student_that_the_plain_baseline_beats(own_main):
    """Its run's interval lies below 0: it is refused."""
    client, number = own_main.client, registered_again(own_main.client)
    run_id = client.get_model_version(NAME, number).run_id
    client.log_metric(run_id, "log_loss_gain_over_baseline_high", -0.01)
    decision = kd.promote(**FREE | {"allow_worse_than_baseline": False}, policy="any")
    assert not decision.promoted
    (check,) = [check for check in decision.checks if check.name == "baseline"]
    assert "measurably worse" in check.reason
    assert "log loss against the baseline" in check.reason


class Broken(ClassifierMixin, BaseEstimator):
    """A model that loads, and raises when it is asked."""

    def fit(self, features, labels):
        """Learn the classes."""
        self.classes_ = np.unique(labels)
        return self

    def predict_proba(self, features):
        """Raise."""
        raise ValueError("division by zero")

    predict = predict_proba


@pytest.fixture
def challenged(own_main):
    """Put an sklearn model of the same table under production; return its version."""

    def put(model):
        dataset = pipeline.read_dataset(own_main.config)
        features = dataset.features("train")
        model.fit(features, dataset.labels("train"))
        logged = mlflow.sklearn.log_model(
            model,
            name="model",
            serialization_format="cloudpickle",
            signature=infer_signature(features),
            pip_requirements=["scikit-learn"],
            registered_model_name=NAME,
        )
        number = str(logged.registered_model_version)
        own_main.client.set_registered_model_alias(NAME, "production", number)
        return registered_again(own_main.client), number

    mlflow.set_experiment("others")
    return put


@pytest.mark.slow
def test_an_sklearn_model_is_challenged_replaced_and_returned_to(own_main, challenged, caplog):
    """Its pickle is named, the comparison is in the record, and history has all three periods."""
    student, theirs = challenged(DummyClassifier())
    with caplog.at_level(logging.WARNING):
        decision = kd.promote(**FREE)
    assert "it is a pickle" in caplog.text
    assert (decision.promoted, decision.replaced) == (True, theirs)
    (check,) = [check for check in decision.checks if check.name == "production"]
    assert check.metrics["gain_over_production_low"] > 0
    assert "which of these rows production was trained on is not known" in check.reason
    caplog.clear()
    assert kd.rollback(reason="alarms at night").restored == theirs
    assert "pickle" not in caplog.text  # it was not loaded
    found = [(period.version, period.kind) for period in kd.history().periods]
    assert found[-3:] == [(theirs, None), (student, "promote"), (theirs, "rollback")]
    assert kd.history().periods[-1].reason == "alarms at night"


@pytest.mark.slow
def test_production_that_raises_is_an_error_and_no_verdict(own_main, challenged):
    """One line says so and what to do; nothing is moved; policy=any asks it nothing."""
    student, theirs = challenged(Broken())
    before = aliases(own_main.client)
    with pytest.raises(RegistryError, match=r"division by zero.*nothing was moved.*policy=any"):
        kd.promote(**FREE)
    assert aliases(own_main.client) == before
    assert kd.promote(**FREE, policy="any").replaced == theirs
    assert aliases(own_main.client)["production"] == student


def promote():
    """Promote as it comes, with a gate that all pass."""
    return kd.promote(**FREE, policy="any")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("create_registered_model", PERMISSION_DENIED),
        ("set_registered_model_tag", PERMISSION_DENIED),
        ("set_registered_model_alias", PERMISSION_DENIED),
        ("set_registered_model_alias", INTERNAL_ERROR),
    ],
)
def test_a_registry_that_refuses_moves_nothing(own_main, monkeypatch, call, code):
    """A read-only user, or a server that fails, is one line; the next promotion finds all whole."""
    number = registered_again(own_main.client)

    def refuse(*given, **named):
        raise MlflowException("the registry said no", error_code=code)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, refuse)
        with pytest.raises(StoreError, match="the registry said no") as caught:
            promote()
    assert "\n" not in str(caught.value)
    assert aliases(own_main.client) == {"candidate": number, "production": "1"}
    assert promote().promoted
    assert [period.version for period in kd.history().periods] == ["1", number]
    assert [model.name for model in own_main.client.search_registered_models()] == [NAME]


@pytest.mark.slow
def test_an_alias_that_points_nowhere_is_one_line(own_main):
    """Production of a version that is not there stops promote, rollback and loading."""
    registered_again(own_main.client)
    with closing(sqlite3.connect(own_main.folder / "mlflow.db")) as database, database:
        database.execute(
            "UPDATE registered_model_aliases SET version = 77 WHERE alias = 'production'"
        )
    for use in (promote, kd.rollback, kd.load_production):
        with pytest.raises(KDError, match="points to version 77, which is not there"):
            use()


@pytest.mark.slow
def test_a_version_whose_run_was_deleted_is_one_line(own_main):
    """The run is named, and how to get it back."""
    number = registered_again(own_main.client)
    run_id = own_main.client.get_model_version(NAME, number).run_id
    own_main.client.delete_run(run_id)
    with pytest.raises(RegistryError, match=f"mlflow runs restore --run-id {run_id}"):
        promote()
    own_main.client.restore_run(run_id)
    assert promote().promoted


@pytest.mark.slow
def test_another_promotion_in_between_is_gated_again(own_main, monkeypatch):
    """Who finds production moved asks the gate about the new one, instead of failing."""
    client = own_main.client
    second, third = registered_again(client), registered_again(client)
    make, others = moves.make, []

    def late(client, name, move):
        if not others:
            others.append(second)
            kd.promote(**FREE, version=second)
        return make(client, name, move)

    monkeypatch.setattr(moves, "make", late)
    decision = kd.promote(**FREE, version=third)
    assert (decision.promoted, decision.replaced) == (True, second)
    assert aliases(client) == {"production": third, "previous": second}
    assert [period.version for period in kd.history().periods] == ["1", second, third]
    run = client.get_run(client.get_model_version(NAME, third).tags["kd.promotion_run_id"])
    document = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/promotion.json")
    assert document["in_production"] == second
