"""MLflow models by their addresses: found, fetched, loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import Model

from kd_mlflow.errors import RegistryError, RunError, StoreError, listed
from kd_mlflow.evaluation.succession import PredictionTask
from kd_mlflow.local_state import folder_till_exit
from kd_mlflow.models.any_model import AnyModel, load
from kd_mlflow.models.pulled import classes_of
from kd_mlflow.models.respondent import SCORED, Role, error_text
from kd_mlflow.registry.lock import known_models
from kd_mlflow.registry.moves import CANDIDATE, PRODUCTION
from kd_mlflow.registry.records import address
from kd_mlflow.registry.versions import aliased, pull, resolve_name
from kd_mlflow.tracking.failures import (
    FETCH_RETRIES,
    absent_ok,
    impatient,
    masked,
    store_error,
    unreachable,
)
from kd_mlflow.tracking.runs import Tracker

VERSION = re.compile(r"models:/+([^/@]+)(?:/(\d{1,9})|@([^/@]+))")
"""The address of a registered version, by its number or an alias."""


def fetch(tracker: Tracker, uri: str, columns: Sequence[str] = (), *, role: Role) -> AnyModel:
    """Fetch and load a model, an alias resolved first; ``columns`` are for one that names none."""
    with loading(uri, role), impatient(retries=FETCH_RETRIES):
        version = _version(tracker.client, uri)
        resolved = address(version) if version else uri
        if version:
            folder = pull(version, folder_till_exit())
        else:
            lies_here = urlsplit(uri).scheme in ("", "file")  # and is not copied, whatever it is
            place = None if lies_here else str(folder_till_exit())
            folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=place))
        model = load(folder, uri, columns, role=role)
    return replace(model, resolved=resolved, version=version)


@contextmanager
def loading(uri: str, role: Role) -> Iterator[None]:
    """Say in one line, by a RunError, that a model cannot be loaded, or that the store is away."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # stores, networks and unpickling may raise anything
        if unreachable(error):
            raise store_error(error) from None
        raise RunError(
            f"{role.noun} {uri} cannot be loaded: {masked(error_text(error))}; give URIs of MLflow "
            "models, such as models:/name/1, models:/name@alias or runs:/id/path"
        ) from None


def named_model(tracker: Tracker, given: str) -> AnyModel:
    """Find and load a model to score: a registered version, an alias, any URI of an MLflow model.

    A bare name is a registered model's production. Raises RegistryError where there is no such
    version, RunError where it cannot be loaded.
    """
    if not given.strip():
        raise RegistryError("no model is named; give models:/name/1, models:/name@alias or a name")
    uri = given if set(given) & set("/:") else f"models:/{given}@{PRODUCTION}"
    if (named := VERSION.fullmatch(uri)) is not None:
        uri = uri.replace(named[1], resolve_name(tracker.client, named[1]), 1)
        version = absent_ok(lambda: _version(tracker.client, uri))
        if version is None:
            client, name = tracker.client, named[1]
            known = client.search_model_versions(f"name = '{name}'", max_results=50)
            numbers = ", ".join(sorted((str(v.version) for v in known), key=int)) or "no version"
            models = f", the models there are: {listed(known_models(client)) or 'none'}"
            raise RegistryError(
                f"the registry has no {uri}: {name!r} has {numbers}{'' if known else models}; give "
                "models:/name/1, models:/name@alias, or the URI of another MLflow model"
            )
        uri = address(version)
    return fetch(tracker, uri, role=SCORED)


def find_other(tracker: Tracker, model: AnyModel) -> str | None:
    """What to compare a version with: its production, or for that one the candidate, if any."""
    if model.version is None:
        return None
    own = str(model.version.version)
    for alias in (PRODUCTION, CANDIDATE):
        other = aliased(tracker.client, model.version.name, alias)
        if other is not None and str(other.version) != own:
            return address(other)
    return None


def logged_here(tracker: Tracker, model: AnyModel) -> str | None:
    """The model's id, where the tracking store in use has it."""
    known = model.model_id and absent_ok(lambda: tracker.client.get_logged_model(model.model_id))
    return model.model_id if known else None


def task_of(version: ModelVersion, description: Model) -> PredictionTask:
    """What a version predicts and reads, as far as it says so; nothing is loaded."""
    inputs, answers = description.get_input_schema(), description.get_output_schema()
    names = answers.input_names() if answers is not None and answers.has_input_names() else []
    named = inputs is not None and inputs.has_input_names()
    return PredictionTask(
        target=version.tags.get("kd.target"),
        classes=tuple(classes_of(names)) or None,
        columns=tuple(map(str, inputs.input_names())) if named else None,
    )


def _version(client: MlflowClient, uri: str) -> ModelVersion | None:
    """The registered version that an address names, if it does; an absent one is MLflow's error."""
    if (found := VERSION.fullmatch(uri)) is None:
        return None
    name, number, alias = found.groups()
    if number:
        return client.get_model_version(name, number)
    return client.get_model_version_by_alias(name, alias)
