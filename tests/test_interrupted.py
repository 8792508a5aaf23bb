"""A ``main`` that is stopped again and again ends with the models of one that was not."""

import os
import random
import shutil
import signal
import threading
import time
from contextlib import chdir
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import forget_store, use_store
from forks import Forked
from mlflow import MlflowClient

from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import MainConfig
from kd_mlflow.config.options import text_value
from kd_mlflow.errors import TrainingError
from kd_mlflow.local_state import KEPT_DAYS, held, remove_dead
from kd_mlflow.population.workers import Workers
from kd_mlflow.steps.work import held_checkpoints

OPTIONS = {
    "data": "table.csv",
    "target": "y",
    "n_teachers": 3,
    "teacher_epochs": 120,
    "teacher_patience": 60,
    "teacher_bins": 0,
    "n_boosted": 2,
    "boosting_rounds": 60,
    "n_students": 2,
    "student_epochs": 200,
    "student_patience": 100,
    "temperature": 3.0,
    "student_hidden": (64, 32),
    "student_bins": 0,
    "augment_factor": 5,
    "max_accuracy_gap": 1.0,
    "max_log_loss_gap": 0.0,
    "min_compression": 1.0,
    "allow_worse_than_baseline": True,
    "baseline_optimizer": "adam",
    "strong_baseline_optimizer": "adam",
}

STOPS = [
    ("networks:", signal.SIGTERM, 30),
    ("networks:", signal.SIGKILL, 1),
    ("students:", signal.SIGKILL, 1),
    ("students:", signal.SIGINT, 30),
]
"""When a run is stopped (some time after it says so), how, and its ``checkpoint_seconds``."""


@dataclass(frozen=True)
class Stopped:
    """A run that was stopped: how, its exit status, what it said, how its runs stand then."""

    signal: int
    status: int
    said: str
    runs: dict[str, str]
    checkpoints: list[str]


@dataclass(frozen=True)
class Story:
    """A ``main`` that was stopped often and came to its end, and one that was not."""

    stopped: list[Stopped]
    status: int
    said: str
    client: MlflowClient
    whole: MlflowClient


def table(folder):
    """Write a table on which models are trained for some seconds."""
    random = np.random.default_rng(0)
    x = random.normal(size=(1500, 8)).round(4)
    y = (x[:, 0] * x[:, 1] + x[:, 2] > 0.3 * random.normal(size=1500)).astype(int)
    pd.DataFrame(x).add_prefix("c").assign(y=y).to_csv(folder / "table.csv", index=False)


def started(folder, seconds, log):
    """Start ``main`` in a process of its own; what it says comes into a file."""
    options = [f"--{name}={text_value(value)}" for name, value in OPTIONS.items()]
    words = ("kd_mlflow", "main", *options, f"--checkpoint_seconds={seconds}")
    without = ("drawing", "rehearsal", "timing", "clean process", "boosting alone")
    return Forked(*words, folder=folder, env=os.environ, log=log, without=without)


def runs_of(client):
    """Every run of the default experiment, oldest first."""
    experiment = client.get_experiment_by_name("kd-mlflow").experiment_id
    return list(
        client.search_runs([experiment], order_by=["attributes.start_time ASC"], max_results=1000)
    )


def stop(folder, client, moment, *, after, number, seconds):
    """Start ``main`` and stop it some time after it has said something."""
    log = folder / f"said-{time.monotonic_ns()}"
    process = started(folder, seconds, log)
    deadline = time.monotonic() + 60
    while not (log.exists() and f"\n{after}" in f"\n{log.read_text()}"):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(moment)
    os.kill(process.pid, number)
    return Stopped(
        signal=number,
        status=process.wait(60),
        said=log.read_text(),
        runs={run.info.run_id: run.info.status for run in runs_of(client)},
        checkpoints=sorted(
            f"{path.parent.name}/{path.name}" for path in folder.glob("state/*/*/*/*.npz")
        ),
    )


@pytest.fixture(scope="module")
def story(empty_database, tmp_path_factory):
    """Stop ``main`` at random moments until it ends; and run it undisturbed in another store."""
    folders = [tmp_path_factory.mktemp(name) for name in ("stopped", "whole")]
    clients = []
    for folder in folders:
        table(folder)
        shutil.copy(empty_database, folder / "mlflow.db")
        with chdir(folder):  # where MLflow first opens a store it puts files, of any later run too
            clients.append(MlflowClient(f"sqlite:///{folder / 'mlflow.db'}"))
    folder, whole = folders
    with pytest.MonkeyPatch.context() as patch:
        use_store(patch, f"sqlite:///{whole / 'mlflow.db'}", whole)
        pipeline.run_main(MainConfig(**OPTIONS))
        use_store(patch, f"sqlite:///{folder / 'mlflow.db'}", folder)
        moments = [random.uniform(0.1, 1.0) for _ in STOPS]  # training takes several seconds
        print("stopped after", moments)
        stopped = [
            stop(folder, clients[0], moment, after=after, number=number, seconds=seconds)
            for moment, (after, number, seconds) in zip(moments, STOPS, strict=True)
        ]
        log = folder / "said-at-last"
        status = started(folder, 1, log).wait(120)
        forget_store()
    return Story(stopped, status, log.read_text(), *clients)


def finished(client, kind):
    """The one finished run of a kind."""
    (run,) = [
        run
        for run in runs_of(client)
        if run.data.tags["kd.kind"] == kind and run.info.status == "FINISHED"
    ]
    return run


def ensemble(client):
    """The weights and trees of the finished ensemble, by their files."""
    run = client.get_run(finished(client, "teachers").info.run_id)
    (output,) = run.outputs.model_outputs
    folder = Path(client.get_logged_model(output.model_id).artifact_location)
    weights = {
        f"{path.relative_to(folder)} {name}": array
        for path in folder.rglob("*.npz")
        for name, array in np.load(path).items()
    }
    trees = {
        str(path.relative_to(folder)): np.array(path.read_text()) for path in folder.rglob("*.txt")
    }
    return weights | trees


def member_runs(client, parent):
    """Children of a run by name."""
    clause = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    found = client.search_runs([parent.info.experiment_id], clause, max_results=1000)
    return {run.info.run_name: run for run in found}


@pytest.mark.slow
def test_signals_end_with_their_status(story, fault):
    """SIGTERM ends with 143, SIGINT with 130, and neither with a traceback."""
    statuses = [stopped.status for stopped in story.stopped]
    assert statuses == [143, -signal.SIGKILL, -signal.SIGKILL, 130]
    assert not any("Traceback" in stopped.said for stopped in story.stopped)
    for name, status in (("SIGTERM", 143), ("SIGINT", 130)):
        fault("main", f"{name} while models train", expected=f"exit {status}", seen=f"{status}")


@pytest.mark.slow
def test_signals_end_runs_and_leave_a_checkpoint(story, fault):
    """After SIGTERM all runs are KILLED, and a checkpoint is there long before its time."""
    first = story.stopped[0]
    assert set(first.runs.values()) == {"KILLED"}
    assert any(name.startswith("networks/") for name in first.checkpoints)
    fault(
        "main",
        "SIGTERM before the first checkpoint was due",
        expected="runs KILLED, a checkpoint",
        seen=f"{len(first.runs)} runs KILLED, {len(first.checkpoints)} checkpoint",
    )


@pytest.mark.slow
def test_the_ensemble_is_that_of_an_undisturbed_run(story, fault):
    """Networks and trees are equal to the last bit."""
    assert story.status == 0, story.said
    mine, whole = ensemble(story.client), ensemble(story.whole)
    assert mine.keys() == whole.keys()
    assert len(mine) >= 10
    for name, array in mine.items():
        np.testing.assert_array_equal(array, whole[name])
    fault(
        "teachers",
        "SIGTERM, then SIGKILL, at random moments",
        expected="the ensemble of an undisturbed run, bit for bit",
        seen="equal",
    )


@pytest.mark.slow
def test_the_student_is_that_of_an_undisturbed_run(story, fault):
    """The registered student's weights are equal to the last bit."""
    students = [
        mlflow.pytorch.load_model(
            client.get_model_version("kd-student", "1").source, device="cpu"
        ).state_dict()
        for client in (story.client, story.whole)
        if mlflow.set_tracking_uri(client.tracking_uri) is None
    ]
    mlflow.set_tracking_uri(None)
    assert students[0].keys() == students[1].keys()
    for name, value in students[0].items():
        np.testing.assert_array_equal(value.numpy(), students[1][name].numpy())
    fault(
        "distill",
        "SIGKILL, then SIGINT, at random moments",
        expected="the student of an undisturbed run, bit for bit",
        seen="equal",
    )


@pytest.mark.slow
def test_every_child_has_exactly_its_epochs(story, fault):
    """Curves of the run that came to its end have each epoch once, as if undisturbed."""
    lengths = {}
    for kind in ("teachers", "distill"):
        mine, whole = (
            member_runs(client, finished(client, kind)) for client in (story.client, story.whole)
        )
        assert mine.keys() == whole.keys()
        for name, run in mine.items():
            steps = [
                sorted(m.step for m in client.get_metric_history(run_id, "train_loss"))
                for client, run_id in (
                    (story.client, run.info.run_id),
                    (story.whole, whole[name].info.run_id),
                )
            ]
            assert steps[0] == steps[1] == list(range(1, len(steps[0]) + 1))
            lengths[name] = len(steps[0])
    assert min(lengths.values()) > 10
    fault(
        "main",
        "stopped four times at random moments",
        expected="every child has exactly its epochs",
        seen=f"{len(lengths)} children, {sum(lengths.values()):,} epochs, none twice or missing",
    )


@pytest.mark.slow
def test_dead_runs_are_marked_and_none_stays_running(story, fault):
    """Runs that were killed end KILLED with a tag that leads to the run that came after them."""
    runs = {run.info.run_id: run for run in runs_of(story.client)}
    assert {run.info.status for run in runs.values()} == {"FINISHED", "KILLED"}
    dead = [run for run in runs.values() if run.info.status == "KILLED"]
    for run in dead:
        by = runs[run.data.tags["kd.superseded_by"]]
        assert by.info.start_time >= run.info.start_time
    running = [set(stopped.runs.values()) for stopped in story.stopped[1:3]]
    assert all("RUNNING" in statuses for statuses in running)
    assert finished(story.client, "distill").data.tags["kd.resumed_from"] in runs
    fault(
        "main",
        "a dead run, RUNNING for ever",
        expected="KILLED, `kd.superseded_by` names its successor",
        seen=f"{len(dead)} runs KILLED and marked, none RUNNING",
    )


@pytest.mark.slow
def test_nothing_is_left_of_it(story):
    """Checkpoints are removed once the run that needs them has ended."""
    assert story.stopped[-1].checkpoints
    folder = story.client.tracking_uri.removeprefix("sqlite:///").removesuffix("/mlflow.db")
    left = [name for _, _, files in os.walk(f"{folder}/state") for name in files]
    assert all(name.endswith(".lock") for name in left)


class Lines:
    """A listener that keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def test_two_at_once_have_no_checkpoints_in_common(store, tmp_path, fault):
    """Who comes second while the same is trained does without checkpoints, and says so."""
    config, second = MainConfig(), Lines()
    with (
        held_checkpoints(config, "mark", Lines()) as first,
        held_checkpoints(config, "mark", second) as other,
    ):
        assert first.folder is not None
        assert other.folder is None
    assert "by another process" in second.lines[0]
    with held_checkpoints(config, "mark", Lines()) as again:
        assert again.folder is not None
    fault(
        "checkpoints",
        "two processes train the same at once",
        expected="the second keeps none, and says so",
        seen=second.lines[0],
    )


def test_no_seconds_mean_no_checkpoints(store, tmp_path):
    """With ``checkpoint_seconds`` 0 nothing is written."""
    with held_checkpoints(replace(MainConfig(), checkpoint_seconds=0.0), "mark", Lines()) as none:
        assert none.folder is None
    assert not (tmp_path / "state").exists()


def test_a_folder_that_cannot_be_written(store, tmp_path, caplog, fault):
    """Where no checkpoint can be kept, training does without and says why."""
    (tmp_path / "state").write_text("a file, no folder")
    with held_checkpoints(MainConfig(), "mark", Lines()) as none:
        assert none.folder is None
    assert "keeps no checkpoints" in caplog.text
    fault(
        "checkpoints",
        "their folder cannot be written",
        expected="training without them, one warning",
        seen=caplog.records[0].getMessage().partition(": ")[0],
    )


def test_what_fails_is_kept_and_what_ends_is_not(store, tmp_path):
    """An error leaves the checkpoints for the next try; the end removes them."""
    config, mark = MainConfig(), "mark"
    with held_checkpoints(config, mark, Lines()) as kept:
        folder = kept.folder

    def fails():
        with held_checkpoints(config, mark, Lines()):
            folder.mkdir()
            raise TrainingError("stopped")

    with pytest.raises(TrainingError, match="stopped"):
        fails()
    assert folder.is_dir()
    with held_checkpoints(config, mark, Lines()):
        pass
    assert not folder.exists()


def test_what_nobody_takes_up_is_forgotten(tmp_path):
    """Checkpoints of a month ago are removed, unless somebody holds them."""
    for name in ("old", "in-use", "new"):
        with held(tmp_path / name):
            (tmp_path / name).mkdir()
        if name != "new":
            os.utime(tmp_path / f"{name}.lock", (0, 0))
    with held(tmp_path / "in-use"):
        os.utime(tmp_path / "in-use.lock", (0, 0))
        remove_dead(tmp_path, days=KEPT_DAYS)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["in-use", "new"]


def test_threads_that_train_leave_the_caller_free():
    """Calls run in other threads even where there is one worker: interrupts meet the caller."""
    with Workers(count=1).pool(None) as pool:
        (found,) = pool([(threading.get_ident, (), {})])
    assert found != threading.get_ident()


def test_leaving_the_pool_waits_for_its_calls():
    """A call that has begun ends before the pool is left; one that has not is never made."""
    ended = []

    def call(name):
        time.sleep(0.1)
        ended.append(name)
        if name == "a":
            raise KeyError(name)

    calls = [(call, (name,), {}) for name in ("a", "b", "c", "d")]
    with pytest.raises(KeyError), Workers(count=1).pool(None) as pool:
        list(pool(calls))
    assert ended[0] == "a"
    assert len(ended) <= 2
