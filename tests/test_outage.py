"""A tracking server that goes away: what is written waits for it, and is made once."""

import functools
import json
import os
import shutil
import signal
import sqlite3
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
from conftest import forget_store, use_store
from mlflow import MlflowClient
from proxies import (
    BAD_GATEWAY,
    BROKEN,
    LOSE,
    LOSE_ONCE,
    PASS,
    REFUSE,
    RESET,
    SLOW,
    Proxy,
)
from served import mlflow_server

from kd_mlflow import cli, pipeline
from kd_mlflow.config.entry_points import DistillConfig, MainConfig, PromoteConfig, TeachersConfig
from kd_mlflow.config.options import text_value
from kd_mlflow.errors import StoreError
from kd_mlflow.tracking import failures
from kd_mlflow.tracking.curves import CurveWriter
from kd_mlflow.tracking.failures import Patience
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
    "max_log_loss_gap": 0.0,
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
    """A listener that does something once, when a training has come to some epoch.

    ``mended_s`` after it the way to the server is mended, if that is given. Epochs after it take
    ``pause_s``.
    """

    def __init__(self, proxy, fault, *, label="", epoch=5, mended_s=None, pause_s=0.0):
        self.proxy, self.fault, self.label, self.epoch = proxy, fault, label, epoch
        self.mended_s, self.pause_s, self.heard, self.broken = mended_s, pause_s, 0, False

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
            if self.broken:
                time.sleep(self.pause_s)

        yield on_epoch


@pytest.fixture(scope="module")
def server(empty_database, tmp_path_factory):
    """A real server that all tests share; each has its own experiment and model name."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, folder / "mlflow.db")
    uri, files = f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts")
    with mlflow_server(uri, folder, "--artifacts-destination", files) as address:
        yield address


@pytest.fixture
def quick(monkeypatch):
    """Requests that are made again at once."""
    monkeypatch.setattr(failures, "PAUSE_S", 0.05)
    monkeypatch.setattr(failures, "DOUBLINGS", 2)


@pytest.fixture
def proxy(server, request, tmp_path, monkeypatch, quick):
    """A way to the server that can be broken; in use, and impatient."""
    between = Proxy(server)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    use_store(monkeypatch, between.address, tmp_path)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    monkeypatch.setattr(failures, "PATIENCE_S", 1.0)
    monkeypatch.setattr(failures, "REQUEST_S", 1)
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


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    """The ensemble's metrics where the server is never away."""
    with pytest.MonkeyPatch.context() as patch:
        use_store(patch, server, tmp_path_factory.mktemp("undisturbed"))
        yield pipeline.run_teachers(TeachersConfig(**TEACHERS)).metrics
        forget_store()


def runs_of(client, experiment):
    """Runs of an experiment that no later one took up, by name; none of them twice."""
    experiment_id = client.get_experiment_by_name(experiment).experiment_id
    found = client.search_runs([experiment_id], max_results=1000)
    found = [run for run in found if "kd.superseded_by" not in run.data.tags]
    names = [run.info.run_name for run in found]
    assert len(set(names)) == len(names), f"made twice: {sorted(names)}"
    return {run.info.run_name: run for run in found}


def superseded(client, experiment):
    """How the runs of an experiment ended that a later one took up."""
    experiment_id = client.get_experiment_by_name(experiment).experiment_id
    found = client.search_runs([experiment_id], max_results=1000)
    return [run.info.status for run in found if "kd.superseded_by" in run.data.tags]


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
    assert len(children) == 3
    values = 0
    for child in children:
        history = client.get_metric_history(child.info.run_id, "train_loss")
        own = [metric.step for metric in history]
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
def test_a_server_that_comes_back(proxy, direct, request, undisturbed, fault, fault_kind):
    """Broken while models train and mended soon after: nothing is missing, nothing is twice."""
    mended_s = 1.5 if fault_kind == SLOW else 0.5
    result = pipeline.run_teachers(
        TeachersConfig(**TEACHERS), Breaking(proxy, fault_kind, mended_s=mended_s)
    )
    assert [mode for mode, _, _ in proxy.requests if mode != PASS] or fault_kind == REFUSE
    assert result.metrics == undisturbed
    values = whole(direct, request.node.name)
    run = direct.get_run(result.run_id)
    (model,) = direct.search_logged_models([run.info.experiment_id])
    assert model.source_run_id == run.info.run_id
    assert {metric.key for metric in model.metrics} >= {"ensemble_test_accuracy"}
    listed = direct.list_artifacts(run.info.run_id, "ensemble")
    assert "ensemble/ensemble.json" in {entry.path for entry in listed}
    fault(
        "teachers",
        "a server that is away for a while",
        expected="training goes on; all is written, in order and once",
        seen=f"{WHAT[fault_kind]}: 4 runs, {values} epochs of curves, none missing or twice",
    )


@pytest.mark.slow
@pytest.mark.parametrize("fault_kind", FAULTS)
def test_a_server_that_stays_away(proxy, direct, request, undisturbed, fault, fault_kind):
    """Training is stopped by one line; the same command goes on from there, to equal figures."""
    config = TeachersConfig(**TEACHERS, store_patience_s=0.5)
    listener = Breaking(proxy, fault_kind, pause_s=0.1)
    with pytest.raises(StoreError, match=r"waited .* the same command goes on") as caught:
        pipeline.run_teachers(config, listener)
    assert "\n" not in str(caught.value)
    assert listener.heard < 2 * 40
    assert list(Path("state").rglob("*.npz"))
    proxy.mode = PASS
    time.sleep(proxy.slow_s if fault_kind == SLOW else 0)  # what is under way arrives
    assert pipeline.run_teachers(config).metrics == undisturbed
    values = whole(direct, request.node.name)
    dead = superseded(direct, request.node.name)
    assert set(dead) == {"KILLED"}
    fault(
        "teachers",
        "a server that is away for longer than `store_patience_s`",
        expected="one line, exit 1; the same command goes on, to equal figures",
        seen=f"{WHAT[fault_kind]}: equal; {values} epochs, none twice; {len(dead)} runs KILLED",
    )


class FakeTime:
    """A clock that stands still but for pauses; a server is away until it shows a time."""

    def __init__(self, proxy, until_s):
        self.proxy, self.until_s, self.shown = proxy, until_s, 0.0

    def now(self):
        return self.shown

    def pause(self, seconds):
        self.shown += seconds
        if self.shown >= self.until_s:
            self.proxy.mode = PASS


@pytest.mark.slow
def test_ten_minutes_away(proxy, direct, request, monkeypatch, undisturbed, fault):
    """Ten minutes, by a clock that is moved on: curves are whole, no figure is another."""
    clock = FakeTime(proxy, until_s=600)
    patient = functools.partial(Patience, now=clock.now, pause=clock.pause)
    monkeypatch.setattr(failures, "Patience", patient)
    monkeypatch.setattr(failures, "PAUSE_S", 0.5)
    monkeypatch.setattr(failures, "DOUBLINGS", 5)
    result = pipeline.run_teachers(TeachersConfig(**TEACHERS), Breaking(proxy, REFUSE))
    assert 600 <= clock.shown < 620
    assert result.metrics == undisturbed
    values = whole(direct, request.node.name)
    fault(
        "teachers",
        "no server for ten minutes",
        expected="training goes on; all is written, in order and once",
        seen=f"4 runs, {values} epochs of curves, none missing or twice",
    )


@pytest.mark.slow
def test_every_answer_is_lost_once(proxy, direct, request, monkeypatch, fault):
    """Whatever is written is asked for twice, and made once: runs, models, a version, its alias."""
    monkeypatch.setattr(failures, "PAUSE_S", 0.01)
    monkeypatch.setattr(failures, "DOUBLINGS", 0)
    proxy.mode = LOSE_ONCE
    name = "asked-twice"
    taught = pipeline.run_teachers(TeachersConfig(**TEACHERS))
    result = pipeline.run_distill(DistillConfig(**STUDENTS, model_name=name))
    whole(direct, request.node.name, "teachers")
    whole(direct, request.node.name, "distill")
    run = direct.get_run(result.run_id)
    models = direct.search_logged_models([run.info.experiment_id])
    assert {model.source_run_id for model in models} == {taught.run_id, result.run_id}
    assert len(models) == 2
    (version,) = direct.search_model_versions(f"name='{name}'")
    assert direct.get_registered_model(name).aliases == {"candidate": version.version}
    assert version.run_id == version.tags["kd.run_id"] == run.info.run_id
    model = mlflow.pyfunc.load_model(f"models:/{name}@candidate")
    rows = mlflow.models.Model.load(f"models:/{name}@candidate").load_input_example()
    assert len(model.predict(rows)) == len(rows)
    lost = sum(mode == LOSE for mode, _, _ in proxy.requests)
    assert lost > 40
    fault(
        "distill",
        "the answer to every write is lost once",
        expected="runs, models, version and alias are made once",
        seen=f"{lost} answers lost; 8 runs, 2 models, 1 version, nothing twice",
    )


@pytest.mark.slow
def test_promotion_fails_closed(proxy, direct, monkeypatch, fault):
    """With the server away a ``main`` promotes nothing, says so in one line, and can go on."""
    name, distil, distilled = "closed", pipeline.distill_step, []

    def then_away(mode, *given, **named):
        distilled.append(distilled[0] if distilled else distil(*given, **named))
        proxy.mode = mode
        return distilled[0]

    config = MainConfig(**{**TEACHERS, **STUDENTS, **PASSING, "model_name": name})
    for mode in (REFUSE, LOSE, SLOW):  # answers of the last may come at any time
        monkeypatch.setattr(pipeline, "distill_step", functools.partial(then_away, mode))
        with pytest.raises(StoreError, match=r"nothing was promoted.* kd-mlflow promote") as caught:
            pipeline.run_main(config)
        assert "\n" not in str(caught.value)
        proxy.mode = PASS
        (version,) = direct.search_model_versions(f"name='{name}'")
        assert direct.get_registered_model(name).aliases == {"candidate": version.version}
        fault(
            "main",
            "a server that is away before the gate",
            expected="nothing promoted, one line; `promote` does it later",
            seen=f"{WHAT[mode]}: StoreError in one line; version 1 promoted later",
        )
    assert pipeline.run_promote(PromoteConfig(model_name=name, **PASSING)).promoted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault_kind", "number"), [(REFUSE, signal.SIGINT), (SLOW, signal.SIGTERM)]
)
def test_a_signal_ends_the_wait(proxy, monkeypatch, fault, fault_kind, number):
    """Who waits for a server stops at once by SIGINT or SIGTERM, and leaves checkpoints."""
    listener, stopped = Breaking(proxy, fault_kind), []

    def stop():
        stopped.append(time.monotonic())
        os.kill(os.getpid(), number)

    before = signal.signal(number, lambda number, frame: sys.exit(128 + number))
    timer = threading.Timer(3, stop)
    timer.start()
    try:
        with pytest.raises(SystemExit) as caught:
            pipeline.run_teachers(TeachersConfig(**TEACHERS), listener)
    finally:
        signal.signal(number, before)
        timer.cancel()
    took = time.monotonic() - stopped[0]
    assert caught.value.code == 128 + number
    assert took < 2 * failures.PATIENCE_S + 1
    assert list(Path("state").rglob("*.npz"))
    fault(
        "teachers",
        "SIGINT or SIGTERM while a write waits",
        expected="ends at once with 130 or 143; checkpoints stay",
        seen=f"{WHAT[fault_kind]}: {caught.value.code} after {took:.1f} s",
    )


@pytest.mark.slow
def test_the_command_line_says_how_to_go_on(proxy, monkeypatch, capsys, fault):
    """The exit status is 1, the last line names the reason and the way out; then it is 0."""
    options = [f"--{name}={text_value(value)}" for name, value in TEACHERS.items()]
    arguments = ["kd-mlflow", "teachers", *options, "--store-patience-s=0.5"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(cli, "Reporter", lambda: Breaking(proxy, BROKEN))
    monkeypatch.setattr(cli, "_import_pipeline", lambda: pipeline)
    monkeypatch.setattr(cli.signal, "signal", lambda number, handler: None)
    assert _exit_of(cli.main) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Error: the tracking store ")
    assert last.endswith("the same command goes on from its checkpoints")
    proxy.mode = PASS
    monkeypatch.setattr(cli, "Reporter", lambda: Breaking(proxy, PASS))
    assert _exit_of(cli.main) == 0
    assert "ensemble" in capsys.readouterr().out
    fault(
        "teachers",
        "a server that is away for longer than `store_patience_s`",
        expected="one line, exit 1; the same command goes on, to equal figures",
        seen=last,
    )


def _exit_of(main):
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


@pytest.mark.slow
def test_a_run_that_somebody_deletes_meanwhile(proxy, direct, request, undisturbed, fault):
    """What the server refuses for good ends the command at once; the same command goes on."""

    class Deleting(Breaking):
        mode = property(lambda self: PASS, lambda self, mode: self.delete())

        def delete(self):
            direct.delete_run(runs_of(direct, request.node.name)["teacher-02"].info.run_id)

    listener = Deleting(None, None, pause_s=0.1)
    listener.proxy = listener
    with pytest.raises(StoreError, match=r"deleted.* the same command goes on"):
        pipeline.run_teachers(TeachersConfig(**TEACHERS), listener)
    assert pipeline.run_teachers(TeachersConfig(**TEACHERS)).metrics == undisturbed
    whole(direct, request.node.name)
    fault(
        "teachers",
        "somebody deletes one of its runs",
        expected="one line at once; the same command goes on, to equal figures",
        seen="StoreError in one line, then equal",
    )


@pytest.mark.slow
def test_a_run_is_linked_to_and_its_members_are_not(server, monkeypatch, tmp_path, capsys):
    """The client links to a run as it ends, but not to each of the dozens below it."""
    use_store(monkeypatch, server, tmp_path)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "links")
    tracker = Tracker()
    with (
        tracker.run("teachers", "parent") as run,
        tracker.children("teacher", ["one", "two"], parent=run),
    ):
        pass
    forget_store()
    links = [line for line in capsys.readouterr().out.splitlines() if "View run" in line]
    assert [run.id in line for line in links] == [True]


@pytest.mark.slow
def test_a_locked_database(store, quick, tmp_path, monkeypatch, fault):
    """Another process that locks the database file for a while costs no value."""
    use_store(monkeypatch, f"sqlite:///{tmp_path / 'mlflow.db'}?timeout=0.2", tmp_path)
    with Tracker().run("teachers", "t") as run:
        other = sqlite3.connect(
            tmp_path / "mlflow.db", isolation_level=None, check_same_thread=False
        )
        other.execute("BEGIN EXCLUSIVE")
        threading.Timer(1, other.execute, ("ROLLBACK",)).start()
        begun = time.monotonic()
        run.log(tags={"one": "1"})
        waited = time.monotonic() - begun
    other.close()
    assert store.get_run(run.id).data.tags["one"] == "1"
    assert waited > 0.9
    fault(
        "sqlite",
        "another process locks the file",
        expected="waited for, nothing lost",
        seen=f"written after {waited:.0f} s",
    )


@pytest.mark.slow
def test_a_full_disk_under_the_artifacts(store, quick, monkeypatch, fault):
    """Artifacts that cannot be written are written once there is room, as they were."""
    original, full = MlflowClient.log_artifacts, [True, True, True]

    def log_artifacts(self, run_id, folder, path=None):
        if full:
            full.pop()
            raise OSError(28, "No space left on device")
        original(self, run_id, folder, path)

    monkeypatch.setattr(MlflowClient, "log_artifacts", log_artifacts)
    with Tracker().run("teachers", "t") as run:
        run.files({"folder/a.json": {"a": 1}})
        run.files({"b.txt": b"later"})
    document, text = (
        Path(store.download_artifacts(run.id, path)).read_text()
        for path in ("folder/a.json", "b.txt")
    )
    assert (json.loads(document), text) == ({"a": 1}, "later")
    fault(
        "artifacts",
        "the disk is full for a while",
        expected="waited for, nothing lost",
        seen="both artifacts as they were",
    )


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9"])
def test_a_run_that_cannot_begin_is_an_error_at_once(tmp_path, monkeypatch, uri, fault):
    """Where there is no server to begin with, nothing is trained and nobody waits."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    use_store(monkeypatch, uri, tmp_path)
    begun = time.monotonic()
    with pytest.raises(StoreError, match="cannot be reached"):
        pipeline.run_teachers(TeachersConfig(**TEACHERS))
    assert time.monotonic() - begun < failures.PATIENCE_S + 2
    forget_store()
    fault(
        "teachers",
        "no server from the start",
        expected="one line within seconds, nothing trained",
        seen=f"StoreError after {time.monotonic() - begun:.1f} s",
    )
