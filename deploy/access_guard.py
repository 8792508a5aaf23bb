"""What MLflow's basic-auth cannot say: who may move ``production``, and who may make nothing.

A server takes this as the ``authorization_function`` of its auth.ini, with this folder in its
PYTHONPATH. MLflow's permissions are per experiment and per registered model: whoever may register a
version may set any alias of that model, and whoever has an account may make experiments of their
own. Here a request must also pass ``_refusal``; passwords and all else are still MLflow's.

Of MLflow's inside it asks ``auth.store`` for roles, ``auth._get_model_registry_store`` for models.
Where an MLflow has these no longer, all that is guarded is refused; so is what is no plain JSON.
"""

from __future__ import annotations

import logging
import re
from functools import cache
from urllib.parse import unquote, urlsplit

import mlflow
from flask import Response, jsonify, request
from mlflow.exceptions import MlflowException
from mlflow.server import auth
from werkzeug.datastructures import Authorization

READER, TRAINER, RELEASER = "kd-reader", "kd-trainer", "kd-releaser"

PRODUCTION, PREVIOUS = "production", "previous"

ALIAS = ("POST", "registered-models/alias"), ("DELETE", "registered-models/alias")
TAG = ("POST", "registered-models/set-tag"), ("DELETE", "registered-models/delete-tag")
DESTRUCTIVE = (
    ("POST", "registered-models/rename"),
    ("DELETE", "registered-models/delete"),
    ("DELETE", "model-versions/delete"),
    *TAG,
)
"""Requests that may take a model away from those who pull it by name and alias."""

MAKING = ("POST", "experiments/create"), ("POST", "registered-models/create")
PRESIGNED = ("POST", "artifacts/presigned-upload-url")
PROMPT_TAG = "mlflow.prompt.is_prompt"
"""A model with this tag is a prompt, and no model any more."""

PATH = re.compile(r"/(?:ajax-)?api/\d+\.\d+/(mlflow|mlflow-artifacts)/(.*)$", re.DOTALL)
MODEL_ID = re.compile(r"\bm-[0-9a-f]{32}\b")
RUN_ID = re.compile(r"(?<![-0-9a-f])[0-9a-f]{32}\b")


def authenticate() -> Authorization | Response:
    """Who sent the request, by MLflow's basic-auth; or why it is refused."""
    known = auth.authenticate_request_basic_auth()
    if isinstance(known, Response):
        return known
    try:
        refusal = _refusal(known.username)
    except (AttributeError, TypeError) as error:
        refusal = f"this guard does not know MLflow {mlflow.__version__}: {error}"
        _warn(refusal)
    return _forbidden(refusal) if refusal else known


@cache  # once, not with each request
def _warn(refusal: str) -> None:
    logging.getLogger(__name__).warning("%s; what it guards is refused to everybody", refusal)


def _refusal(username: str) -> str:
    """Why this user may not do what the request asks for; nothing where MLflow's rules decide."""
    allowed, what = _needed_roles()
    if not allowed:
        return ""
    user = auth.store.get_user(username)
    if user.is_admin or allowed & {role.name for role in auth.store.list_user_roles(user.id)}:
        return ""
    needed = " or ".join(sorted(allowed))
    return f"{what} needs the role {needed}, which {username!r} has not"


def _needed_roles() -> tuple[set[str], str]:
    """The roles of which this request needs one, and what for; none where MLflow's rules do."""
    found = PATH.search(_decoded(request.path))
    service, path = found.groups() if found else ("", "")
    asked = (request.method, path)
    if asked in MAKING:
        return {TRAINER, RELEASER}, "making experiments and models"
    if (asked in ALIAS and _moves_production()) or (asked in DESTRUCTIVE and _destroys(asked)):
        return {RELEASER}, "moving or removing what is in production"
    if _writes_files(service, path) and (request.method == "DELETE" or _registered(path)):
        return {RELEASER}, "changing the files of a registered model"
    return set(), ""


def _decoded(path: str) -> str:
    """A path without escapes, however often they were escaped."""
    while (plain := unquote(path)) != path:
        path = plain
    return path


def _given(field: str) -> str | None:
    """A text of the request's JSON; None where it has none, or something else might be meant."""
    body = request.get_json(force=True, silent=True)  # as MLflow takes it
    value = body.get(field) if isinstance(body, dict) and not request.args else None
    return value if isinstance(value, str) else None


def _moves_production() -> bool:
    alias = _given("alias")
    return alias is None or alias.lower() in (PRODUCTION, PREVIOUS)


def _destroys(asked: tuple[str, str]) -> bool:
    """Whether a request may take away a model that has a version in production."""
    if asked in TAG and _given("key") not in (None, PROMPT_TAG):
        return False
    if (name := _given("name")) is None:
        return True
    try:
        model = auth._get_model_registry_store().get_registered_model(name)
    except MlflowException:  # MLflow itself says what is wrong with the name
        return False
    return PRODUCTION in model.aliases


def _writes_files(service: str, path: str) -> bool:
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return False
    deletes_model = request.method == "DELETE" and path.startswith("logged-models/")
    return service == "mlflow-artifacts" or deletes_model or (request.method, path) == PRESIGNED


def _registered(path: str) -> bool:
    """Whether a request names files that some version is made of: a logged model's or a run's."""
    presigned = (request.method, path) == PRESIGNED
    asked = f"{path} {request.get_data(as_text=True)}" if presigned else path
    registry = auth._get_model_registry_store()
    of_models = [f"source_path = 'models:/{one}'" for one in set(MODEL_ID.findall(asked))]
    of_runs = [f"run_id = '{one}'" for one in set(RUN_ID.findall(asked))]
    if any(registry.search_model_versions(clause, max_results=1) for clause in of_models):
        return True
    found = (version for clause in of_runs for version in registry.search_model_versions(clause))
    folders = [urlsplit(one.source).path.strip("/") for one in found if not _logged(one.source)]
    return any(presigned or f"/{folder}/" in f"/{path}/" for folder in folders)


def _logged(source: str) -> bool:
    return source.startswith("models:/")


def _forbidden(reason: str) -> Response:
    response = jsonify(error_code="PERMISSION_DENIED", message=reason)
    response.status_code = 403
    return response
