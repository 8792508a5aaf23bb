"""What MLflow's basic-auth cannot say: who may move ``production``, and who may make nothing.

A server takes this as the ``authorization_function`` of its auth.ini, with this folder in its
PYTHONPATH. MLflow's permissions are per experiment and per registered model: whoever may register a
version may set any alias of that model, and whoever has an account may make experiments of their
own. Here a request must also pass ``_refusal``; passwords and all else are still MLflow's.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from flask import Response, make_response, request
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.protos.model_registry_pb2 import (
    DeleteModelVersion,
    DeleteRegisteredModel,
    DeleteRegisteredModelAlias,
    DeleteRegisteredModelTag,
    RenameRegisteredModel,
    SetRegisteredModelAlias,
    SetRegisteredModelTag,
)
from mlflow.server import auth, handlers
from werkzeug.datastructures import Authorization

READER, TRAINER, RELEASER = "kd-reader", "kd-trainer", "kd-releaser"

PRODUCTION, PREVIOUS = "production", "previous"

ALIAS = ("POST", "registered-models/alias"), ("DELETE", "registered-models/alias")
DESTRUCTIVE = {
    ("POST", "registered-models/rename"): RenameRegisteredModel,
    ("DELETE", "registered-models/delete"): DeleteRegisteredModel,
    ("DELETE", "model-versions/delete"): DeleteModelVersion,
    ("POST", "registered-models/set-tag"): SetRegisteredModelTag,
    ("DELETE", "registered-models/delete-tag"): DeleteRegisteredModelTag,
}
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
    allowed, what = _needed_roles()
    if not allowed:
        return known
    user = auth.store.get_user(known.username)
    roles = {role.name for role in auth.store.list_user_roles(user.id)}
    if user.is_admin or roles & allowed:
        return known
    needed = " or ".join(sorted(allowed))
    return _forbidden(f"{what} needs the role {needed}, which {user.username!r} has not")


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


def _moves_production() -> bool:
    kind = SetRegisteredModelAlias if request.method == "POST" else DeleteRegisteredModelAlias
    return handlers._get_request_message(kind()).alias.lower() in (PRODUCTION, PREVIOUS)


def _destroys(asked: tuple[str, str]) -> bool:
    """Whether a request may take away a model that has a version in production."""
    message = handlers._get_request_message(DESTRUCTIVE[asked]())
    if getattr(message, "key", PROMPT_TAG) != PROMPT_TAG:
        return False
    try:
        model = auth._get_model_registry_store().get_registered_model(message.name)
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
    error = MlflowException(reason, error_code=PERMISSION_DENIED)
    response = make_response(error.serialize_as_json(), error.get_http_status_code())
    response.content_type = "application/json"
    return response
