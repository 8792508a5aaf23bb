"""Opens runs, closes what it opened, and finds finished ones."""

from __future__ import annotations

import getpass
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Param
from mlflow.entities import Run as Run  # for steps, as a type
from mlflow.exceptions import MlflowException

from kd_mlflow.errors import RunError, StoreError
from kd_mlflow.local_state import folder_till_exit
from kd_mlflow.tracking import failures
from kd_mlflow.tracking.curves import system_metrics
from kd_mlflow.tracking.open_run import OPENED, TrackedRun, now_ms, without_links
from kd_mlflow.tracking.provenance import source, version_tags
from kd_mlflow.tracking.store import check_stores, open_client, runs_page

DEFAULT_EXPERIMENT = "kd-mlflow"
VIEW, PIPELINES = "mlflow.sharedViewState.", "kd-pipelines"
"""How a tag of an experiment begins that is a view of its runs, and that of the pipelines."""


def view(clause: str, order: str, columns: Sequence[str], *, ascending: bool) -> str:
    """A view of runs as MLflow's pages keep them: which runs, in which order, with what beside."""
    return json.dumps(
        {
            "searchFilter": clause,
            "orderByKey": order,
            "orderByAsc": ascending,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "modelVersionFilter": "All Runs",
            "selectedColumns": [
                f"{'tags' if name[:3] == 'kd.' else 'metrics'}.`{name}`" for name in columns
            ],
        }
    )


OF_PIPELINES = (
    *("kd.decision", "registered_test_accuracy", "ensemble_test_accuracy"),
    *("baseline_test_accuracy", "boosting_test_accuracy", "registered_test_log_loss"),
    "compression_ratio",
)
OF_MODELS = (
    *("kd.kind", "kd.registered", "test_log_loss", "test_accuracy", "test_agreement"),
    "parameters",
)
"""Tags and metrics in a list of pipelines, and in one of a comparison's students and baselines."""

INTRODUCTION = {
    "mlflow.note.content": "Ensembles of tables and the students that learn from them. A pipeline "
    "holds its teachers, its comparison (the artifact report.html first) and the gate's decision.",
    VIEW + PIPELINES: view(
        "tags.`kd.kind` = 'pipeline'", "attributes.start_time", OF_PIPELINES, ascending=False
    ),
}
"""Tags of the experiment: its description, and a view of its pipelines."""

ATTACHED = "kd.attached"
"""A parameter of MLFLOW_RUN_ID's run: somebody uses it already."""


class Tracker:
    """The current store and experiment; opens runs and closes what it opened.

    Under ``mlflow run`` the first run opened is the one that MLflow made (MLFLOW_RUN_ID); later
    ones, of this or any other tracker or process, are new runs in its experiment. What is written
    waits for the store, ``patience_s`` at most. Raises StoreError where the store gives no sign of
    life to begin with.
    """

    def __init__(self, patience_s: float = failures.SHORT_S) -> None:
        check_stores()
        self._given_run_id = os.environ.get("MLFLOW_RUN_ID")
        self._experiment: str | None = None
        self.patience = failures.Patience(patience_s)

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client; its first use makes a store that is a new file."""
        return open_client()

    @property
    def experiment_id(self) -> str:
        """The experiment that runs are opened in; made where it is missing."""
        if self._known_experiment() is None:
            try:
                self._experiment = str(self.client.create_experiment(_experiment_name()))
            except MlflowException:
                if self._known_experiment() is None:  # no other process has made it meanwhile
                    raise
        return str(self._experiment)

    def _known_experiment(self) -> str | None:
        """The experiment, where it is there already.  Raises RunError where it is deleted."""
        if self._experiment is None and self._given_run_id:
            self._experiment = str(self._given_run(self._given_run_id).info.experiment_id)
        if self._experiment is None:
            self._experiment = os.environ.get("MLFLOW_EXPERIMENT_ID") or None
        if self._experiment is None:
            name = _experiment_name()
            found = self.client.get_experiment_by_name(name)
            if found is not None and found.lifecycle_stage != "active":
                way_out = "restore it, or set MLFLOW_EXPERIMENT_NAME"
                raise RunError(f"experiment {name!r} is deleted; {way_out}")
            self._experiment = found and str(found.experiment_id)
        return self._experiment

    def _given_run(self, run_id: str) -> Run:
        """The run of MLFLOW_RUN_ID.  Raises RunError where it is missing or deleted."""
        try:
            run = self.get(run_id)
        except RunError as error:
            raise RunError(f"{error}; unset MLFLOW_RUN_ID") from None
        if run.info.lifecycle_stage != "active":
            raise RunError(f"run {run_id!r} is deleted; restore it, or unset MLFLOW_RUN_ID")
        return run

    @property
    def attaches(self) -> bool:
        """Whether the next run opened is one that ``mlflow run`` made."""
        given = self._given_run_id
        return given is not None and ATTACHED not in self._given_run(given).data.params

    def _attach(self) -> Run | None:
        """The run of MLFLOW_RUN_ID, where nobody attached: a parameter takes no second value."""
        if not self.attaches:
            return None
        given = str(self._given_run_id)
        try:
            self.client.log_batch(given, params=[Param(ATTACHED, uuid.uuid4().hex)])
        except MlflowException:
            if self.attaches:
                raise
            return None
        self.client.update_run(given, status="RUNNING")
        return self.get(given)

    @contextmanager
    def run(
        self, kind: str, name: str, *, parent: TrackedRun | None = None, opened: str | None = None
    ) -> Iterator[TrackedRun]:
        """Open a run of a kind; it ends FINISHED, FAILED on an error, KILLED on an interrupt."""
        run = self.open(kind, name, parent=parent, opened=opened)
        with self._ended([run]), system_metrics(run, kind):
            yield run

    @contextmanager
    def children(
        self, kind: str, names: Sequence[str], *, parent: TrackedRun
    ) -> Iterator[list[TrackedRun]]:
        """Open one run per name below ``parent``; all end as the block ends."""
        runs: list[TrackedRun] = []
        with self._ended(runs, links=False):
            for name in names:
                runs.append(self.open(kind, name, parent=parent))
            yield runs

    @contextmanager
    def _ended(self, runs: Sequence[TrackedRun], *, links: bool = True) -> Iterator[None]:
        """End all runs with the block, whether or not one of them cannot be ended.

        The block's own error is raised before the store's; it has a note on each run left RUNNING.
        """
        try:
            yield
        except BaseException as error:
            self.patience.hurry(error)
            interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
            self._end(runs, "KILLED" if interrupted else "FAILED", error, links=links)
            raise
        if failure := self._end(runs, "FINISHED", links=links):
            raise failure

    def _end(
        self,
        runs: Sequence[TrackedRun],
        status: str,
        error: BaseException | None = None,
        *,
        links: bool,
    ) -> BaseException | None:
        """End each run; the error, or the store's first one, gets a note on each left RUNNING."""
        shown = links and self.client.tracking_uri == failures.masked(self.client.tracking_uri)
        for run in runs:
            try:
                ended = partial(self.client.set_terminated, run.id, status, now_ms())
                with without_links(shown):
                    self.patience.make(ended)
            except StoreError as failure:  # the others are to be ended all the same
                error = error or failure
                error.add_note(f"run {run.id} is left RUNNING: {failure}")
        return error

    def open(
        self, kind: str, name: str, *, parent: TrackedRun | None = None, opened: str | None = None
    ) -> TrackedRun:
        """Open a run without closing it."""
        opened, begun = opened or uuid.uuid4().hex, now_ms()
        given = {"kd.kind": kind, **version_tags(), OPENED: opened}
        if self._given_run_id and not parent and (attached := self._attach()):
            run = self.opened(attached)
            run.log(tags=given)
            return run
        if parent:
            given["mlflow.parentRunId"] = parent.id
        given |= {"mlflow.user": getpass.getuser(), **source()}
        made = self.patience.make(
            lambda: self.client.create_run(self.experiment_id, begun, given, run_name=name),
            find=lambda: self._opened(opened),
        )
        return self.opened(made)

    def _opened(self, opened: str) -> Run | None:
        """The run with this tag ``kd.opened``, if the store has made it."""
        clause = f"tags.`{OPENED}` = '{opened}'"
        return next(iter(self.client.search_runs([self.experiment_id], clause)), None)

    @property
    def place(self) -> str:
        """The store and the experiment, where there is one, as a text."""
        return f"{self.client.tracking_uri} {self._known_experiment()}"

    def end_dead(self, opened: str) -> None:
        """End the run with this tag ``kd.opened``, if there is one: its process has died."""
        run = self._opened(opened) if self._known_experiment() is not None else None
        if run is not None and run.info.status == "RUNNING":
            self.client.set_terminated(run.info.run_id, "KILLED")

    def opened(self, run: Run) -> TrackedRun:
        """A run that is there already, to write to it."""
        return TrackedRun(self.client, self.patience, run.info.run_id, run.info.experiment_id)

    def introduce(self) -> None:
        """Give the experiment a description and a view of its pipelines, where it has none."""
        given = failures.absent_ok(lambda: self.client.get_experiment(self.experiment_id))
        for name, text in INTRODUCTION.items():
            if given is not None and name not in given.tags:
                write = partial(self.client.set_experiment_tag, self.experiment_id, name, text)
                self.patience.make(write)

    @property
    def pipelines_page(self) -> str | None:
        """The address of the saved view of the experiment's pipelines, if it has one."""
        return runs_page(self.client.tracking_uri, self.experiment_id, PIPELINES)

    def models_page(self, run: TrackedRun) -> str | None:
        """Save a view of the models below a run, least log loss first; its address, if any."""
        key, clause = f"kd-models-{run.id[:8]}", f"tags.`mlflow.parentRunId` = '{run.id}'"
        by_loss = view(clause, "metrics.`test_log_loss`", OF_MODELS, ascending=True)
        write = partial(self.client.set_experiment_tag, run.experiment_id, VIEW + key, by_loss)
        self.patience.make(write)
        return runs_page(self.client.tracking_uri, run.experiment_id, key)

    @failures.store_errors()
    def get(self, run_id: str) -> Run:
        """Read a run.  Raises RunError where the store has none of that id."""
        run = failures.absent_ok(lambda: self.client.get_run(run_id))
        if run is None:
            raise RunError(f"no run {run_id!r} in this tracking store")
        return run

    def newest(self, kind: str, **tags: str) -> list[Run]:
        """Finished runs of a kind with these ``kd.`` tags, newest first."""
        wanted = {"kind": kind, **tags}
        clauses = [f"tags.`kd.{key}` = '{value}'" for key, value in wanted.items()]
        clauses.append("attributes.status = 'FINISHED'")
        return self._search(" and ".join(clauses), "DESC", max_results=50)

    def children_of(self, run_id: str) -> list[Run]:
        """Runs directly below a run, in the order they were opened."""
        return self._search(f"tags.`mlflow.parentRunId` = '{run_id}'", "ASC", max_results=1000)

    def _search(self, clause: str, order: str, *, max_results: int) -> list[Run]:
        if (experiment := self._known_experiment()) is None:
            return []
        by = [f"attributes.start_time {order}"]
        found = self.client.search_runs([experiment], clause, max_results=max_results, order_by=by)
        return list(found)

    def download(self, run_id: str, path: str) -> Path:
        """Fetch an artifact folder.  Raises RunError where the run has none."""
        try:
            with failures.impatient(retries=failures.FETCH_RETRIES):
                return Path(self.client.download_artifacts(run_id, path, str(folder_till_exit())))
        except failures.FAILURES as error:
            failure = error
        except OSError as error:
            raise RunError(f"run {run_id} has no artifact {path!r}: {error}") from None
        # MLflow says "does not exist" of whatever went wrong on the way: ask what the run has
        what = f"the artifact {path!r} of run {run_id}"
        if failures.unreachable(failure):
            raise failures.fetch_error(failure, what) from None
        with failures.store_errors():
            listed = self.client.list_artifacts(run_id, path)
        if listed:
            raise failures.fetch_error(failure, what) from None
        raise RunError(f"run {run_id} has no artifact {path!r}") from None


def _experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", DEFAULT_EXPERIMENT)
