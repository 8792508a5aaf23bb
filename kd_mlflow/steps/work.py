"""What a step has at hand: options, table, tracker, its run, its checkpoints, and who listens."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from kd_mlflow.config.groups import WorkerOptions
from kd_mlflow.distillation.families import Trainable
from kd_mlflow.errors import StoreError
from kd_mlflow.local_state import KEPT_DAYS, held, remove_dead, state_folder
from kd_mlflow.population.checkpoints import NOWHERE, Checkpoints, whole_file
from kd_mlflow.population.history import OnEpoch, ignore_epoch
from kd_mlflow.population.workers import Workers
from kd_mlflow.report.closing import Page
from kd_mlflow.report.markdown import one_line
from kd_mlflow.table.columns import columns_document
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.tracking.curves import CurveWriter
from kd_mlflow.tracking.failures import stores_in_use
from kd_mlflow.tracking.open_run import TrackedRun
from kd_mlflow.tracking.provenance import data_set_input
from kd_mlflow.tracking.runs import Tracker
from kd_mlflow.tracking.store import run_page, ui_command

REPORT = "report.html"
"""The page to read before a student is approved, beside every comparison."""

RUN_NAME_LENGTH = 250
"""Characters of a run's name: MLflow's column, ``SqlRun.name``; a file's name may have 255."""

OnRows = Callable[[int], None]
"""Takes how many more rows of a table are done."""

C = TypeVar("C", bound=WorkerOptions)
T = TypeVar("T")

_log = logging.getLogger(__name__)


class Listener:
    """Hears how the work goes on; this one drops what it hears."""

    def say(self, text: str) -> None:
        """Take one line."""

    def training(self, label: str, members: int, epochs: int) -> AbstractContextManager[OnEpoch]:
        """Follow a training; the block gets a function that takes each epoch's metrics."""
        return nullcontext(ignore_epoch)

    def rows(self, label: str, total: int) -> AbstractContextManager[OnRows]:
        """Follow rows; the block gets a function that takes how many more are done."""
        return nullcontext(lambda rows: None)


@dataclass(frozen=True, kw_only=True)
class Session:
    """What the steps of a command share: table, store, who listens, the run above theirs."""

    dataset: Dataset
    tracker: Tracker
    listener: Listener
    parent: TrackedRun | None = None


@dataclass(frozen=True, kw_only=True)
class Work(Session, Generic[C]):
    """A step that trains, while its run is open; what it logs carries its ``fingerprint``."""

    config: C
    run: TrackedRun
    fingerprint: str
    checkpoints: Checkpoints = NOWHERE
    times: dict[str, float] = field(default_factory=dict)
    """Seconds that each training took, by its label."""

    @property
    def below(self) -> Session:
        """What steps whose runs are below this one's share."""
        return Session(
            dataset=self.dataset, tracker=self.tracker, listener=self.listener, parent=self.run
        )

    def children(self, kind: str, names: Sequence[str]) -> AbstractContextManager[list[TrackedRun]]:
        """Open one run per name below this one; all end as the block ends."""
        return self.tracker.children(kind, names, parent=self.run)

    def describe(self, run: TrackedRun | None = None, *, note: str = "", **own: object) -> None:
        """Log what every run has: configuration, fingerprint, data set; parameters of its ``own``.

        ``run`` is one below this one's, None this one. ``note`` is left out where the description
        needs metrics that are not known yet.
        """
        run, table, split = run or self.run, self.dataset.table, self.dataset.split
        sides = {f"{name}_rows": len(rows) for name, rows in vars(split).items()}
        params = {**self.config.as_text(), "data": table.source, **sides, **own}
        digests = {"fingerprint": self.fingerprint, **self.dataset.identity._asdict()}
        run.log(
            params=params,
            tags={f"kd.{name}": digest for name, digest in digests.items()},
            note=note,
        )
        run.data_set(data_set_input(table, table.digest, split))

    def log_table(self) -> None:
        """Log rows per class on each side of the split, and how each column was read."""
        table = self.dataset.table
        balance, columns = self.dataset.split.balance(table), columns_document(table.columns)
        self.run.files({"class_balance.json": balance, "columns.json": columns})

    def fit(self, training: Trainable[T], label: str, runs: Sequence[TrackedRun] = ()) -> T:
        """Train; checkpoints are kept by the label, curves go to the runs and to the listener."""
        with ExitStack() as followed:
            hear: list[OnEpoch] = []
            if runs:
                hear.append(followed.enter_context(CurveWriter(runs)).on_epoch)
            members, epochs = len(training.seeds), training.epochs
            shown = self.listener.training(label, members, epochs)
            hear.append(followed.enter_context(shown))

            def on_epoch(some: slice, epoch: int, values: dict[str, NDArray[np.float64]]) -> None:
                for each in hear:
                    each(some, epoch, values)

            start = time.perf_counter()
            trained = training.fit(workers_of(self.config), on_epoch, self.checkpoints.below(label))
            self.times[label] = time.perf_counter() - start
            return trained

    def take_up(self) -> None:
        """Note who trains now; mark the dead runs that began this before as superseded by it."""
        if self.checkpoints.folder is None:
            return
        path = self.checkpoints.folder / "runs.json"
        try:
            noted = json.loads(path.read_text(encoding="utf-8"))
            before = [str(run_id) for run_id in noted if run_id != self.run.id]
        except (OSError, ValueError):
            before = []
        superseded = [run_id for run_id in before if self.run.supersede(run_id)]
        if superseded:
            self.run.log(tags={"kd.resumed_from": superseded[-1]})
            self.listener.say(f"takes up run {superseded[-1]}, which was interrupted")
        try:
            with whole_file(path) as file:
                file.write(json.dumps([*before, self.run.id]).encode())
        except OSError as error:
            _log.warning("runs of an interrupted training will not be marked: %s", error)


def page_of(tracker: Tracker, run: TrackedRun, file: str = "") -> Page:
    """Where a run, or a file of it, is shown."""
    address = run_page(tracker.client.tracking_uri, run.experiment_id, run.id, file)
    return Page(address, ui_command(stores_in_use()))


def workers_of(options: WorkerOptions) -> Workers:
    """The workers that options name."""
    return Workers(count=options.workers, dask_scheduler=options.dask_scheduler)


@contextmanager
def begun(step: str, config: C, session: Session, fingerprint: str) -> Iterator[Work[C]]:
    """Open a step's run, and go on from where an interrupted one of the same fingerprint ended."""
    named = [getattr(config, name, None) for name in ("model_name", "recipe")]
    words = " ".join([step, *filter(None, named)])
    name = one_line(f"{words}, {session.dataset.table.name}", RUN_NAME_LENGTH)
    with (
        held_checkpoints(config, fingerprint, session.listener) as checkpoints,
        session.tracker.run(step, name, parent=session.parent) as run,
    ):
        shared = vars(session) | {"fingerprint": fingerprint, "checkpoints": checkpoints}
        work = Work(**shared, config=config, run=run)
        work.take_up()
        yield work


@contextmanager
def held_checkpoints(
    options: WorkerOptions, fingerprint: str, listener: Listener
) -> Iterator[Checkpoints]:
    """Hold the checkpoints of a fingerprint; they are removed when the block ends without an error.

    Where another process holds them, or nothing can be written, the block does without. A failure
    of the store says that the same command goes on from them.
    """
    if not options.checkpoint_seconds:
        yield NOWHERE
        return
    folder = state_folder("checkpoints") / fingerprint
    with ExitStack() as holding:
        try:
            remove_dead(folder.parent, days=KEPT_DAYS)
            ours = holding.enter_context(held(folder))
        except OSError as error:
            _log.warning("this training keeps no checkpoints: %s", error)
            yield NOWHERE
            return
        if not ours:
            listener.say("the same is trained by another process: this one keeps no checkpoints")
            yield NOWHERE
            return
        try:
            yield Checkpoints(folder=folder, every_s=options.checkpoint_seconds)
        except StoreError as error:
            if not any(folder.rglob("*.npz")):
                raise
            line = f"{error}; the same command goes on from its checkpoints"
            raise StoreError(line, unreachable=error.unreachable) from error
        shutil.rmtree(folder, ignore_errors=True)


def run_names(name: str, k: int) -> list[str]:
    """Run names: teacher-01, teacher-02 ..."""
    return [f"{name}-{i:02d}" for i in range(1, k + 1)]
