"""Runs open, attach and close as they should, and curves arrive whole and in few requests."""

import json
import time

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE

from kd_mlflow.errors import RunError, StoreError
from kd_mlflow.table.dataset import Split
from kd_mlflow.table.loading import load_table
from kd_mlflow.tracking import curves as curve_module
from kd_mlflow.tracking import failures
from kd_mlflow.tracking.curves import CurveWriter
from kd_mlflow.tracking.failures import REGISTRY, TRACKING
from kd_mlflow.tracking.provenance import data_set_input
from kd_mlflow.tracking.runs import Tracker
from kd_mlflow.tracking.store import run_page, ui_command


def given_run(store, monkeypatch, experiment="theirs"):
    """Make the run that ``mlflow run`` would have made."""
    run = store.create_run(store.create_experiment(experiment), run_name="named-by-them")
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    return run


def count_requests(monkeypatch):
    """Count log_batch calls that hold metrics, whoever makes them."""
    calls, original = [], MlflowClient.log_batch

    def log_batch(self, run_id, metrics=(), **rest):
        if metrics:
            calls.append(len(metrics))
        return original(self, run_id, metrics=metrics, **rest)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    return calls


def test_first_run_attaches_to_the_run_that_mlflow_run_made(store, monkeypatch):
    """The first run opened is MLFLOW_RUN_ID's, with its name and experiment; the next is new."""
    given = given_run(store, monkeypatch)
    tracker = Tracker()
    with tracker.run("pipeline", "ours") as first, tracker.run("teachers", "child", parent=first):
        assert first.id == given.info.run_id
    runs = store.search_runs([given.info.experiment_id])
    assert {run.info.run_name for run in runs} == {"named-by-them", "child"}
    assert store.get_experiment_by_name("kd-mlflow") is None


def test_a_second_call_under_one_run_id_is_a_run_of_its_own(store, monkeypatch):
    """Whoever comes later under the same MLFLOW_RUN_ID opens a new run in its experiment."""
    given = given_run(store, monkeypatch)
    opened = []
    for kind in ("teachers", "distill", "promotion"):
        tracker = Tracker()
        assert tracker.attaches is (not opened)
        with tracker.run(kind, kind) as run:
            opened.append(run)
    assert opened[0].id == given.info.run_id
    assert len({run.id for run in opened}) == 3
    assert {run.experiment_id for run in opened} == {given.info.experiment_id}
    kinds = [store.get_run(run.id).data.tags["kd.kind"] for run in opened]
    assert kinds == ["teachers", "distill", "promotion"]
    assert store.get_run(opened[1].id).info.run_name == "distill"


def test_one_of_two_trackers_at_once_gets_the_given_run(store, monkeypatch):
    """Two that both see the given run free, as two processes may, do not both attach to it."""
    given = given_run(store, monkeypatch)
    first, second = Tracker(), Tracker()
    untouched = store.get_run(given.info.run_id)
    with monkeypatch.context() as patch:
        read, stale = MlflowClient.get_run, []
        patch.setattr(
            MlflowClient, "get_run", lambda self, i: stale.pop() if stale else read(self, i)
        )
        ids = []
        for tracker in (first, second):
            stale.append(untouched)
            ids.append(tracker.open("teachers", "t").id)
    assert ids[0] == given.info.run_id
    assert ids[1] != given.info.run_id


@pytest.mark.parametrize("fault", ["unknown", "deleted"])
def test_a_given_run_that_is_not_there_is_said(store, monkeypatch, fault):
    """An MLFLOW_RUN_ID that leads to no run raises RunError, which names the variable."""
    given = given_run(store, monkeypatch)
    store.delete_run(given.info.run_id)
    if fault == "unknown":
        monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(RunError, match="unset MLFLOW_RUN_ID"):
        Tracker().open("teachers", "t")


@pytest.mark.parametrize("name", [None, "mine"])
def test_experiment_is_the_named_one_or_the_default(store, monkeypatch, name):
    """Runs go to MLFLOW_EXPERIMENT_NAME, made where it is missing, else to kd-mlflow."""
    if name:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    with Tracker().run("pipeline", "p") as run:
        pass
    assert store.get_experiment(run.experiment_id).name == (name or "kd-mlflow")


def test_experiment_id_wins_over_the_default(store, monkeypatch):
    """MLFLOW_EXPERIMENT_ID names the experiment where no run is given."""
    wanted = store.create_experiment("by id")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", wanted)
    assert Tracker().experiment_id == wanted


def test_deleted_experiment_is_refused(store):
    """A deleted experiment raises RunError, which says how to go on."""
    store.delete_experiment(store.create_experiment("kd-mlflow"))
    with pytest.raises(RunError, match="deleted; restore it"):
        Tracker().open("teachers", "t")


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")],
)
def test_a_run_and_its_children_end_as_their_block_does(store, error, status):
    """A block ends its run and children FINISHED, FAILED on an error, KILLED on an interrupt."""
    tracker, ids = Tracker(), []

    def work():
        with (
            tracker.run("teachers", "parent") as parent,
            tracker.children("teacher", ["a", "b"], parent=parent) as children,
        ):
            ids.extend([parent.id, *(child.id for child in children)])
            if error:
                raise error

    if error:
        with pytest.raises(error):
            work()
    else:
        work()
    assert [store.get_run(run_id).info.status for run_id in ids] == [status] * 3


def test_an_attached_run_fails_with_its_block(store, monkeypatch):
    """The run that ``mlflow run`` made ends FAILED when the block that took it fails."""
    given = given_run(store, monkeypatch)
    with pytest.raises(ValueError, match="broken"), Tracker().run("pipeline", "p"):
        raise ValueError("broken")
    assert store.get_run(given.info.run_id).info.status == "FAILED"


@pytest.fixture
def quick(monkeypatch):
    """Requests that are made again at once, for half a second where a command has failed."""
    monkeypatch.setattr(failures, "PAUSE_S", 0.02)
    monkeypatch.setattr(failures, "DOUBLINGS", 0)
    monkeypatch.setattr(failures, "ENDING_S", 0.5)


def failing_ends(monkeypatch, times, code=INTERNAL_ERROR):
    """Make ending the second run opened from now on fail so many times; count its tries."""
    ended, tries, original = [], [], MlflowClient.set_terminated

    def set_terminated(self, run_id, status=None, end_time=None):
        if run_id not in ended:
            ended.append(run_id)
        if ended.index(run_id) == 1:
            tries.append(run_id)
            if len(tries) <= times:
                raise MlflowException("http://me:hush@host is away", error_code=code)
        original(self, run_id, status, end_time)

    monkeypatch.setattr(MlflowClient, "set_terminated", set_terminated)
    return tries


def opened_and_ended(error=None):
    """Open a parent with three children and leave the block, with an error if one is given."""
    tracker, runs = Tracker(), []
    with tracker.run("teachers", "parent") as parent:
        runs.append(parent)
        with tracker.children("teacher", "abc", parent=parent) as children:
            runs.extend(children)
            if error:
                raise error


def statuses(store):
    """How the runs of the default experiment ended, by their names."""
    experiment = store.get_experiment_by_name("kd-mlflow").experiment_id
    return {run.info.run_name: run.info.status for run in store.search_runs([experiment])}


@pytest.mark.parametrize(("error", "status"), [(None, "FINISHED"), (ValueError("x"), "FAILED")])
def test_one_failing_request_leaves_no_run_running(store, quick, monkeypatch, error, status):
    """A request that fails once as runs are ended is made again; nobody notices."""
    tries = failing_ends(monkeypatch, times=1)
    if error:
        with pytest.raises(ValueError, match="x") as caught:
            opened_and_ended(error)
        assert not hasattr(caught.value, "__notes__")
    else:
        opened_and_ended()
    assert statuses(store) == dict.fromkeys(["parent", *"abc"], status)
    assert len(tries) == 2


def test_a_run_that_cannot_be_ended_keeps_no_other_open(store, monkeypatch):
    """The other runs end; the error is the store's, and a note names the run left RUNNING."""
    failing_ends(monkeypatch, times=99, code=INVALID_PARAMETER_VALUE)
    with pytest.raises(StoreError, match="is away") as caught:
        opened_and_ended()
    assert statuses(store) == {"parent": "FAILED", "a": "FINISHED", "b": "RUNNING", "c": "FINISHED"}
    assert "is left RUNNING" in caught.value.__notes__[0]
    assert "hush" not in str(caught.value) + "".join(caught.value.__notes__)


@pytest.mark.slow
def test_a_failure_at_the_end_hides_no_earlier_error(store, quick, monkeypatch):
    """What went wrong first is what is raised, soon: nothing more is asked of a store away."""
    tries = failing_ends(monkeypatch, times=999)
    with pytest.raises(ValueError, match="first of all") as caught:
        opened_and_ended(ValueError("first of all"))
    assert statuses(store) == {"parent": "RUNNING", "a": "FAILED", "b": "RUNNING", "c": "RUNNING"}
    assert len(caught.value.__notes__) == 3
    assert 5 < len(tries) < 30


def refusing_third(monkeypatch, code, times):
    """Make opening the run c fail so many times."""
    original, made = MlflowClient.create_run, []

    def create_run(self, *given, **named):
        if named["run_name"] == "c":
            made.append(named["run_name"])
            if len(made) <= times:
                raise MlflowException("no more", error_code=code)
        return original(self, *given, **named)

    monkeypatch.setattr(MlflowClient, "create_run", create_run)


def test_a_child_that_cannot_be_opened_ends_those_before_it(store, monkeypatch):
    """Children opened before one that the store refuses end FAILED, as their parent does."""
    refusing_third(monkeypatch, INVALID_PARAMETER_VALUE, 99)
    with pytest.raises(StoreError, match="no more"):
        opened_and_ended()
    assert statuses(store) == {"parent": "FAILED", "a": "FAILED", "b": "FAILED"}


def test_a_child_is_opened_once_the_store_is_back(store, quick, monkeypatch):
    """A child that cannot be opened is opened once the store answers, below its parent."""
    refusing_third(monkeypatch, INTERNAL_ERROR, 3)
    opened_and_ended()
    assert statuses(store) == dict.fromkeys(["parent", *"abc"], "FINISHED")
    runs = {run.info.run_name: run for run in store.search_runs(["1"])}
    assert len(runs) == 4
    assert runs["c"].data.tags["mlflow.parentRunId"] == runs["parent"].info.run_id


def test_looking_makes_no_experiment(store):
    """A tracker that only reads leaves the store as it is."""
    tracker = Tracker()
    assert tracker.newest("teachers") == []
    assert tracker.children_of("0" * 32) == []
    assert store.get_experiment_by_name("kd-mlflow") is None
    with tracker.run("teachers", "t"):
        pass
    assert [run.info.run_name for run in tracker.newest("teachers")] == ["t"]


@pytest.mark.parametrize(
    ("uri", "page"),
    [
        ("http://host:5000", "http://host:5000/#/experiments/1/runs/2"),
        ("https://me:hush@host/mlflow/", "https://host/mlflow/#/experiments/1/runs/2"),
        ("sqlite:///mlflow.db", "http://127.0.0.1:5000/#/experiments/1/runs/2"),
        ("postgresql://me:hush@host/db", "http://127.0.0.1:5000/#/experiments/1/runs/2"),
        ("databricks", None),
    ],
)
def test_a_runs_page_is_on_its_server(uri, page):
    """The address has the server's prefix, none of its credentials, and asks for training."""
    assert run_page(uri, "1", "2") == (page and f"{page}?workflowType=machine_learning")
    whole = page and f"{page}/artifacts/a.html?workflowType=machine_learning"
    assert run_page(uri, "1", "2", "a.html") == whole


@pytest.mark.parametrize(
    ("stores", "command"),
    [
        ({"sqlite:////data/a b.db": TRACKING}, "'sqlite:////data/a b.db'"),
        ({"postgresql://host/db": TRACKING}, "postgresql://host/db"),
        ({"postgresql://me:hush@host/db": TRACKING}, '"$MLFLOW_TRACKING_URI"'),
        (
            {"sqlite:////a.db": TRACKING, "sqlite:////b.db": REGISTRY},
            "sqlite:////a.db --registry-store-uri sqlite:////b.db",
        ),
        ({"http://host:5000": TRACKING}, None),
        ({"databricks": TRACKING}, None),
    ],
)
def test_the_pages_are_started_with_their_store(stores, command):
    """``mlflow ui`` gets the stores in use, and no password is printed."""
    assert ui_command(stores) == (command and f"mlflow ui --backend-store-uri {command}")


def test_a_file_of_this_folder_is_named_whole(monkeypatch, tmp_path):
    """The command works in any folder."""
    monkeypatch.chdir(tmp_path)
    assert ui_command({"sqlite:///mlflow.db": TRACKING}).endswith(f"sqlite:///{tmp_path}/mlflow.db")


def test_children_lie_below_their_parent_in_order(store):
    """Children carry mlflow.parentRunId and are listed in the order they were opened."""
    tracker, names = Tracker(), [f"teacher-{i:02d}" for i in range(1, 6)]
    with (
        tracker.run("teachers", "parent") as parent,
        tracker.children("teacher", names, parent=parent) as children,
    ):
        opened = [child.id for child in children]
    found = tracker.children_of(parent.id)
    assert sorted(run.info.run_name for run in found) == names
    assert [run.info.run_id for run in found] == opened
    assert {run.data.tags["mlflow.parentRunId"] for run in found} == {parent.id}


def test_nothing_is_left_as_the_ambient_active_run(store):
    """Opening runs leaves ``mlflow.active_run()`` alone."""
    with Tracker().run("pipeline", "p"):
        assert mlflow.active_run() is None


def test_newest_finds_only_finished_runs_with_the_tags(store):
    """``newest`` lists finished runs of the kind and tags, the newest first."""
    tracker = Tracker()
    for name, tag in [("first", "x"), ("second", "x"), ("third", "y")]:
        with tracker.run("teachers", name) as run:
            run.log(tags={"kd.mark": tag})
            time.sleep(0.005)
    tracker.open("teachers", "unfinished").log(tags={"kd.mark": "x"})
    assert [run.info.run_name for run in tracker.newest("teachers", mark="x")] == [
        "second",
        "first",
    ]


def test_unknown_run_and_artifact_are_run_errors(store):
    """A run id or an artifact that is not there raises RunError with its name."""
    tracker = Tracker()
    with pytest.raises(RunError, match="'feedbeef'"):
        tracker.get("feedbeef")
    with tracker.run("teachers", "t") as run, pytest.raises(RunError, match="'ensemble'"):
        tracker.download(run.id, "ensemble")


@pytest.mark.slow
def test_curves_arrive_whole_with_steps_from_one(store):
    """Every value handed to the writer is read back, in its run, at its epoch."""
    tracker = Tracker()
    values = np.random.default_rng(0).random((7, 3))
    with (
        tracker.run("teachers", "t") as parent,
        tracker.children("teacher", ["a", "b", "c"], parent=parent) as runs,
        CurveWriter(runs) as curves,
    ):
        for epoch, row in enumerate(values, 1):
            curves.on_epoch(slice(0, 1), epoch, {"val_loss": row[:1]})
            curves.on_epoch(slice(1, 3), epoch, {"val_loss": row[1:]})
    for run, expected in zip(runs, values.T, strict=True):
        history = sorted(store.get_metric_history(run.id, "val_loss"), key=lambda m: m.step)
        assert [metric.step for metric in history] == list(range(1, 8))
        assert [metric.value for metric in history] == pytest.approx(expected)


@pytest.mark.parametrize("epochs", [5, 200])
def test_requests_do_not_grow_with_epochs(store, monkeypatch, epochs):
    """Short trainings make one request a run, however many their epochs."""
    tracker, calls = Tracker(), count_requests(monkeypatch)
    with (
        tracker.run("teachers", "t") as parent,
        tracker.children("teacher", ["a", "b"], parent=parent) as runs,
        CurveWriter(runs, flush_s=60) as curves,
    ):
        for epoch in range(1, epochs + 1):
            curves.on_epoch(slice(0, 2), epoch, {"train_loss": np.ones(2), "val_loss": np.ones(2)})
    assert calls == [2 * epochs] * 2


def test_batches_stay_within_what_mlflow_takes(store, monkeypatch):
    """More than a thousand waiting values go out in several requests, none of them lost."""
    tracker, calls = Tracker(), count_requests(monkeypatch)
    with (
        tracker.run("teachers", "t") as run,
        CurveWriter([run], flush_s=60) as curves,
    ):
        for epoch in range(1, 1502):
            curves.on_epoch(slice(0, 1), epoch, {"train_loss": np.ones(1)})
    assert calls == [1000, 501]
    assert len(store.get_metric_history(run.id, "train_loss")) == 1501


def test_curves_are_readable_while_training_goes_on(store):
    """Values are in the store before the writer is closed."""
    tracker = Tracker()
    with tracker.run("teachers", "t") as run, CurveWriter([run], flush_s=0.02) as curves:
        curves.on_epoch(slice(0, 1), 1, {"train_loss": np.ones(1)})
        deadline = time.monotonic() + 10
        while not (seen := store.get_metric_history(run.id, "train_loss")):
            assert time.monotonic() < deadline, "nothing was written while the writer was open"
            time.sleep(0.02)
    assert [metric.step for metric in seen] == [1]


def test_what_a_store_refuses_ends_training(store, monkeypatch):
    """Values that the store will never take are said at the next epoch, not hours later."""
    reached = []
    with Tracker().run("teachers", "t") as run:
        monkeypatch.setattr(MlflowClient, "log_batch", _refuse)
        with pytest.raises(StoreError, match="never"), CurveWriter([run], flush_s=0.01) as curves:
            reached.extend(_train_slowly(curves))
    assert reached == []


def test_values_that_wait_are_counted(store, quick, monkeypatch):
    """Of a store that is away so many values wait in memory and no more: training ends then."""
    monkeypatch.setattr(curve_module, "MOST_WAITING", 20)
    monkeypatch.setattr(MlflowClient, "log_batch", _away)
    with (
        pytest.raises(StoreError, match="21 values of curves wait"),
        Tracker().run("teachers", "t") as run,
        CurveWriter([run], flush_s=0.01) as curves,
    ):
        _train_slowly(curves)


@pytest.mark.slow
def test_a_store_that_fails_stops_no_training(store, quick, monkeypatch):
    """Training goes on while the store's disk is full; all is there once it is not."""
    tracker, original = Tracker(), MlflowClient.log_batch
    full = [True] * 20

    def log_batch(self, run_id, **batch):
        if full:
            full.pop()
            raise OSError("disk full")
        original(self, run_id, **batch)

    with tracker.run("teachers", "t") as run:
        monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
        with CurveWriter([run], flush_s=0.01) as curves:
            assert _train_slowly(curves) == [50]
    history = store.get_metric_history(run.id, "train_loss")
    assert [metric.step for metric in history] == list(range(1, 51))


def _train_slowly(curves):
    """Hand over an epoch each 10 ms, fifty times; return the last epoch, if it is reached."""
    for epoch in range(1, 51):
        curves.on_epoch(slice(0, 1), epoch, {"train_loss": np.ones(1)})
        time.sleep(0.01)
    return [epoch]


def _away(self, run_id, **batch):
    raise OSError("no way to the store")


def _refuse(self, run_id, **batch):
    raise MlflowException("never", error_code=INVALID_PARAMETER_VALUE)


@pytest.mark.slow
def test_the_schema_of_a_wide_table_is_json_of_its_first_columns():
    """A data set of more columns than MLflow keeps lists those that fit, as valid JSON."""
    frame = pd.DataFrame(np.arange(6000).reshape(2, 3000)).add_prefix("a column with a long name ")
    table = load_table(frame.assign(y=[0, 1]), "y")
    rows = np.arange(1)
    entity = data_set_input(table, table.digest, Split(train=rows, val=rows, test=rows)).dataset
    listed = json.loads(entity.schema)["mlflow_colspec"]
    assert 500 < len(listed) < 3000
    assert len(entity.schema) <= 65_535
    assert [column["name"] for column in listed] == list(table.features)[: len(listed)]
