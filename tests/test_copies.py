"""Promotion from one registered model to another: copied, gated there, moved there."""

import os
import shutil
from contextlib import contextmanager

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from served import free_port, mlflow_server
from shorter import put_back
from test_promotion import FREE, NAME, aliases, registered_again

import kd_mlflow as kd
from kd_mlflow.errors import ConfigError, RegistryError, StoreError

TO = "prod.churn"

pytestmark = pytest.mark.slow


def test_what_is_in_production_is_promoted_in_another_model(own_main):
    """The copy's alias moves there with its own history; where it came from nothing changes."""
    before = aliases(own_main.client), kd.history().periods
    decision = kd.promote(to=TO, **FREE)
    assert (decision.model_name, decision.promoted, decision.replaced) == (TO, True, None)
    copy = own_main.client.get_model_version(TO, decision.version)
    assert copy.source == f"models:/{NAME}/{before[0]['production']}"
    assert aliases(own_main.client, TO) == {"production": decision.version}
    (period,) = kd.history(model_name=TO).periods
    assert (period.version, period.kind) == (decision.version, "promote")
    assert (aliases(own_main.client), kd.history().periods) == before
    rows = kd.split(data=own_main.config.data).test.head(3)
    ours, theirs = kd.load_production(NAME), kd.load_production(TO)
    assert ours.predict(rows).equals(theirs.predict(rows))
    with pytest.raises(RegistryError, match=r"a copy of version 1 of 'kd-student', is in product"):
        kd.promote(to=TO, **FREE)


def test_a_copy_that_is_refused_is_asked_again_and_not_made_again(own_main):
    """A rejected copy says so on itself; the next command asks the gate about the same one."""
    refused = kd.promote(to=TO, **FREE | {"min_compression": 1e6})
    assert not refused.promoted
    assert aliases(own_main.client, TO) == {}
    tags = own_main.client.get_model_version(TO, refused.version).tags
    assert tags["kd.promotion"] == "rejected"
    assert kd.promote(to=TO, version="1", **FREE).version == refused.version
    assert len(own_main.client.search_model_versions(f"name='{TO}'")) == 1


def test_a_dry_run_copies_nothing(own_main):
    """The gate answers as it would, and the other model is not made."""
    assert kd.promote(to=TO, dry_run=True, **FREE).passed
    with pytest.raises(MlflowException, match="not found"):
        own_main.client.get_registered_model(TO)


def test_a_copy_that_was_rolled_back_waits_to_be_named(own_main):
    """What was taken out of production there does not come back with the next promotion."""
    first = kd.promote(to=TO, **FREE).version
    second = registered_again(own_main.client)
    assert kd.promote(version=second, **FREE, policy="any").promoted
    assert kd.promote(to=TO, **FREE, policy="any").promoted
    kd.rollback(model_name=TO)
    assert aliases(own_main.client, TO)["production"] == first
    with pytest.raises(RegistryError, match=f"rolled back; .*: there with model_name={TO} version"):
        kd.promote(to=TO, **FREE, policy="any")


@pytest.fixture
def other(empty_database, tmp_path):
    """The address of an empty store beside the test's own; artifacts of both in one folder."""
    folder = tmp_path / "other"
    folder.mkdir()
    return f"sqlite:///{shutil.copy(empty_database, folder / 'mlflow.db')}"


@contextmanager
def in_use(uri):
    """Work with another store in the block."""
    own = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield MlflowClient()
    finally:
        mlflow.set_tracking_uri(own)


def everything(database):
    """What a store's file holds."""
    return database.read_bytes()


def arrived(uri, origin, rows):
    """Hold what ``promote`` has made of the store of an address to what is promised."""
    with in_use(uri) as client:
        version = client.get_model_version(TO, "1")
        assert aliases(client, TO) == {"production": "1"}
        assert version.source.startswith("models:/m-")
        content, copied_from = (version.tags[f"kd.{n}"] for n in ("content_digest", "copied_from"))
        assert content == origin.tags["kd.content_digest"]
        assert copied_from.startswith(f"version 1 of {NAME}, files ")
        runs = client.search_runs([client.get_experiment_by_name("kd-mlflow").experiment_id])
        assert {run.info.status for run in runs} == {"FINISHED"}
        kinds = {run.data.tags["kd.kind"]: run for run in runs}
        assert kinds.keys() == {"distill", "promotion"}
        assert version.run_id == kinds["distill"].info.run_id
        (period,) = kd.history(model_name=TO).periods
        assert period.run_id == kinds["promotion"].info.run_id
        return kd.load_production(TO).predict(rows)


def test_another_server_gets_the_version_its_run_and_its_history(own_main, other, monkeypatch):
    """Where it came from nothing changes; there it is judged again and rolled back as any other."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "1")  # of the first server
    rows = kd.split(data=own_main.config.data).test.head(3)
    ours, before = kd.load_production(NAME).predict(rows), everything(own_main.folder / "mlflow.db")
    assert kd.promote(to=TO, to_uri=other, dry_run=True, **FREE).passed
    assert kd.promote(to=TO, to_uri=other, **FREE).promoted
    with pytest.raises(RegistryError, match=r"a copy of version 1 of 'kd-student', is in product"):
        kd.promote(to=TO, to_uri=other, **FREE)
    assert everything(own_main.folder / "mlflow.db") == before
    assert mlflow.get_tracking_uri() == os.environ["MLFLOW_TRACKING_URI"] == own_main.uri
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")
    origin = own_main.client.get_model_version(NAME, "1")
    assert arrived(other, origin, rows).equals(ours)
    second = registered_again(own_main.client)
    decision = kd.promote(to=TO, to_uri=other, version=second, **FREE)
    (check,) = [check for check in decision.checks if check.name == "production"]
    assert check.metrics["compared_rows"] == 1000
    with in_use(other):
        assert kd.rollback(model_name=TO).restored == "1"
        assert kd.promote(model_name=TO, version="2", **FREE).promoted
        kinds = [each.kind for each in kd.history(model_name=TO).periods]
        assert kinds == ["promote", "promote", "rollback", "promote"]


def test_another_server_over_http(own_main, other, tmp_path, monkeypatch):
    """The model and the run's files go through the server, under the same name where none is."""
    put_back(monkeypatch, "clean process")
    rows = kd.split(data=own_main.config.data).test.head(3)
    ours = kd.load_production(NAME).predict(rows)
    origin = own_main.client.get_model_version(NAME, "1")
    folder = tmp_path / "other"
    with mlflow_server(other, folder, "--artifacts-destination", str(folder / "files")) as address:
        assert kd.promote(to=TO, to_uri=address, **FREE).promoted
        assert arrived(address, origin, rows).equals(ours)
        with in_use(address), pytest.raises(RegistryError, match="it is the server in use"):
            kd.promote(model_name=TO, to_uri=other, **FREE)


def test_what_cannot_be_a_promotion_to_another_server(own_main):
    """One line each: no address, nobody there, the server in use; nothing was written."""
    before = everything(own_main.folder / "mlflow.db")
    with pytest.raises(ConfigError, match="to_uri must be none, or an address such as"):
        kd.promote(to_uri="prod.example.org")
    with pytest.raises(StoreError, match=r"cannot be reached: .*; check to_uri") as caught:
        kd.promote(to_uri=f"http://me:hush@127.0.0.1:{free_port()}", **FREE)
    assert "hush" not in str(caught.value)
    with pytest.raises(RegistryError, match=r"it is the server in use, .* leave to_uri out"):
        kd.promote(to_uri=own_main.uri, **FREE)
    assert everything(own_main.folder / "mlflow.db") == before
