"""One open run, and what is written to it: parameters, metrics, tags, artifacts, models."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mlflow import MlflowClient, entities
from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT as NO_LINKS
from mlflow.models import Model

from kd_mlflow.local_state import scratch
from kd_mlflow.tracking.failures import Patience, absent_ok
from kd_mlflow.tracking.saved_model import MLMODEL

PARAMS_A_BATCH = 100

PARAM_LENGTH = 6000
"""Characters of a parameter's value (MAX_PARAM_VAL_LENGTH); the rest is cut."""

OPENED = "kd.opened"
"""A tag of runs and models, different for each: it finds them where the store's answer was lost."""

NOTHING: Mapping[str, Any] = {}


class Point(NamedTuple):
    """One value of a curve; ``time`` in milliseconds, ``epoch`` from 1."""

    name: str
    value: float
    time: int
    epoch: int


class TrackedRun:
    """One open run: what is logged goes to it by its id, never to an ambient active run.

    Whatever is written waits for the store, as long as the run's patience.
    """

    def __init__(
        self, client: MlflowClient, patience: Patience, run_id: str, experiment_id: str
    ) -> None:
        self.client, self.patience = client, patience
        self.id, self.experiment_id = run_id, experiment_id
        self._dataset: tuple[str, str] | tuple[None, None] = (None, None)

    def log(
        self,
        *,
        params: Mapping[str, object] = NOTHING,
        metrics: Mapping[str, float] = NOTHING,
        tags: Mapping[str, str] = NOTHING,
        note: str = "",
        model_id: str | None = None,
    ) -> None:
        """Log, in one request: parameters (under the prefix ``kd.``), final metrics, tags.

        ``note`` is the description that the UI shows on the run's page; with ``model_id`` the
        metrics are that logged model's too, on the data set of the run.
        """
        now, data = now_ms(), self._dataset
        given = {**tags, **({"mlflow.note.content": note} if note else {})}
        all_params = [
            entities.Param(f"kd.{name}", str(v)[:PARAM_LENGTH]) for name, v in params.items()
        ]
        starts = range(0, max(1, len(all_params)), PARAMS_A_BATCH)
        first, *more = (all_params[start : start + PARAMS_A_BATCH] for start in starts)
        values = [
            entities.Metric(name, float(value), now, 0, model_id, *data)
            for name, value in metrics.items()
        ]
        named = [entities.RunTag(name, value) for name, value in given.items()]
        self._batch(metrics=values, params=first, tags=named)
        for batch in more:
            self._batch(params=batch)

    def curves(self, points: Sequence[Point]) -> None:
        """Log values of curves, as many as one request takes."""
        self._batch(metrics=[entities.Metric(*point) for point in points])

    def _batch(self, **given: Any) -> None:
        self.patience.make(partial(self.client.log_batch, self.id, **given))

    def data_set(self, entity: entities.DatasetInput, *models: str) -> None:
        """Log the data set as an input of the run, and logged models by their ids."""
        self._dataset = entity.dataset.name, entity.dataset.digest
        inputs = [entities.LoggedModelInput(model_id) for model_id in models] or None
        self.patience.make(
            partial(self.client.log_inputs, self.id, datasets=[entity], models=inputs),
            find=lambda: self._linked(entity.dataset.digest),
        )

    def files(self, contents: Mapping[str, Any]) -> None:
        """Log artifacts by their paths: bytes as they are, anything else as JSON."""

        def write(folder: Path) -> None:
            for path, content in contents.items():
                if not isinstance(content, bytes):
                    content = json.dumps(content, indent=2, default=str).encode()
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)

        self.folder(write)

    def folder(self, write: Callable[[Path], object], path: str | None = None) -> None:
        """Log the files that ``write`` puts into an empty folder."""
        with _filled(write) as folder:
            self.patience.make(partial(self.client.log_artifacts, self.id, str(folder), path))

    def model(self, write: Callable[[Path], object], *, name: str, params: dict[str, str]) -> str:
        """Log the model that ``write`` puts into an empty folder; return its id."""
        opened = uuid.uuid4().hex
        create = partial(
            self.client.create_logged_model,
            self.experiment_id,
            name=name,
            source_run_id=self.id,
            tags={OPENED: opened},
            params=params,
            model_type="classifier",
        )
        clause = f"tags.`{OPENED}` = '{opened}'"
        search = partial(self.client.search_logged_models, [self.experiment_id], clause)
        with _filled(write) as folder:
            made = self.patience.make(create, find=lambda: next(iter(search()), None))
            model_id = str(made.model_id)
            saved = Model.load(str(folder / MLMODEL))
            saved.artifact_path, saved.run_id = made.artifact_location, self.id
            saved.model_id = saved.model_uuid = model_id
            saved.model_size_bytes = None  # it was taken before the other flavours were written
            saved.save(str(folder / MLMODEL))
            self.patience.make(
                lambda: self.client.log_outputs(
                    self.id, [entities.LoggedModelOutput(model_id, step=0)]
                ),
                find=lambda: self._linked(model_id),
            )
            self.patience.make(lambda: self.client.log_model_artifacts(model_id, str(folder)))
        self.patience.make(lambda: self.client.finalize_logged_model(model_id, "READY"))
        return model_id

    def _linked(self, name: str) -> bool | None:
        """Whether the run has a data set of a digest, or has made a model of an id; else None."""
        run = self.client.get_run(self.id)
        digests = [one.dataset.digest for one in run.inputs.dataset_inputs]
        models = [one.model_id for one in run.outputs.model_outputs] if run.outputs else []
        return name in (*digests, *models) or None

    def supersede(self, run_id: str) -> bool:
        """Tag a run whose training this one takes up, and what is unfinished below it.

        They get ``kd.superseded_by``, and end KILLED where nobody ended them. A finished
        run stays as it is; so does a deleted one, or one of another store. Returns whether there is
        one.
        """
        return self.patience.make(lambda: _superseded(self.client, run_id, self.id))


def _superseded(client: MlflowClient, run_id: str, by: str) -> bool:
    run = absent_ok(lambda: client.get_run(run_id))
    if run is None or run.info.lifecycle_stage != "active" or run.info.status == "FINISHED":
        return False
    clause = f"tags.`mlflow.parentRunId` = '{run_id}'"
    for child in client.search_runs([run.info.experiment_id], clause, max_results=1000):
        _superseded(client, child.info.run_id, by)
    client.set_tag(run_id, "kd.superseded_by", by)
    if run.info.status == "RUNNING":
        with without_links():
            client.set_terminated(run_id, status="KILLED")
    return True


@contextmanager
def without_links(links: bool = False) -> Iterator[None]:
    """A server's client prints a link to each run it ends: dozens would bury the closing table."""
    given = NO_LINKS.get()
    NO_LINKS.set(given or not links)
    try:
        yield
    finally:
        NO_LINKS.set(given)


@contextmanager
def _filled(write: Callable[[Path], object]) -> Iterator[Path]:
    """A folder that ``write`` has filled, for as long as the block."""
    with scratch() as around:
        folder = around / "files"
        folder.mkdir()
        write(folder)
        yield folder


def now_ms() -> int:
    """Milliseconds, as MLflow counts time."""
    return int(time.time() * 1000)
