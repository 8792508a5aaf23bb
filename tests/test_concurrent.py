"""Processes that promote at once on a shared database lose no promotion and leave no half."""

import os
import subprocess
import sys
from itertools import pairwise

import pytest
from conftest import ROOT, TINY, use_store
from postgres import database
from test_promotion import registered_again

import kd_mlflow as kd
from kd_mlflow import pipeline
from kd_mlflow.config import MainConfig

NAME = "kd-student"
PROCESSES = 8


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A store in PostgreSQL whose version 1 is in production, and eight more that wait."""
    with database(tmp_path / "postgres") as uri:
        use_store(monkeypatch, uri, tmp_path)
        assert pipeline.run_main(MainConfig(**TINY, data="wine")).decision.promoted
        from mlflow import MlflowClient

        client = MlflowClient()
        yield client, uri, [registered_again(client) for _ in range(PROCESSES)]


@pytest.mark.slow
@pytest.mark.alone
def test_eight_processes_that_promote_at_once(shared, tmp_path):
    """All are promoted, one by one: the history is whole, and previous is the one before."""
    client, uri, versions = shared
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "promoting.py"), *versions],
        env={**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.split() == ["0"] * PROCESSES, done.stderr
    periods = kd.history().periods
    order = [period.version for period in periods]
    assert order[0] == "1"
    assert sorted(order[1:]) == sorted(versions)
    for period, after in pairwise(periods):
        assert period.until == after.since
    aliases = client.get_registered_model(NAME).aliases
    assert str(aliases["production"]) == order[-1]
    assert str(aliases["previous"]) == order[-2]
    assert [model.name for model in client.search_registered_models()] == [NAME]
    for version in versions:
        tags = client.get_model_version(NAME, version).tags
        assert tags["kd.promotion"] == "promoted"
        run = client.get_run(tags["kd.promotion_run_id"])
        assert (run.info.status, run.data.tags["kd.promotion"]) == ("FINISHED", "promoted")
