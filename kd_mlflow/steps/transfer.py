"""A promotion onto the registry of another server; here nothing is written."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kd_mlflow.config.entry_points import PromoteConfig
from kd_mlflow.errors import RegistryError
from kd_mlflow.local_state import scratch
from kd_mlflow.models.processes import CleanProcess
from kd_mlflow.registry import copies, versions
from kd_mlflow.registry.records import named
from kd_mlflow.registry.versions import CONTENT, ModelVersion
from kd_mlflow.report.decision import Decision
from kd_mlflow.steps.decisions import answered, decision_run, promote_step, settle_step
from kd_mlflow.steps.examine import Submitted, dataset_of, examine, identity_of
from kd_mlflow.tracking.failures import absent_ok, masked
from kd_mlflow.tracking.open_run import OPENED
from kd_mlflow.tracking.runs import ATTACHED, Run, Tracker
from kd_mlflow.tracking.saved_model import STAMP, files_digest
from kd_mlflow.tracking.store import on_server

OF_ONE_SERVER = {OPENED, "kd.fingerprint"}
"""Tags of a distill run that its copy has not: by them runs are found again."""


class Parcel(NamedTuple):
    """A version, its distill run, and the files of both in folders; the digest of the version's."""

    version: ModelVersion
    run: Run
    model: Path
    files: Path
    digest: str


def transfer_step(config: PromoteConfig, tracker: Tracker) -> Decision:
    """Copy a version to the server of ``to_uri``, gate it there and move production there.

    Raises RegistryError where that is the same server, or the copy is in production already.
    """
    name, uri = config.model_name, config.to_uri
    there = replace(config, model_name=config.to or name, to_uri=masked(uri))
    with on_server(uri):
        Tracker()  # whether it answers, before anything is fetched
    version = copies.find_original(tracker.client, name, config.version)
    _check_other(version, uri)
    run = versions.distill_run_of(tracker, version)
    data = dataset_of(run, config.data)
    with scratch() as folder, CleanProcess() as clean:
        if config.dry_run:
            candidate = examine(config, Submitted(version, run, data), tracker, clean=clean)
            with on_server(uri):
                return answered(there, candidate, Tracker(), moves_it=False)[0]
        model = versions.pull(version, folder)
        files = tracker.download(run.info.run_id, "")
        parcel = Parcel(version, run, model, files, files_digest(model))
        with on_server(uri):
            other = Tracker()
            copy = _delivered(other, parcel, there)
            settle_step(there.model_name, other)
            submitted = Submitted(copy, versions.distill_run_of(other, copy), data)
            return promote_step(there, submitted, other, clean=clean)


def _check_other(version: ModelVersion, uri: str) -> None:
    """Raise RegistryError where a server is the one in use, under whatever address."""
    source = str(version.source)
    with on_server(uri):
        client = Tracker().client
        run_id = str(version.run_id or version.tags.get("kd.run_id"))
        if absent_ok(partial(client.get_run, run_id)) is not None:
            raise RegistryError(
                f"{masked(uri)} has run {run_id} of {named(version)} already: it is the server in "
                f"use, or a copy of it ({source}); leave to_uri out, and name another registered "
                "model in to"
            )


def _delivered(other: Tracker, parcel: Parcel, config: PromoteConfig) -> ModelVersion:
    """The copy of a version on another server: the one that is there, or a new one.

    Its run logs what the distill run has logged.
    """
    name, original = config.model_name, parcel.version
    mark = f"version {original.version} of {original.name}, files {parcel.digest}"
    found = copies.found_copy(
        other.client, name, original, lambda each: each.tags.get(copies.COPIED_FROM) == mark
    )
    if found is not None:
        return found
    data = parcel.run.data
    params = {n: v for n, v in data.params.items() if n.startswith("kd.") and n != ATTACHED}
    tags = {n: v for n, v in data.tags.items() if n.startswith("kd.") and n not in OF_ONE_SERVER}
    with decision_run(other, "distill", str(parcel.run.info.run_name)) as run:
        run.log(
            params={param.removeprefix("kd."): value for param, value in params.items()},
            metrics=data.metrics,
            tags=tags,
            note=data.tags.get("mlflow.note.content", ""),
        )
        for each in parcel.run.inputs.dataset_inputs:
            run.data_set(each)
        run.folder(partial(_copy, parcel.files))
        number = versions.register(
            run,
            model_name=name,
            model_id=run.model(partial(_copy, parcel.model), name="student", params={}),
            target=original.tags.get("kd.target", ""),
            identity=identity_of(parcel.run),
            content=original.tags.get(CONTENT, parcel.digest),
            card=original.description or "",
        )
        run.log(tags={copies.COPIED_FROM: mark})
        other.client.set_model_version_tag(name, number, copies.COPIED_FROM, mark)
    return other.client.get_model_version(name, number)


def _copy(origin: Path, folder: Path) -> None:
    shutil.copytree(origin, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(STAMP))
