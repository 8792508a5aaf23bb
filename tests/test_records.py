"""Tags that say how production moved are believed where a run confirms it, and named where not."""

import json
import logging
from dataclasses import replace

import pytest
from mlflow import MlflowClient
from mlflow.models import Model

import kd_mlflow as kd
from kd_mlflow.errors import RegistryError
from kd_mlflow.registry import moves
from kd_mlflow.registry.records import INTENTION, Move

NAME = "m"


@pytest.fixture
def client(store, tmp_path):
    """Versions 1, 2 and 3 of a model: 2 is in production, 1 was before, 3 never was."""
    found = MlflowClient()
    found.create_registered_model(NAME)
    folder = tmp_path / "model"
    folder.mkdir()
    Model().save(folder / "MLmodel")
    for _ in range(3):
        found.create_model_version(NAME, str(folder))
    promoted(found, "1", None)
    promoted(found, "2", "1")
    return found


def decision_run(client, version, origin, **other):
    """A run as a promotion leaves it."""
    about = moves.about(client.get_registered_model(NAME), origin, "")
    tags = {"kind": "promotion", "model_version": version, "gate": "passed", **about, **other}
    experiment = client.get_experiment_by_name("runs")
    made = experiment.experiment_id if experiment else client.create_experiment("runs")
    return client.create_run(made, tags={f"kd.{k}": v for k, v in tags.items()}).info.run_id


def promoted(client, version, origin):
    """Move production as a promotion does."""
    run_id = decision_run(client, version, origin)
    move = moves.new_move("promote", origin=origin, version=version, reason="ok", run_id=run_id)
    assert moves.make(client, NAME, move) is None
    client.set_terminated(run_id)


def standing(client):
    """Where production and previous point to."""
    found = client.get_registered_model(NAME).aliases
    return str(found["production"]), str(found["previous"])


def forged(client, **other):
    """An intention that never was: version 2 is in production, and 3 would become previous."""
    move = moves.new_move("promote", origin="3", version="2", reason="", run_id="0" * 32)
    return replace(move, **other).written()


BAD = {
    "an intention of words": (INTENTION, "garbage"),
    "an intention without an end": (INTENTION, "[" * 4000),
    "a lock of words": ("kd.lock", "abc"),
    "a lock of many digits": ("kd.lock", "9" * 40),
    "a record without a number": ("kd.production.junk", "{}"),
    "a record of words": ("kd.production.000007", "garbage"),
}


@pytest.mark.slow_cases
@pytest.mark.parametrize("what", BAD)
def test_bad_tags_are_named_in_a_line_and_passed_over(client, caplog, what):
    """History tells what it can, rollback works, and the next promotion too."""
    key, value = BAD[what]
    if key.startswith("kd.production"):
        client.set_model_version_tag(NAME, "3", key, value)
    else:
        client.set_registered_model_tag(NAME, key, value)
    with caplog.at_level(logging.WARNING):
        found = kd.history(model_name=NAME)
        assert kd.rollback(model_name=NAME).restored == "1"
    assert [period.version for period in found.periods] == ["1", "2"]
    said = [record.getMessage() for record in caplog.records if key in record.getMessage()]
    assert said
    assert not any("\n" in line for line in said)
    promoted(client, "3", "1")
    assert standing(client) == ("3", "1")


@pytest.mark.slow_cases
@pytest.mark.parametrize(
    "run",
    [
        lambda client: "0" * 32,
        lambda client: decision_run(client, "2", "3", kind="distill"),
        lambda client: decision_run(client, "2", "3", gate="rejected"),
        lambda client: decision_run(client, "3", "3"),
        lambda client: decision_run(client, "2", "1"),
        lambda client: decision_run(client, "2", "3", model_made="1"),
    ],
    ids=["no run", "another kind", "rejected", "another version", "another origin", "other model"],
)
def test_an_intention_that_no_run_confirms_is_dropped(client, run):
    """The forged ``previous`` does not come, nor its record; one line says why."""
    client.set_registered_model_tag(NAME, INTENTION, forged(client, run_id=run(client)))
    found = kd.history(model_name=NAME)
    assert "told of no move" in found.settled
    assert standing(client) == ("2", "1")
    assert INTENTION not in client.get_registered_model(NAME).tags
    assert [period.version for period in found.periods] == ["1", "2"]
    assert kd.rollback(model_name=NAME).restored == "1"


@pytest.mark.slow
def test_an_old_intention_is_no_new_one(client):
    """The run of a move that was made has ended: what it once meant to do is done."""
    run_id = client.get_model_version(NAME, "2").tags["kd.promotion_run_id"]
    move = moves.new_move("promote", origin="1", version="2", reason="", run_id=run_id)
    client.set_registered_model_tag(NAME, INTENTION, move.written())
    assert "has ended" in kd.history(model_name=NAME).settled


@pytest.mark.slow
def test_a_forged_record_makes_no_past(client, caplog):
    """A version that was never in production is none to roll back to, whatever a tag says."""
    run_id = client.get_model_version(NAME, "2").tags["kd.promotion_run_id"]
    move = moves.new_move("promote", origin="2", version="3", reason="", run_id=run_id)
    record = replace(move, number=9).written()
    client.set_model_version_tag(NAME, "3", "kd.production.000009", record)
    with pytest.raises(RegistryError, match="never was in production"):
        kd.rollback(model_name=NAME, version="3")
    assert "is of another version" in caplog.text


@pytest.mark.slow
def test_a_copy_has_no_past(client, caplog):
    """MLflow copies tags: neither another model nor a later version was promoted by them."""
    client.copy_model_version(f"models:/{NAME}/2", "copy")
    client.copy_model_version(f"models:/{NAME}/2", NAME)
    assert kd.history(model_name="copy").periods == ()
    assert "passed over kd.production.000002 of version 1" in caplog.text
    assert [period.version for period in kd.history(model_name=NAME).periods] == ["1", "2"]
    with pytest.raises(RegistryError, match="never was in production"):
        kd.rollback(model_name=NAME, version="4")


@pytest.mark.slow
def test_a_model_of_the_same_name_has_no_past(client):
    """A registered model that was deleted and made again is another one."""
    version = client.get_model_version(NAME, "2")
    (record,) = [key for key in version.tags if key.startswith("kd.production.")]
    client.delete_registered_model(NAME)
    client.create_registered_model(NAME)
    for _ in range(2):
        client.create_model_version(NAME, version.source, tags={record: version.tags[record]})
    assert kd.history(model_name=NAME).periods == ()


@pytest.mark.slow
def test_a_renamed_model_keeps_its_past(client):
    """Records belong to the model, whatever it is called."""
    client.rename_registered_model(NAME, "n")
    assert [period.version for period in kd.history(model_name="n").periods] == ["1", "2"]


@pytest.mark.parametrize("field", ["kind", "version", "origin", "run_id", "time", "number"])
def test_a_move_is_read_strictly(field):
    """Each field of another form is no move, and nothing is none."""
    move = moves.new_move("rollback", origin="1", version="2", reason="", run_id="0" * 32)
    assert Move.read(move.written()) == move
    said = json.loads(move.written())
    others = ("x", [], {}, 1.5, "9" * 30, "2026-01-01T00:00:00")
    for other in ({}, *(said | {field: other} for other in others)):
        with pytest.raises(ValueError, match="cannot be read"):
            Move.read(json.dumps(other))
