"""A tracking server that goes away ends no training, and gets all later, in order and once."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
from conftest import ROOT, forget_store, use_store
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from proxies import (
    BAD_GATEWAY,
    BROKEN,
    LOSE,
    PASS,
    REFUSE,
    RESET,
    SLOW,
    Proxy,
    tracking_server,
)

from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import DistillConfig, MainConfig, TeachersConfig
from kd_mlflow.config.options import text_value
from kd_mlflow.errors import StoreError
from kd_mlflow.tracking import journal, outbox
from kd_mlflow.tracking import store as stores
from kd_mlflow.tracking.curves import CurveWriter
from kd_mlflow.tracking.outbox import left_behind
from kd_mlflow.tracking.runs import Tracker

TEACHERS = {
    "data": "wine",
    "n_teachers": 2,
    "teacher_epochs": 40,
    "teacher_hidden": (8,),
    "teacher_bins": 0,
    "n_boosted": 1,
    "boosting_rounds": 10,
}
STUDENTS = {
    "data": "wine",
    "n_students": 1,
    "student_epochs": 30,
    "student_hidden": (8,),
    "student_bins": 0,
    "temperature": 3.0,
    "augment_factor": 1,
}
PASSING = {
    "max_accuracy_gap": 1.0,
    "min_compression": 0.01,
    "allow_worse_than_baseline": True,
}

FAULTS = (REFUSE, RESET, BROKEN, BAD_GATEWAY, LOSE, SLOW)

WHAT = {
    REFUSE: "connections refused",
    RESET: "connections reset",
    BROKEN: "503 Service Unavailable",
    BAD_GATEWAY: "502 Bad Gateway",
    LOSE: "answers lost after the server has done what it was asked",
    SLOW: "answers after the client has given up",
}


class Breaking:
    """A listener that breaks the way to the server once, when a training has come to some epoch.

    After ``mended_s`` it mends it, if that is given.
    """

    def __init__(self, proxy, fault, *, label="", epoch=5, mended_s=None):
        self.proxy, self.fault, self.label, self.epoch = proxy, fault, label, epoch
        self.mended_s, self.heard, self.broken = mended_s, 0, False

    def say(self, text):
        """Drop the line."""

    @contextmanager
    def training(self, label, members, epochs):
        """Break the way at an epoch of the training that is meant."""

        def on_epoch(chunk, epoch, values):
            self.heard += 1
            if label.startswith(self.label) and epoch == self.epoch and not self.broken:
                self.broken, self.proxy.mode = True, self.fault
                if self.mended_s:
                    threading.Timer(self.mended_s, setattr, (self.proxy, "mode", PASS)).start()
                time.sleep(0.1)  # curves are on their way meanwhile

        yield on_epoch


@pytest.fixture(scope="module")
def server(empty_database, tmp_path_factory):
    """A real server that all tests share; each has its own experiment and model name."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, folder / "mlflow.db")
    with tracking_server(f"sqlite:///{folder / 'mlflow.db'}", folder) as address:
        yield address


@pytest.fixture
def proxy(server, request, tmp_path, monkeypatch):
    """A way to the server that can be broken; in use, and impatient."""
    between = Proxy(server)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    use_store(monkeypatch, between.address, tmp_path)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    monkeypatch.setattr(journal, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(journal, "LONGEST_WAIT_S", 0.2)
    monkeypatch.setattr(journal, "SETTLE_S", 0.5)
    monkeypatch.setattr(stores, "PATIENCE_S", 1.0)
    monkeypatch.setattr(stores, "REQUEST_S", 1)
    monkeypatch.setattr("kd_mlflow.tracking.curves.CurveWriter.__init__", _writing_at_once)
    yield between
    forget_store()
    between.close()


def _writing_at_once(self, runs, original=CurveWriter.__init__):
    original(self, runs, flush_s=0.02)


@pytest.fixture
def direct(server):
    """A client that nothing stands before."""
    return MlflowClient(server)


def runs_of(client, experiment):
    """Runs of an experiment by name; none of them twice."""
    found = client.search_runs(
        [client.get_experiment_by_name(experiment).experiment_id], max_results=1000
    )
    names = [run.info.run_name for run in found]
    assert len(set(names)) == len(names), f"made twice: {sorted(names)}"
    return {run.info.run_name: run for run in found}


def steps(client, run, name="train_loss"):
    """The steps of a curve, as they came."""
    return [metric.step for metric in client.get_metric_history(run.info.run_id, name)]


def whole(client, experiment, kind="teachers"):
    """Hold a run and its children to what an undisturbed run leaves; how many values they have."""
    runs = runs_of(client, experiment)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    (parent,) = [run for run in runs.values() if run.data.tags["kd.kind"] == kind]
    children = [
        run
        for run in runs.values()
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]
    assert len(children) == {"teachers": 3, "distill": 3}[kind]
    values = 0
    for child in children:
        own = steps(client, child)
        assert own == list(range(1, len(own) + 1)), f"{child.info.run_name}: {own}"
        assert child.data.metrics.keys() >= {"test_accuracy", "train_loss", "val_loss"}
        assert child.data.params["kd.data"] == parent.data.params["kd.data"]
        assert child.inputs.dataset_inputs
        values += len(own)
    assert values > 40
    assert client.list_artifacts(parent.info.run_id)
    return values


@pytest.mark.slow
@pytest.mark.parametrize("fault_kind", FAULTS)
def test_a_server_that_comes_back(proxy, direct, request, monkeypatch, fault, fault_kind):
    """Broken while models train and mended soon after: nothing is missing, nothing is twice."""
    monkeypatch.setattr(journal, "SETTLE_S", 20.0)
    listener = Breaking(proxy, fault_kind, mended_s=1.5)
    result = pipeline.run_teachers(TeachersConfig(**TEACHERS), listener)
    assert not pipeline.kept_back()
    assert left_behind() == []
    assert [mode for mode, _, _ in proxy.requests if mode != PASS] or fault_kind == REFUSE
    values = whole(direct, request.node.name)
    run = direct.get_run(result.run_id)
    (model,) = direct.search_logged_models([run.info.experiment_id])
    assert model.source_run_id == run.info.run_id
    assert {metric.key for metric in model.metrics} >= {"ensemble_test_accuracy"}
    listed = direct.list_artifacts(run.info.run_id, "ensemble")
    assert "ensemble/ensemble.json" in {entry.path for entry in listed}
    fault(
        "teachers",
        f"{WHAT[fault_kind]} for a while",
        expected="all delivered, in order and once",
        seen=f"4 runs, {values} epochs of curves, none missing or twice",
    )


@pytest.mark.slow
@pytest.mark.parametrize("fault_kind", FAULTS)
def test_a_server_that_stays_away(proxy, direct, request, fault, fault_kind, caplog):
    """Training ends, what the server has not received is kept, and ``sync`` delivers it."""
    listener = Breaking(proxy, fault_kind)
    result = pipeline.run_teachers(TeachersConfig(**TEACHERS), listener)
    assert listener.heard > 40
    assert result.metrics["ensemble_test_accuracy"] > 0.5
    assert pipeline.kept_back()
    assert "deliver it with kd-mlflow sync" in caplog.text
    assert "Traceback" not in caplog.text
    with pytest.raises(StoreError):
        pipeline.run_sync()
    proxy.mode = PASS
    (delivery,) = pipeline.run_sync()
    assert delivery.refused == ()
    assert not pipeline.kept_back()
    assert pipeline.run_sync() == []
    values = whole(direct, request.node.name)
    fault(
        "teachers",
        f"{WHAT[fault_kind]} until the end",
        expected="training ends, sync delivers all once",
        seen=f"{delivery.delivered} requests by sync; 4 runs, {values} epochs, none twice",
    )


@pytest.mark.slow
def test_a_student_that_was_trained_without_a_server(proxy, direct, request, fault):
    """Its runs, its model and its version come to the registry by ``sync``, and it answers."""
    pipeline.run_teachers(TeachersConfig(**TEACHERS))
    name = "trained-alone"
    config = DistillConfig(**STUDENTS, model_name=name)
    result = pipeline.run_distill(config, Breaking(proxy, REFUSE, label="students"))
    assert result.version is None
    assert "once it is delivered" in repr(result)
    with pytest.raises(MlflowException):
        direct.get_registered_model(name)
    proxy.mode = PASS
    (delivery,) = pipeline.run_sync()
    assert delivery.refused == ()
    version = direct.get_model_version_by_alias(name, "candidate")
    runs = runs_of(direct, request.node.name)
    run = runs["distill wine"]
    assert version.run_id == version.tags["kd.run_id"] == run.info.run_id
    model = mlflow.pyfunc.load_model(f"models:/{name}@candidate")
    assert model.metadata.run_id == run.info.run_id
    rows = mlflow.models.Model.load(f"models:/{name}@candidate").load_input_example()
    assert len(model.predict(rows)) == len(rows)
    path = direct.download_artifacts(run.info.run_id, "report.html")
    page = Path(path).read_text(encoding="utf-8")
    assert model.metadata.model_id in page
    assert run.data.metrics["registered_test_accuracy"] >= 0
    logged = direct.get_logged_model(model.metadata.model_id)
    assert {m.key for m in logged.metrics} >= {"registered_test_accuracy"}
    fault(
        "distill",
        "the server goes away before the student is logged and registered",
        expected="model, version and alias by sync",
        seen=f"version {version.version}, candidate, loads and answers",
    )


@pytest.mark.slow
@pytest.mark.parametrize("fault_kind", [REFUSE, LOSE, SLOW])
def test_promotion_fails_closed(proxy, direct, fault, fault_kind):
    """With the server away a ``main`` promotes nothing, says so in one line, and can go on."""
    name = f"closed-{fault_kind}"
    config = MainConfig(**{**TEACHERS, **STUDENTS, **PASSING, "model_name": name})
    with pytest.raises(StoreError, match="nothing was promoted") as caught:
        pipeline.run_main(config, Breaking(proxy, fault_kind, label="students"))
    assert "\n" not in str(caught.value)
    proxy.mode = PASS
    for delivery in pipeline.run_sync():
        assert delivery.refused == ()
    versions = direct.search_model_versions(f"name='{name}'")
    assert [str(version.version) for version in versions] == ["1"]
    assert direct.get_registered_model(name).aliases == {"candidate": "1"}
    decision = pipeline.run_promote(pipeline.PromoteConfig(model_name=name, **PASSING))
    assert decision.promoted
    fault(
        "main",
        f"{WHAT[fault_kind]} before the gate",
        expected="nothing promoted; after sync, promote does it",
        seen="StoreError in one line; version 1 promoted after sync",
    )


def command(folder, *arguments):
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "kd_mlflow", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_process_that_dies_during_an_outage(proxy, direct, request, tmp_path, fault):
    """What it had kept is delivered by ``kd-mlflow sync``; its runs end KILLED."""
    given = {**TEACHERS, "teacher_epochs": 20_000, "teacher_patience": 0}
    options = [f"--{name}={text_value(value)}" for name, value in given.items()]
    process = command(tmp_path, "teachers", *options)
    for line in process.stderr:
        if line.startswith("networks"):
            break
    time.sleep(6)
    proxy.mode = REFUSE
    while not left_behind():
        time.sleep(0.1)
    (busy,) = left_behind()
    time.sleep(1)
    process.kill()
    process.communicate()
    proxy.mode = PASS
    synced = command(tmp_path, "sync")
    out, err = synced.communicate(timeout=60)
    assert (synced.returncode, err) == (0, "")
    assert f"{busy.folder.name}: " in out
    runs = runs_of(direct, request.node.name)
    assert {run.info.status for run in runs.values()} == {"KILLED"}
    own = steps(direct, runs["teacher-01"])
    assert own == list(range(1, len(own) + 1))
    fault(
        "teachers",
        "SIGKILL while the server is away",
        expected="sync delivers what was kept, ends the runs KILLED",
        seen=f"{len(runs)} runs KILLED, curves up to epoch {len(own)}",
    )


@pytest.mark.slow
def test_the_exit_status_says_that_something_is_kept(proxy, tmp_path, fault):
    """The closing table is printed, the last line names the command, and the status is 1."""
    given = {**TEACHERS, "teacher_epochs": 3_000, "teacher_patience": 0}
    options = [f"--{name}={text_value(value)}" for name, value in given.items()]
    process = command(tmp_path, "teachers", *options)
    for line in process.stderr:
        if line.startswith("networks"):
            break
    proxy.mode = BROKEN
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "ensemble run" in out
    assert err.splitlines()[-1].startswith("Error: all was trained, but")
    assert "kd-mlflow sync" in err
    assert "Traceback" not in err
    proxy.mode = PASS
    synced = command(tmp_path, "sync")
    assert "requests delivered" in synced.communicate(timeout=60)[0]
    assert synced.returncode == 0
    fault(
        "command line",
        "the server stays away",
        expected="the table, exit 1, one line that names kd-mlflow sync",
        seen=err.splitlines()[-1].removeprefix("Error: "),
    )


@pytest.mark.slow
def test_a_run_that_somebody_deletes_meanwhile(proxy, direct, request, fault):
    """What the server refuses for good is put aside and said; all else is delivered."""
    listener = Breaking(proxy, REFUSE)
    pipeline.run_teachers(TeachersConfig(**TEACHERS), listener)
    gone = runs_of(direct, request.node.name)["teacher-02"]
    direct.delete_run(gone.info.run_id)
    proxy.mode = PASS
    (delivery,) = pipeline.run_sync()
    assert delivery.refused
    assert all(gone.info.run_id in reason for reason in delivery.refused)
    assert pipeline.kept_back()
    runs = runs_of(direct, request.node.name)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    direct.restore_run(gone.info.run_id)
    (again,) = pipeline.run_sync()
    assert again.refused == ()
    assert again.delivered == len(delivery.refused)
    whole(direct, request.node.name)
    fault(
        "sync",
        "a run was deleted meanwhile",
        expected="the rest delivered, exit 1; all once it is restored",
        seen=f"{len(delivery.refused)} requests refused, then delivered",
    )


def test_what_was_kept_for_another_store(store, monkeypatch, tmp_path, fault):
    """``sync`` delivers nothing to a store that it was not kept for."""
    with outbox.Outbox.opened("http://elsewhere:5000") as kept:
        kept.add(outbox.Operation(name="end", arguments={"run": "x"}))
    with pytest.raises(StoreError, match="kept for http://elsewhere:5000, not for") as caught:
        pipeline.run_sync()
    assert left_behind()
    fault(
        "sync",
        "MLFLOW_TRACKING_URI is another store",
        expected="nothing delivered, one line",
        seen=str(caught.value).partition(" was ")[2].partition(", not")[0] + ", nothing delivered",
    )


def test_what_a_running_process_keeps_is_its_own(store, tmp_path):
    """``sync`` leaves alone what its own process is still to deliver."""
    with outbox.Outbox.opened(f"sqlite:///{tmp_path / 'mlflow.db'}") as kept:
        kept.add(outbox.Operation(name="end", arguments={"run": "x"}))
        (delivery,) = pipeline.run_sync()
        assert delivery.busy
    assert left_behind()


@pytest.fixture
def quick(monkeypatch):
    """A journal that tries again at once."""
    monkeypatch.setattr(journal, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(journal, "LONGEST_WAIT_S", 0.2)


@pytest.mark.slow  # MLflow waits 20 seconds for a lock
def test_a_locked_database(store, quick, tmp_path, fault):
    """Another process that locks the database file for a while costs no value."""
    tracker = Tracker()
    with tracker.run("teachers", "t") as run:
        other = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        begun = time.monotonic()
        run.log(tags={"one": "1"})
        waited = time.monotonic() - begun
        run.log(tags={"two": "2"})
        assert time.monotonic() - begun < waited + 1
        other.execute("ROLLBACK")
        other.close()
    assert store.get_run(run.id).data.tags.items() >= {"one": "1", "two": "2"}.items()
    assert left_behind() == []
    fault(
        "sqlite",
        "the file is locked by another process",
        expected="work goes on, all is there afterwards",
        seen=f"waited {waited:.0f} s once, nothing lost",
    )


def test_a_full_disk_under_the_artifacts(store, quick, monkeypatch, fault):
    """Artifacts that cannot be written are kept and written later, as they were."""
    original, full = MlflowClient.log_artifacts, [True, True, True]

    def log_artifacts(self, run_id, folder, path=None):
        if full:
            full.pop()
            raise OSError(28, "No space left on device")
        original(self, run_id, folder, path)

    monkeypatch.setattr(MlflowClient, "log_artifacts", log_artifacts)
    with Tracker().run("teachers", "t") as run:
        run.document({"a": 1}, "folder/a.json")
        run.file(b"later", "b.txt")
    document, text = (
        Path(store.download_artifacts(run.id, path)).read_text()
        for path in ("folder/a.json", "b.txt")
    )
    assert (json.loads(document), text) == ({"a": 1}, "later")
    fault(
        "artifacts",
        "No space left on device, three times",
        expected="kept, written later",
        seen="both artifacts as they were",
    )


def test_a_full_disk_under_the_outbox(store, quick, monkeypatch, caplog, fault):
    """What can be kept neither by the store nor on disk waits in memory."""
    original, away = MlflowClient.log_batch, [True] * 4

    def log_batch(self, run_id, **batch):
        if away:
            away.pop()
            raise OSError("no way to the store")
        original(self, run_id, **batch)

    def full(path, line):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    monkeypatch.setattr(outbox, "_append", full)
    with Tracker().run("teachers", "t") as run:
        run.log(tags={"one": "1"})
        run.log(tags={"one": "2"})
    assert store.get_run(run.id).data.tags["one"] == "2"
    assert "kept in memory alone" in caplog.text
    fault(
        "outbox",
        "the store is away and the disk is full",
        expected="work goes on, kept in memory",
        seen="delivered in order",
    )


def test_a_half_written_line_does_not_count(store, tmp_path):
    """A process that died while it kept something leaves a line that nobody can read."""
    with outbox.Outbox.opened("sqlite://") as kept:
        kept.add(outbox.Operation(name="end", arguments={"run": "x"}))
    with (kept.folder / outbox.OPERATIONS).open("a") as file:
        file.write('{"name": "ba')
    ((entry, answer),) = kept.entries()
    assert (entry.operation.name, answer) == ("end", None)


def test_no_secret_is_kept(store, monkeypatch):
    """The outbox names its store without the password in its address."""
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://me:hush@host:5000")
    monkeypatch.setattr(MlflowClient, "log_batch", _away)
    own = journal.Journal(lambda: MlflowClient("sqlite://"))
    own._failure = OSError("away")
    own._keep(outbox.Operation(name="end", arguments={"run": "x"}))
    (kept,) = left_behind()
    texts = [path.read_text() for path in kept.folder.rglob("*") if path.is_file()]
    assert texts
    assert not any("hush" in text for text in texts)
    own._stopped.set()
    own._holding.close()


def _away(self, run_id, **batch):
    raise OSError("no way to the store")


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9"])
def test_a_run_that_cannot_begin_is_an_error_at_once(no_server, uri, fault):
    """Where there is no server to begin with, nothing is trained and nothing is kept."""
    begun = time.monotonic()
    with pytest.raises(StoreError, match="cannot be reached"):
        pipeline.run_teachers(TeachersConfig(**TEACHERS))
    assert time.monotonic() - begun < stores.PATIENCE_S + 2
    assert left_behind() == []
    fault(
        "teachers",
        "no server from the start",
        expected="one line within seconds, nothing trained",
        seen=f"StoreError after {time.monotonic() - begun:.1f} s",
    )


@pytest.fixture
def no_server(uri, tmp_path, monkeypatch):
    """An address where nobody listens, in use."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    use_store(monkeypatch, uri, tmp_path)
    yield
    forget_store()
