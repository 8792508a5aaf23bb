"""Processes that work at once on a shared database mix nothing and lose nothing."""

from itertools import pairwise

import pytest
from at_once import FEW, at_once
from conftest import TINY, forget_store, use_store
from mlflow import MlflowClient
from postgres import database

import kd_mlflow as kd
from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import MainConfig

NAME = "kd-student"
PROCESSES = 8

pytestmark = pytest.mark.slow


SEEDS = ["1", "1", *(str(seed) for seed in range(2, PROCESSES))]
"""Of eight processes; two train the same."""


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A store in PostgreSQL where eight processes trained, distilled and promoted at once.

    Version 1 was in production before.
    """
    folder = tmp_path_factory.mktemp("shared")
    with database() as uri, pytest.MonkeyPatch.context() as patch:
        use_store(patch, uri, folder)
        assert pipeline.run_main(MainConfig(**TINY, data="wine")).decision.promoted
        at_once("train_and_promote", SEEDS, uri=uri, folder=folder)
        yield MlflowClient()
        forget_store()


def made(client):
    """The versions that the eight registered."""
    return [v for v in client.search_model_versions(f"name = '{NAME}'") if str(v.version) != "1"]


def test_promotions_at_once(client):
    """All are promoted, one by one: the history is whole, and previous is the one before."""
    versions = made(client)
    periods = kd.history().periods
    order = [period.version for period in periods]
    assert len(versions) == PROCESSES
    assert order[0] == "1"
    assert sorted(order[1:]) == sorted(str(version.version) for version in versions)
    for period, after in pairwise(periods):
        assert period.until == after.since
    aliases = client.get_registered_model(NAME).aliases
    assert [str(aliases[alias]) for alias in ("production", "previous")] == [order[-1], order[-2]]
    assert [model.name for model in client.search_registered_models()] == [NAME]
    for version in versions:
        assert version.tags["kd.promotion"] == "promoted"
        run = client.get_run(version.tags["kd.promotion_run_id"])
        assert (run.info.status, run.data.tags["kd.promotion"]) == ("FINISHED", "promoted")


def runs(client, kind, clause=""):
    """Runs of a kind."""
    experiment = client.get_experiment_by_name("kd-mlflow").experiment_id
    return client.search_runs([experiment], f"tags.`kd.kind` = '{kind}'{clause}", max_results=999)


def test_trainings_at_once(client):
    """Every child has exactly its epochs, and belongs to the run of its seed; all are finished."""
    ours = [run for run in runs(client, "distill") if run.data.params["kd.recipe"] == "reference"]
    assert sorted(run.data.params["kd.seed"] for run in ours) == SEEDS
    for run in ours:
        taught = client.get_run(run.data.params["kd.teachers"])
        assert run.info.status == taught.info.status == "FINISHED"
        assert taught.data.params["kd.seed"] == run.data.params["kd.seed"]
        for kind, parent, epochs in (
            ("teacher", taught, FEW["teachers"]["teacher_epochs"]),
            ("student", run, FEW["students"]["student_epochs"]),
            ("baseline", run, FEW["students"]["student_epochs"]),
        ):
            clause = f" and tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
            children = runs(client, kind, clause)
            assert len(children) == 2
            for child in children:
                curve = client.get_metric_history(child.info.run_id, "train_loss")
                assert [point.step for point in curve] == list(range(1, epochs + 1))


def test_versions_of_one_content_say_so(client):
    """Of two processes that trained the same, the later version names the earlier one."""
    versions = made(client)
    contents = [version.tags["kd.content_digest"] for version in versions]
    assert len(set(contents)) == PROCESSES - 1
    same = [version for version in versions if "kd.same_as" in version.tags]
    assert len(same) == 1
    (twin,) = [v for v in versions if str(v.version) == same[0].tags["kd.same_as"]]
    assert twin.tags["kd.content_digest"] == same[0].tags["kd.content_digest"]


def test_four_processes_that_begin_on_no_store(tmp_path, monkeypatch):
    """One makes it, the others wait: all of its tables are there, and so are all runs."""
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    at_once("begin", ["1", "2", "3", "4"], uri=uri, folder=tmp_path)
    use_store(monkeypatch, uri, tmp_path)
    client = MlflowClient()
    found = runs(client, "teachers")
    assert sorted(run.data.params["kd.seed"] for run in found) == ["1", "2", "3", "4"]
    assert {run.info.status for run in found} == {"FINISHED"}
    assert len(client.search_registered_models()) == 0  # those tables are there too
    assert not list(tmp_path.glob("*.lock"))
    forget_store()
