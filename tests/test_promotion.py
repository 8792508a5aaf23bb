"""The gate against what is in production: equal, worse, of another task, of another origin."""

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import part_of
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression

from kd_mlflow import pipeline
from kd_mlflow.config import DistillConfig, GateOptions, PromoteConfig, TeachersConfig
from kd_mlflow.errors import RegistryError

pytestmark = pytest.mark.slow

NAME = "kd-student"
GATE = part_of(GateOptions)


def points(rows=1500, *, seed=0, target="label"):
    """Two clouds of points that are easy to tell apart."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, rows)
    features = {name: random.normal(1.6 * labels) for name in ("a", "b", "c")}
    return pd.DataFrame({**features, target: np.where(labels, "yes", "no")})


TABLE = points()


def distilled(table=TABLE, *, target="label", epochs=30, **options):
    """Teachers and one student of a table; returns the version."""
    data = {"data": table, "target": target}
    given = part_of(TeachersConfig) | {"teacher_epochs": 12, "teacher_hidden": (16,)}
    pipeline.run_teachers(TeachersConfig(**data, **given))
    student = part_of(DistillConfig) | {"student_epochs": epochs, "student_hidden": (8,)} | options
    return pipeline.run_distill(DistillConfig(**data, **student)).version


def promoted(table=TABLE, **options):
    """The gate's decision on the candidate, whose table is a DataFrame."""
    return pipeline.run_promote(PromoteConfig(**GATE | {"data": table} | options))


def check_of(decision, name):
    """One check of a decision."""
    return next(check for check in decision.checks if check.name == name)


def in_production(client):
    """The version under the alias production."""
    return str(client.get_model_version_by_alias(NAME, "production").version)


def test_equal_one_epoch_and_other_target(store):
    """An equal student is not inferior, but not better; one of one epoch is; another target is."""
    distilled()
    assert promoted().promoted
    distilled()
    decision = promoted(policy="better")
    assert not decision.promoted
    assert check_of(decision, "production").metrics["gain_over_production"] == 0
    equal = promoted(version="2")
    assert equal.promoted
    assert check_of(equal, "production").passed

    distilled(epochs=1, augment="none", student_weight_decay=10.0)
    worse = promoted()
    figures = check_of(worse, "production").metrics
    assert not worse.promoted
    assert figures["gain_over_production_low"] < -0.005
    assert figures["candidate_test_accuracy"] < figures["production_test_accuracy"]
    print(worse.reason)

    renamed = TABLE.rename(columns={"label": "bought"})
    distilled(renamed, target="bought")
    other = promoted(renamed, policy="any", allow_schema_change=True)
    assert not other.promoted
    assert "it predicts 'bought', production 'label'" in other.reason
    assert in_production(store) == "2"


def test_rows_that_production_was_trained_on_are_left_out(store, tmp_path):
    """Known training rows of production are no test; where its table is gone, that is said."""
    first, both = tmp_path / "first.csv", tmp_path / "both.csv"
    TABLE.to_csv(first, index=False)
    distilled(str(first))
    promoted("")
    # other columns move rows to other sides: what was trained on may be tested on
    wider = pd.concat([TABLE, points(seed=1)]).assign(d=lambda t: t["a"].round(1))
    wider.to_csv(both, index=False)
    distilled(str(both))
    decision = promoted("", allow_schema_change=True, max_ece=1e-9)  # so that it stays out
    assert not decision.promoted
    figures = check_of(decision, "production").metrics
    assert 100 < figures["production_rows_left_out"] < 400
    assert figures["production_rows_compared"] > 200

    first.unlink()
    blind = promoted("", policy="better", version="2", allow_schema_change=True)
    assert "production may have been trained on some" in check_of(blind, "production").reason


def sklearn_version(store, tmp_path, table=TABLE):
    """Register a logistic regression of the same columns and put it into production."""
    features, labels = table.drop(columns="label"), table["label"]
    model = LogisticRegression(C=1e-6).fit(features.head(200), labels.head(200))
    path = tmp_path / "model"
    mlflow.sklearn.save_model(
        model, path, signature=infer_signature(features, labels), serialization_format="pickle"
    )
    store.create_registered_model(NAME)
    version = store.create_model_version(NAME, source=path.as_uri()).version
    store.set_registered_model_alias(NAME, "production", version)
    return str(version)


def test_an_sklearn_model_is_challenged_and_replaced(store, tmp_path, caplog):
    """A student takes the place of a model of another origin, whose pickle is named."""
    sklearn_version(store, tmp_path)
    distilled()
    decision = promoted()
    assert decision.promoted, decision.reason
    assert decision.replaced == "1"
    check = check_of(decision, "production")
    assert "does not say its training rows" in check.reason
    assert check.metrics["production_rows_compared"] > 200
    assert "loading its pickle model.pkl to score it" in caplog.text
    assert in_production(store) == "2"


def test_a_production_model_that_does_not_load_moves_nothing(store, tmp_path):
    """One line with the way out; policy any is that way."""
    sklearn_version(store, tmp_path)
    (tmp_path / "model" / "model.pkl").write_bytes(b"no model")
    distilled()
    with pytest.raises(RegistryError, match=r"cannot be compared with: .*promote with policy=any"):
        promoted()
    assert in_production(store) == "1"
    assert promoted(policy="any").promoted
