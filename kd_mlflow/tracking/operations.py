"""What is asked of a store, as data that can wait and outlive the process.

Each operation can be made again when nobody knows whether it was made: what it makes carries the
operation's own id as the tag ``kd.opened`` and is looked for, and all else overwrites itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelInput,
    Metric,
    Param,
    RunStatus,
    RunTag,
)
from mlflow.models import Model

from kd_mlflow.table.dataset import Identity
from kd_mlflow.tracking import registry, saved_model
from kd_mlflow.tracking.store import absent_ok, without_links

OPENED = "kd.opened"
"""A tag of runs and models: the id of the operation that made them."""

SUPERSEDED = "kd.superseded_by"
"""A tag of an interrupted run: the one that took its training up again."""

TEXTS = (".json", ".html", ".md", ".txt", ".yaml", ".yml")
"""Files that may name runs and models by their ids."""

Arguments = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One request, or a few that belong together, to a store.

    ``arguments`` are what JSON can say; ``folder`` holds the files that go with it. ``id`` names
    what it makes, a run or a model, until the store has given that its own.
    """

    name: str
    arguments: Arguments
    id: str = ""
    folder: Path | None = None

    def with_ids(self, known: Mapping[str, str]) -> Operation:
        """The same with the store's ids in the place of those that stood for them.

        Files are rewritten where they lie.
        """
        if not known:
            return self
        for path in self.folder.rglob("*") if self.folder else ():
            if path.suffix in TEXTS or path.name == "MLmodel":
                before = path.read_text(encoding="utf-8")
                if (after := replaced(before, known)) != before:
                    path.write_text(after, encoding="utf-8")
        arguments = json.loads(replaced(json.dumps(self.arguments), known))
        return Operation(name=self.name, arguments=arguments, id=self.id, folder=self.folder)


def replaced(text: str, known: Mapping[str, str]) -> str:
    """A text with one set of ids in the place of another."""
    for own, theirs in known.items():
        text = text.replace(own, theirs)
    return text


def perform(client: MlflowClient, operation: Operation, *, again: bool) -> str:
    """Make an operation; return the store's id of what it made, or nothing.

    ``again``: nobody knows whether it was made before.
    """
    return PERFORMERS[operation.name](client, operation, again)


def _open_run(client: MlflowClient, operation: Operation, again: bool) -> str:
    given = operation.arguments
    if again:
        clause = f"tags.`{OPENED}` = '{operation.id}'"
        for run in client.search_runs([given["experiment_id"]], clause, max_results=1):
            return str(run.info.run_id)
    created = client.create_run(
        given["experiment_id"],
        start_time=given["start_time"],
        tags={**given["tags"], OPENED: operation.id},
        run_name=given["name"],
    )
    return str(created.info.run_id)


def _batch(client: MlflowClient, operation: Operation, again: bool) -> str:
    given = operation.arguments
    client.log_batch(
        given["run"],
        metrics=[
            Metric(name, value, time, step, model_id=model_id)
            for name, value, time, step, model_id in given.get("metrics", ())
        ],
        params=[Param(name, value) for name, value in given.get("params", ())],
        tags=[RunTag(name, value) for name, value in given.get("tags", ())],
    )
    return ""


def _inputs(client: MlflowClient, operation: Operation, again: bool) -> str:
    given = operation.arguments
    tags = [InputTag(name, value) for name, value in given["tags"]]
    client.log_inputs(
        given["run"],
        datasets=[DatasetInput(Dataset(**given["dataset"]), tags)],
        models=[LoggedModelInput(model_id) for model_id in given["models"]] or None,
    )
    return ""


def _files(client: MlflowClient, operation: Operation, again: bool) -> str:
    given = operation.arguments
    client.log_artifacts(given["run"], str(operation.folder), given["path"])
    return ""


def _end(client: MlflowClient, operation: Operation, again: bool) -> str:
    given = operation.arguments
    with without_links(given["links"]):
        client.set_terminated(given["run"], status=given["status"], end_time=given["end_time"])
    return ""


def _supersede(client: MlflowClient, operation: Operation, again: bool) -> str:
    return "yes" if _mark(client, operation.arguments["run"], operation.arguments["by"]) else ""


def _mark(client: MlflowClient, run_id: str, by: str) -> bool:
    """Mark a run that is dead, and what is unfinished below it; whether there is one."""
    run = absent_ok(lambda: client.get_run(run_id))
    if run is None or run.info.status == RunStatus.to_string(RunStatus.FINISHED):
        return False
    clause = f"tags.`mlflow.parentRunId` = '{run_id}'"
    for child in client.search_runs([run.info.experiment_id], clause, max_results=1000):
        _mark(client, child.info.run_id, by)
    client.set_tag(run_id, SUPERSEDED, by)
    if run.info.status == RunStatus.to_string(RunStatus.RUNNING):
        with without_links(False):
            client.set_terminated(run_id, status="KILLED")
    return True


def _model(client: MlflowClient, operation: Operation, again: bool) -> str:
    given = operation.arguments
    found = None
    if again:
        clause = f"tags.`{OPENED}` = '{operation.id}'"
        found = next(iter(client.search_logged_models([given["experiment_id"]], clause)), None)
    model = found or client.create_logged_model(
        given["experiment_id"],
        name=given["name"],
        source_run_id=given["run"],
        tags={OPENED: operation.id},
        params=given["params"],
        model_type="classifier",
    )
    Model.log(
        artifact_path=None,
        model_id=model.model_id,
        flavor=saved_model,
        run_id=given["run"],
        folder=operation.folder,
    )
    return str(model.model_id)


def _register(client: MlflowClient, operation: Operation, again: bool) -> str:
    given = operation.arguments
    name, model_id = given["model_name"], given["model_id"]
    if again:
        for version in client.search_model_versions(f"name='{name}'"):
            if version.source == f"models:/{model_id}":
                return registry.make_candidate(client, name, str(version.version), model_id)
    return registry.register(
        client,
        model_name=name,
        model_id=model_id,
        run_id=given["run"],
        target=given["target"],
        identity=Identity(**given["identity"]),
        card=given["card"],
    )


Performer = Callable[[MlflowClient, Operation, bool], str]

PERFORMERS: dict[str, Performer] = {
    "open_run": _open_run,
    "batch": _batch,
    "inputs": _inputs,
    "files": _files,
    "end": _end,
    "supersede": _supersede,
    "model": _model,
    "register": _register,
}
"""What each kind of operation does.  Raises what MLflow raises."""
