"""A version from one registered model to another, where teams have a model per environment."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from kd_mlflow.errors import RegistryError
from kd_mlflow.registry.lock import find_model
from kd_mlflow.registry.moves import CANDIDATE, PRODUCTION, read_aliases
from kd_mlflow.registry.records import versions
from kd_mlflow.registry.versions import aliased, find_version


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

    It waits for the gate as a version does that was distilled there. Raises RegistryError where it
    is in production there already.
    """
    source = f"models:/{version.name}/{version.version}"
    there = versions(client, model_name) if find_model(client, model_name) else ()
    found = next((each for each in there if each.source == source), None)
    if found is None:
        found = client.copy_model_version(source, model_name)
        client.set_model_version_tag(model_name, found.version, "kd.promotion", "pending")
        client.set_registered_model_alias(model_name, CANDIDATE, found.version)
    elif read_aliases(client, model_name).production == str(found.version):
        raise RegistryError(
            f"nothing to promote: version {found.version} of {model_name!r}, a copy of version "
            f"{version.version} of {version.name!r}, is in production already"
        )
    return found
