"""Registered versions: made, found, loaded. Aliases, never stages."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion as ModelVersion  # for steps, as a type
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from kd_mlflow.config.groups import RegistryOptions
from kd_mlflow.errors import RegistryError, RunError, first_line
from kd_mlflow.local_state import folder_till_exit, scratch
from kd_mlflow.registry.lock import alias_of, find_model, known_model, known_models
from kd_mlflow.registry.moves import CANDIDATE, PREVIOUS, PRODUCTION, periods
from kd_mlflow.registry.records import FILES, NUMBER, RUN_ID, address, every_version, named, outcome
from kd_mlflow.table.dataset import Identity
from kd_mlflow.tracking.failures import (
    FETCH_RETRIES,
    absent_ok,
    fetch_error,
    impatient,
    masked,
    unreachable,
)
from kd_mlflow.tracking.open_run import TrackedRun
from kd_mlflow.tracking.runs import Run, Tracker
from kd_mlflow.tracking.saved_model import MLMODEL, files_digest, without_caches

_log = logging.getLogger(__name__)

CONTENT = "kd.content_digest"
"""Tag of a version: equal where two versions score alike, bit for bit."""


def register(
    run: TrackedRun,
    *,
    model_name: str,
    model_id: str,
    target: str,
    identity: Identity,
    content: str,
    card: str,
) -> str:
    """Make a logged model of a run the next version and the candidate; return the version.

    The version says what it predicts, what it was trained on, and whether an earlier one has the
    same ``content``: a digest of all that it scores with.
    """
    client, make, source = run.client, run.patience.make, f"models:/{model_id}"

    def made() -> ModelVersion | None:
        found = client.search_model_versions(f"name='{model_name}'")
        return next((one for one in found if one.source == source), None)

    make(lambda: _make_model(client, model_name))
    created = make(
        lambda: client.create_model_version(
            model_name,
            source=source,
            run_id=run.id,
            model_id=model_id,
            description=card,
            tags={
                "kd.promotion": "pending",
                "kd.run_id": run.id,
                "kd.target": target,
                "kd.data_digest": identity.data_digest,
                "kd.split": identity.split,
                CONTENT: content,
            },
        ),
        find=made,
    )
    number = str(created.version)
    make(lambda: _say_if_same(client, model_name, number, content))
    make(lambda: _make_candidate(client, model_name, number, model_id))
    return number


def _make_model(client: MlflowClient, model_name: str) -> None:
    """Make a registered model, unless there is one of that name."""
    try:
        client.create_registered_model(model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _say_if_same(client: MlflowClient, model_name: str, version: str, content: str) -> None:
    """Tag a version that an earlier one is equal to, and say so."""
    alike = client.search_model_versions(f"name='{model_name}' and tags.`{CONTENT}`='{content}'")
    earlier = [int(each.version) for each in alike if int(each.version) < int(version)]
    if earlier:
        same = str(min(earlier))
        client.set_model_version_tag(model_name, version, "kd.same_as", same)
        _log.warning(
            "version %s of %s is the same student as version %s, number by number",
            version,
            model_name,
            same,
        )


def _make_candidate(client: MlflowClient, model_name: str, version: str, model_id: str) -> None:
    """Make a version the candidate, and link its model to it for MLflow's pages."""
    links = json.dumps([{"name": model_name, "version": version}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": links})
    client.set_registered_model_alias(model_name, CANDIDATE, version)


def find_version(client: MlflowClient, model_name: str, version: str) -> ModelVersion:
    """Find the version that ``promote`` is asked for: by number, by alias or by a run's id.

    Raises RegistryError for an unknown model or version, where nothing waits, and where the version
    is in production; for one that was rolled back too, unless it is asked for by its number.
    """
    model = known_model(client, model_name)
    found = _numbered(client, model_name, version)
    if found is None:
        found = _of_run(client, model_name, version) or aliased(client, model_name, version)
        if found is not None and outcome(client, found) == "rolled_back":
            raise RegistryError(_rolled_back_text(found, "promote"))
    if found is None:
        raise RegistryError(_not_found_text(client, model_name, version))
    if alias_of(model, PRODUCTION) == str(found.version):
        raise RegistryError(f"nothing to promote: {named(found)} is in production already")
    return found


def _of_run(client: MlflowClient, model_name: str, run_id: str) -> ModelVersion | None:
    """The version that a run, or the distillation of a pipeline's run, registered last."""
    if not RUN_ID.fullmatch(run_id):
        return None
    if (run := absent_ok(lambda: client.get_run(run_id))) is not None:
        run_id = run.data.tags.get("kd.distill_run_id", run_id)
    found = client.search_model_versions(f"name='{model_name}' and run_id='{run_id}'")
    return max(found, key=lambda version: int(version.version), default=None)


def _rolled_back_text(version: ModelVersion, command: str) -> str:
    reason = version.tags.get("kd.promotion_reason", "")
    when = version.tags.get("kd.promotion_time", "")
    return (
        f"{named(version)} was rolled back on {when} ({reason}); to {command} it all the same, "
        f"name it: version={version.version}"
    )


def _not_found_text(client: MlflowClient, model_name: str, version: str) -> str:
    known = {int(v.version): v.tags.get("kd.promotion") for v in every_version(client, model_name)}
    if version == CANDIDATE:
        pending = [number for number, state in known.items() if state == "pending"]
        hint = f"version={max(pending)} waits" if pending else "distil one first"
        return f"nothing to promote: {model_name!r} has no candidate; {hint}"
    listed = ", ".join(map(str, sorted(known))) or "none"
    return (
        f"{model_name!r} has no version {version!r}, nor an alias or a version of a run of that "
        f"name; it has: {listed}"
    )


def _numbered(client: MlflowClient, model_name: str, version: str) -> ModelVersion | None:
    """The version of a number, if there is one."""
    if not NUMBER.fullmatch(version):
        return None
    return absent_ok(lambda: client.get_model_version(model_name, version))


def aliased(client: MlflowClient, model_name: str, alias: str) -> ModelVersion | None:
    """The version under an alias, if it is set; RegistryError where that version is gone."""
    model = find_model(client, model_name)
    number = alias_of(model, alias) if model else None
    if number is None:
        return None
    found = _numbered(client, model_name, number)
    if found is None:
        raise RegistryError(
            f"the alias {alias!r} of {model_name!r} points to version {number}, which is not "
            "there; set it to another version, or delete it"
        )
    return found


def find_rollback(client: MlflowClient, model_name: str, version: str) -> tuple[str, str, str]:
    """The version that a rollback to ``previous`` or a number restores, and the one it replaces.

    Third comes the digest of its files. Raises RegistryError where there is nothing to go back to,
    the version never was in production, or its files are gone or are not those that were promoted;
    for ``previous`` too where that was itself rolled back.
    """
    production = aliased(client, model_name, PRODUCTION)
    if production is None:
        raise RegistryError(
            f"nothing to roll back to: nothing is in production under {model_name!r}; promote a "
            "version by its number, such as one that history names"
        )
    if version == PREVIOUS:
        target = _previous(client, model_name, str(production.version))
    else:
        target = _was_production(client, model_name, version)
    if target.version == production.version:
        raise RegistryError(f"{named(target)} is in production already")
    described(target)
    with scratch() as folder:
        digest = files_digest(pull(target, folder))
    return str(target.version), str(production.version), digest


def _previous(client: MlflowClient, model_name: str, production: str) -> ModelVersion:
    """The version under ``previous``, unless a rollback left it there."""
    found = aliased(client, model_name, PREVIOUS)
    if found is None:
        why = f"nothing to roll back to: production had no predecessor under {model_name!r}"
        raise RegistryError(why)
    if outcome(client, found) == "rolled_back":
        past = dict.fromkeys(period.version for period in periods(client, model_name)[::-1])
        others = [number for number in past if number not in (production, str(found.version))]
        earlier = f"; before these were: {', '.join(others)}" if others else ""
        raise RegistryError(f"{_rolled_back_text(found, 'return to')}{earlier}")
    return found


def _was_production(client: MlflowClient, model_name: str, version: str) -> ModelVersion:
    """The version of a number, if it was in production before."""
    found = _numbered(client, model_name, version)
    if found is None:
        raise RegistryError(_not_found_text(client, model_name, version))
    past = {period.version for period in periods(client, model_name)}
    early = outcome(client, found) == "promoted"  # before moves were recorded
    previous = alias_of(known_model(client, model_name), PREVIOUS)
    if version not in past | {previous} and not early:
        known = ", ".join(sorted(past, key=int)) or "none"
        raise RegistryError(
            f"version {version} of {model_name!r} never was in production; promote it instead, or "
            f"go back to one that was: {known}"
        )
    return found


def described(version: ModelVersion) -> Model:
    """Read what a version's artifact says of itself; nothing of it is loaded.

    Raises RegistryError where the artifact is missing or cannot be read.
    """
    uri = f"{address(version)}/{MLMODEL}"
    with _artifact_errors(version), scratch() as folder:
        return Model.load(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))


def pull(version: ModelVersion, folder: Path) -> Path:
    """Copy a version's files into a folder, but for what Python has kept of their code.

    Raises RegistryError where they cannot be had, or are not those that were promoted. A version
    from before digests were recorded has none, which one line says.
    """
    uri = address(version)
    with _artifact_errors(version):
        copied = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder))
        path = without_caches(Path(copied))
    if not any(path.rglob("*")):
        raise RegistryError(f"{named(version)} has no files any more where the store says: {uri}")
    promoted, found = version.tags.get(f"kd.{FILES}"), files_digest(path)
    if promoted is None and version.tags.get("kd.promotion") == "promoted":
        _log.warning(
            "version %s of %s was promoted before digests of files were recorded: not checked",
            version.version,
            version.name,
        )
    elif promoted not in (None, found):
        raise RegistryError(
            f"the files of {named(version)} are not those that were promoted (digest {found[:12]}, "
            f"promoted {str(promoted)[:12]}); nothing was loaded: put them back, or go back to "
            "another version by its number"
        )
    return path


@contextmanager
def _artifact_errors(version: ModelVersion) -> Iterator[None]:
    """Say in one line that a version's artifact cannot be had, or its store; wait a little."""
    try:
        with impatient(retries=FETCH_RETRIES):
            yield
    except Exception as error:  # artifact stores raise what they like
        what = f"the artifact of {named(version)}"
        if unreachable(error):
            raise fetch_error(error, what) from None
        raise RegistryError(
            f"{what} is missing or cannot be read: {masked(first_line(error)).rstrip(':')}; put "
            "its files back, or name another version by its number"
        ) from None


def distill_run_of(tracker: Tracker, version: ModelVersion) -> Run:
    """The run that a version came from.  Raises RegistryError where it is none of ours."""
    run_id = version.tags.get("kd.run_id")
    try:
        run = tracker.get(run_id) if run_id else None
    except RunError as error:
        raise RegistryError(
            f"{named(version)} cannot be judged: {error}; it is gone for good: distil anew, or "
            "promote another version"
        ) from None
    if run is not None and run.info.lifecycle_stage != "active":
        raise RegistryError(
            f"run {run_id}, which {named(version)} came from, is deleted; restore it: mlflow runs "
            f"restore --run-id {run_id}"
        )
    needed = {"registered_test_accuracy", "ensemble_test_accuracy"}
    if run is None or not needed <= run.data.metrics.keys():
        raise RegistryError(
            f"{named(version)} has no distill run to judge it by; only versions that distill "
            "registered can be promoted"
        )
    return run


def load_production(client: MlflowClient, model_name: str) -> Any:
    """Load the version in production as a pyfunc model."""
    known_model(client, model_name)
    version = aliased(client, model_name, PRODUCTION)
    if version is None:
        why = f"nothing is in production under {model_name!r}; promote a version first"
        raise RegistryError(why)
    return mlflow.pyfunc.load_model(str(pull(version, folder_till_exit())))


def resolve_name(client: MlflowClient, model_name: str) -> str:
    """The registered model that is meant: the default name stands for the only one there is."""
    if model_name != RegistryOptions().model_name or find_model(client, model_name) is not None:
        return model_name
    known = known_models(client)
    return known[0] if len(known) == 1 else model_name
