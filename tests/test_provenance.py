"""Runs say what made them; a model's metrics name their data; system metrics where asked for."""

import importlib.metadata
import subprocess
import sys

import pytest
from conftest import TINY, part_of

import kd_mlflow
from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.tracking import provenance

TEACHERS = part_of(TeachersConfig, TINY)


def all_runs(client):
    """Every run of the default experiment."""
    experiment = client.get_experiment_by_name("kd-mlflow").experiment_id
    return client.search_runs([experiment], max_results=1000)


def test_every_run_has_the_versions(finished):
    """Tags of every run hold the versions of this package, torch and mlflow, and its source."""
    for run in all_runs(finished.client):
        assert run.data.tags["kd.version"] == kd_mlflow.__version__
        assert run.data.tags["kd.torch_version"] == importlib.metadata.version("torch")
        assert run.data.tags["kd.mlflow_version"] == importlib.metadata.version("mlflow")
        assert run.data.tags["mlflow.source.name"] == "kd-mlflow"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """The package as if it were used from a checkout whose remote holds a token."""
    for command in (
        "init --quiet",
        "-c user.name=a -c user.email=a@b commit --quiet --allow-empty -m first",
        "remote add origin https://hush@host/kd.git",
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command.split()], check=True)
    monkeypatch.setattr(provenance, "CHECKOUT", tmp_path)
    provenance.source.cache_clear()
    yield tmp_path
    provenance.source.cache_clear()


def test_a_checkout_is_named_by_its_commit(checkout):
    """Tags hold the commit, and the remote's address without its token."""
    head = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
    tags = provenance.source()
    assert tags["mlflow.source.git.commit"] == commit
    assert tags["mlflow.source.git.repoURL"] == "https://***@host/kd.git"


def test_an_installed_package_names_no_commit(checkout, monkeypatch):
    """In a folder of packages, even below somebody's repository, there is no commit."""
    packages = checkout / "site-packages"
    packages.mkdir()
    monkeypatch.setattr(provenance, "CHECKOUT", packages)
    assert not [name for name in provenance.source() if "git" in name]


def test_a_models_metrics_name_their_data(finished):
    """The registered model's metrics carry the name and digest of the run's data set."""
    version = finished.client.get_model_version_by_alias("kd-student", "production")
    run = finished.client.get_run(version.run_id)
    (data,) = [one.dataset for one in run.inputs.dataset_inputs]
    metrics = finished.client.get_logged_model(version.source.removeprefix("models:/")).metrics
    assert "registered_test_accuracy" in {metric.key for metric in metrics}
    assert {(m.dataset_name, m.dataset_digest) for m in metrics} == {(data.name, data.digest)}


@pytest.mark.slow_cases
@pytest.mark.parametrize("asked", [True, False])
def test_system_metrics_where_they_are_asked_for(store, monkeypatch, asked):
    """MLflow's system metrics are on the training's run, not on its members', and only if set."""
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", str(asked).lower())
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    pipeline.run_teachers(TeachersConfig(**TEACHERS, data="wine"))
    seen = {
        run.data.tags["kd.kind"]: {name for name in run.data.metrics if name[:7] == "system/"}
        for run in all_runs(store)
    }
    assert ("system/cpu_utilization_percentage" in seen["teachers"]) == asked
    assert ("system/system_memory_usage_megabytes" in seen["teachers"]) == asked
    assert not seen["teacher"]


MONITOR = "mlflow.system_metrics.system_metrics_monitor"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        ("psutil", "pip install psutil"),
        (MONITOR, f"import of {MONITOR} halted; None in sys.modules"),
        (f"{MONITOR}.SystemMetricsMonitor", "cannot import name 'SystemMetricsMonitor' from"),
        (f"{MONITOR}.SystemMetricsMonitor.aggregate_metrics", "has no attribute 'aggregate_met"),
    ],
)
def test_a_training_does_without_system_metrics(store, monkeypatch, caplog, left_out, said):
    """Without psutil, or in an MLflow without such a monitor, it goes on; one line says so."""
    if left_out in (MONITOR, "psutil"):
        for name in (MONITOR, "mlflow.system_metrics.metrics.cpu_monitor"):
            monkeypatch.delitem(sys.modules, name, raising=False)  # it imports psutil once
        monkeypatch.setitem(sys.modules, left_out, None)
    else:
        monkeypatch.delattr(left_out)
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    trained = pipeline.run_teachers(TeachersConfig(**TEACHERS, data="wine"))
    (line,) = [r.getMessage() for r in caplog.records if "system metrics" in r.getMessage()]
    assert line.startswith("no system metrics: ")
    assert said in line
    run = store.get_run(trained.run_id)
    assert run.info.status == "FINISHED"
    assert not [name for name in run.data.metrics if name.startswith("system/")]
