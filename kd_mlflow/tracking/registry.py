"""Registered versions: register, promote, roll back. Aliases, never stages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion as ModelVersion  # for steps, as a type
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from kd_mlflow.errors import RegistryError
from kd_mlflow.table.dataset import Identity
from kd_mlflow.tracking.store import absent, store_error

MOST_DIGITS = 9
"""Digits of a version number, at most."""

CANDIDATE, PRODUCTION, PREVIOUS = "candidate", "production", "previous"


class Rollback(NamedTuple):
    """The version that is in production again, and the one that it replaced."""

    restored: str
    replaced: str


def register(
    client: MlflowClient,
    *,
    model_name: str,
    model_id: str,
    run_id: str,
    identity: Identity,
    card: str,
) -> str:
    """Make a logged model the next version and the candidate; return the version."""
    try:
        client.create_registered_model(model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise store_error(error) from None
    created = client.create_model_version(
        model_name,
        source=f"models:/{model_id}",
        run_id=run_id,
        model_id=model_id,
        description=card,
        tags={
            "kd.promotion": "pending",
            "kd.run_id": run_id,
            "kd.data_digest": identity.data_digest,
            "kd.split": identity.split,
        },
    )
    versions = json.dumps([{"name": model_name, "version": str(created.version)}])
    client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: versions})  # for the UI's links
    client.set_registered_model_alias(model_name, CANDIDATE, created.version)
    return str(created.version)


def find_version(client: MlflowClient, model_name: str, version: str) -> ModelVersion:
    """Find the version that ``promote`` is asked for: a number, or candidate.

    Raises RegistryError for an unknown model or version, and where nothing waits.
    """
    _require_model(client, model_name)
    found = aliased(client, model_name, CANDIDATE) if version == CANDIDATE else None
    if version == CANDIDATE and found is None:
        raise RegistryError(
            f"nothing to promote: {model_name!r} has no candidate; distil one first"
        )
    if found is None and (found := _numbered(client, model_name, version)) is None:
        known = client.search_model_versions(f"name='{model_name}'")
        listed = ", ".join(map(str, sorted(int(v.version) for v in known))) or "none"
        raise RegistryError(f"{model_name!r} has no version {version!r}; it has: {listed}")
    if version_in_production(client, model_name) == str(found.version):
        raise RegistryError(
            f"nothing to promote: version {found.version} of {model_name!r} "
            "is in production already"
        )
    return found


def _numbered(client: MlflowClient, model_name: str, version: str) -> ModelVersion | None:
    """The version of a number, if there is one."""
    if len(version) > MOST_DIGITS:  # more than a database's integers, which stores refuse unclearly
        return None
    try:
        return client.get_model_version(model_name, version)
    except MlflowException as error:
        if absent(error):
            return None
        raise store_error(error) from None


def aliased(client: MlflowClient, model_name: str, alias: str) -> ModelVersion | None:
    """The version under an alias, if the alias is set."""
    try:
        return client.get_model_version_by_alias(model_name, alias)
    except MlflowException as error:
        if absent(error):
            return None
        raise store_error(error) from None


def version_in_production(client: MlflowClient, model_name: str) -> str | None:
    """The number under ``production``, if it is set."""
    found = aliased(client, model_name, PRODUCTION)
    return str(found.version) if found else None


def tags_of(client: MlflowClient, model_name: str, version: str) -> dict[str, str]:
    """The tags of a version that is there."""
    return dict(client.get_model_version(model_name, version).tags)


def uncompared(model_name: str, version: str, reason: str) -> RegistryError:
    """What to raise where the version in production cannot be compared with."""
    return RegistryError(
        f"version {version} of {model_name!r}, in production, cannot be compared with: {reason}; "
        "nothing was moved: roll back, or promote with policy=any"
    )


def record(
    client: MlflowClient,
    version: ModelVersion,
    *,
    promoted: bool,
    reason: str,
    seen: str | None,
) -> None:
    """Move production to a promoted version; write the gate's answer on the version.

    ``seen`` is the version that was in production before the gate was asked. Raises RegistryError
    where production moved since.
    """
    name, number = version.name, str(version.version)
    if promoted:
        _move(client, name, {PREVIOUS: seen, PRODUCTION: number}, seen=seen)
    answer = "promoted" if promoted else "rejected"
    client.set_model_version_tag(name, number, "kd.promotion", answer)
    client.set_model_version_tag(name, number, "kd.promotion_reason", reason)


def find_rollback(client: MlflowClient, model_name: str) -> Rollback:
    """What a rollback would do.  Raises RegistryError where nothing was promoted before."""
    _require_model(client, model_name)
    production = aliased(client, model_name, PRODUCTION)
    previous = aliased(client, model_name, PREVIOUS)
    if production is None or previous is None:
        what = "nothing is in production" if production is None else "production had no predecessor"
        raise RegistryError(f"nothing to roll back to: {what} under {model_name!r}")
    return Rollback(restored=str(previous.version), replaced=str(production.version))


def rollback(client: MlflowClient, model_name: str) -> Rollback:
    """Exchange ``production`` and ``previous``; return the version restored and the one replaced.

    Raises RegistryError where nothing was promoted before.
    """
    restored, replaced = find_rollback(client, model_name)
    _move(client, model_name, {PREVIOUS: replaced, PRODUCTION: restored}, seen=replaced)
    client.set_model_version_tag(
        model_name, replaced, "kd.promotion_reason", f"rolled back to version {restored}"
    )
    client.set_model_version_tag(
        model_name, restored, "kd.promotion_reason", f"restored by rollback of version {replaced}"
    )
    return Rollback(restored, replaced)


def load_production(client: MlflowClient, model_name: str) -> Any:
    """Load the version in production as a pyfunc model.

    Raises RegistryError where there is none.
    """
    _require_model(client, model_name)
    version = version_in_production(client, model_name)
    if version is None:
        raise RegistryError(
            f"nothing is in production under {model_name!r}; promote a version first"
        )
    return mlflow.pyfunc.load_model(f"models:/{model_name}/{version}")


def _move(
    client: MlflowClient, model_name: str, aliases: Mapping[str, str | None], *, seen: str | None
) -> None:
    """Set aliases, unless production is no longer what was seen; then read production back.

    MLflow sets an alias without comparing: reading again just before and after narrows the window.
    """
    if version_in_production(client, model_name) != seen:
        raise RegistryError(f"production of {model_name!r} moved meanwhile; nothing was changed")
    for alias, version in aliases.items():
        if version:
            client.set_registered_model_alias(model_name, alias, version)
    if version_in_production(client, model_name) != aliases[PRODUCTION]:
        raise RegistryError(f"production of {model_name!r} was moved by someone else; look at it")


def _require_model(client: MlflowClient, model_name: str) -> None:
    try:
        client.get_registered_model(model_name)
    except MlflowException as error:
        if not absent(error):
            raise store_error(error) from None
        known = [model.name for model in client.search_registered_models()]
        listed = ", ".join(known) or "none; distil a student first"
        raise RegistryError(
            f"no registered model {model_name!r}; the registry has: {listed}"
        ) from None
