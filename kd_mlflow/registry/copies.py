"""A version from one registered model to another, where teams have a model per environment."""

from __future__ import annotations

from collections.abc import Callable

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from kd_mlflow.errors import RegistryError
from kd_mlflow.registry.lock import alias_of, find_model
from kd_mlflow.registry.moves import CANDIDATE, PRODUCTION
from kd_mlflow.registry.records import address, every_version, named, outcome
from kd_mlflow.registry.versions import aliased, find_version

COPIED_FROM = "kd.copied_from"
"""Tag of a version that came from another server, and of its run: which version of which model."""


def find_original(client: MlflowClient, model_name: str, version: str) -> ModelVersion:
    """The version that is to be copied: what is in production unless another is asked for.

    Raises RegistryError as ``find_version`` does, but not for what is in production.
    """
    standing = aliased(client, model_name, PRODUCTION)
    if standing is not None and version in (CANDIDATE, PRODUCTION, str(standing.version)):
        return standing
    return find_version(client, model_name, version)


def copied(client: MlflowClient, version: ModelVersion, model_name: str) -> ModelVersion:
    """A version's copy in another registered model, which MLflow makes where there is none.

    It waits for the gate as a version does that was distilled there. Raises RegistryError as
    ``found_copy`` does.
    """
    source = address(version)
    found = found_copy(client, model_name, version, lambda each: each.source == source)
    if found is None:
        found = client.copy_model_version(source, model_name)
        client.set_model_version_tag(model_name, found.version, "kd.promotion", "pending")
        client.set_registered_model_alias(model_name, CANDIDATE, found.version)
    return found


def found_copy(
    client: MlflowClient,
    model_name: str,
    version: ModelVersion,
    is_copy: Callable[[ModelVersion], bool],
) -> ModelVersion | None:
    """A version's copy in a registered model, if both are there.

    Raises RegistryError where it is in production, or was rolled back: its number promotes it then.
    """
    model = find_model(client, model_name)
    found = next(filter(is_copy, every_version(client, model_name) if model else ()), None)
    if model is None or found is None:
        return None
    number = str(found.version)
    what = f"nothing to promote: {named(found)}, a copy of {named(version)}, "
    if alias_of(model, PRODUCTION) == number:
        raise RegistryError(f"{what}is in production already")
    if outcome(client, found) == "rolled_back":
        way_out = f"name it: there with model_name={model_name} version={number}"
        raise RegistryError(f"{what}was rolled back; to promote it all the same, {way_out}")
    return found
