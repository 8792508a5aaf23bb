"""One open run, and what is written to it: parameters, metrics, tags, artifacts."""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlflow.entities import DatasetInput

from kd_mlflow.table.dataset import Identity
from kd_mlflow.tracking.journal import Journal
from kd_mlflow.tracking.operations import Operation

PARAMS_A_BATCH = 100

NOTHING: Mapping[str, Any] = {}


class Point(NamedTuple):
    """One value of a curve; ``time`` in milliseconds, ``epoch`` from 1."""

    name: str
    value: float
    time: int
    epoch: int


class TrackedRun:
    """One open run: what is logged goes to it by its id, never to an ambient active run.

    ``provisional``: its store has not made it yet, and will give it another id.
    """

    def __init__(
        self, journal: Journal, run_id: str, experiment_id: str, *, provisional: bool = False
    ) -> None:
        self.journal, self.id, self.experiment_id = journal, run_id, experiment_id
        self.provisional = provisional

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
        now = now_ms()
        given = {**tags, **({"mlflow.note.content": note} if note else {})}
        first, *more = _batched([(f"kd.{name}", str(v)) for name, v in params.items()])
        self._make(
            "batch",
            metrics=[(name, float(value), now, 0, model_id) for name, value in metrics.items()],
            params=first,
            tags=list(given.items()),
        )
        for batch in more:
            self._make("batch", params=batch)

    def curves(self, points: Sequence[Point]) -> None:
        """Log values of curves, as many as one request takes."""
        self._make("batch", metrics=[(*point, None) for point in points])

    def data_set(self, entity: DatasetInput, *models: str) -> None:
        """Log the data set as an input of the run, and logged models by their ids."""
        tags = [(tag.key, tag.value) for tag in entity.tags]
        self._make("inputs", dataset=dict(entity.dataset), tags=tags, models=models)

    def document(self, content: Any, path: str) -> None:
        """Log a JSON document as an artifact."""
        self.file(json.dumps(content, indent=2, default=str).encode(), path)

    def file(self, content: bytes, path: str) -> None:
        """Log an artifact by its content."""
        *folders, name = path.split("/")
        self.folder(lambda f: f.joinpath(name).write_bytes(content), "/".join(folders) or None)

    def folder(self, write: Callable[[Path], object], path: str | None) -> None:
        """Log the files that ``write`` puts into an empty folder."""
        self._make_of_files("files", write, path=path)

    def model(self, write: Callable[[Path], object], *, name: str, params: dict[str, str]) -> str:
        """Log the model that ``write`` puts into an empty folder; return its id."""
        return self._make_of_files(
            "model", write, experiment_id=self.experiment_id, name=name, params=params
        )

    def register(
        self, *, model_name: str, model_id: str, target: str, identity: Identity, card: str
    ) -> str:
        """Make a logged model the next version and the candidate; return the version.

        It is empty where the store makes it later.
        """
        return self._make(
            "register",
            model_name=model_name,
            model_id=model_id,
            target=target,
            identity=identity._asdict(),
            card=card,
        )

    def supersede(self, run_id: str) -> bool:
        """Mark a run whose training this one takes up, and what is unfinished below it.

        They get the tag ``kd.superseded_by``, and end KILLED where nobody ended them. A finished
        run stays as it is; so does one of another store. Returns whether there is one.
        """
        given = {"run": run_id, "by": self.id}
        return bool(self.journal.make(Operation(name="supersede", arguments=given)))

    def _make(
        self, kind: str, *, folder: Path | None = None, id: str = "", **arguments: Any
    ) -> str:
        given = {"run": self.id, **arguments}
        return self.journal.make(Operation(name=kind, arguments=given, id=id, folder=folder))

    def _make_of_files(self, kind: str, write: Callable[[Path], object], **arguments: Any) -> str:
        """Make an operation of the files that ``write`` puts into an empty folder."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as around:
            folder = Path(around) / "files"
            folder.mkdir()
            write(folder)
            return self._make(kind, folder=folder, id=uuid.uuid4().hex, **arguments)


def _batched(params: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Parameters in the portions that one request takes; at least one portion."""
    ends = range(PARAMS_A_BATCH, len(params) + PARAMS_A_BATCH, PARAMS_A_BATCH)
    return [params[end - PARAMS_A_BATCH : end] for end in ends] or [[]]


def now_ms() -> int:
    """Milliseconds, as MLflow counts time."""
    return int(time.time() * 1000)
