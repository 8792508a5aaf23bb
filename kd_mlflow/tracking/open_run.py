"""One open run, and what is written to it: parameters, metrics, tags, artifacts."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, LoggedModelInput, Metric, Param, Run, RunTag

PARAMS_A_BATCH = 100

NOTHING: Mapping[str, Any] = {}


class TrackedRun:
    """One open run: what is logged goes to it by its id, never to an ambient active run."""

    def __init__(self, client: MlflowClient, run: Run) -> None:
        self.client = client
        self.id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id

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
        metrics are that logged model's too.
        """
        now = _now_ms()
        given = {**tags, **({"mlflow.note.content": note} if note else {})}
        first, *more = _batched([Param(f"kd.{k}", str(v)) for k, v in params.items()])
        self.client.log_batch(
            self.id,
            metrics=[
                Metric(name, float(value), now, 0, model_id=model_id)
                for name, value in metrics.items()
            ],
            params=first,
            tags=[RunTag(name, value) for name, value in given.items()],
        )
        for batch in more:
            self.client.log_batch(self.id, params=batch)

    def data_set(self, entity: DatasetInput, *models: str) -> None:
        """Log the data set as an input of the run, and logged models by their ids."""
        inputs = [LoggedModelInput(model_id) for model_id in models]
        self.client.log_inputs(self.id, datasets=[entity], models=inputs or None)

    def document(self, content: Any, path: str) -> None:
        """Log a JSON document as an artifact."""
        self.client.log_dict(self.id, content, path)

    def file(self, content: bytes, path: str) -> None:
        """Log an artifact by its content."""
        *folders, name = path.split("/")
        self.folder(lambda f: f.joinpath(name).write_bytes(content), "/".join(folders) or None)

    def folder(self, write: Callable[[Path], object], path: str | None) -> None:
        """Log the files that ``write`` puts into an empty folder."""
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            self.client.log_artifacts(self.id, folder, path)


def point(name: str, value: float, epoch: int) -> Metric:
    """One value of a curve, taken now."""
    return Metric(name, value, _now_ms(), epoch)


def _batched(params: list[Param]) -> list[list[Param]]:
    """Parameters in the portions that one request takes; at least one portion."""
    ends = range(PARAMS_A_BATCH, len(params) + PARAMS_A_BATCH, PARAMS_A_BATCH)
    return [params[end - PARAMS_A_BATCH : end] for end in ends] or [[]]


def _now_ms() -> int:
    return int(time.time() * 1000)
