"""Who may ask a tracking server for what: a list of routes by role, and all else refused.

A server takes this as the ``authorization_function`` of its auth.ini, with this folder in its
PYTHONPATH and MLFLOW_BASIC_AUTH_FAIL_CLOSED=true. MLflow's passwords and permissions hold besides;
but these are per experiment and per model: whoever may register a version may set any alias and tag
of its model. So here a route that is not in the list is the admin's alone, and a trainer's write is
looked into: it may touch neither what is in production nor what says how it came there.

Of MLflow's inside it asks ``auth.store`` for roles and two stores for models and runs. Where an
MLflow has these no longer everything is refused; so is what is no plain JSON.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

import mlflow
from flask import Response, jsonify, request
from mlflow.exceptions import MlflowException
from mlflow.server import auth
from werkzeug.datastructures import Authorization

READER, TRAINER, RELEASER = ROLES = ("kd-reader", "kd-trainer", "kd-releaser")
"""Each may do what those before it may."""

READING = """
GET /
GET /build/<path:filename>
GET /static-files/<path:path>
GET /health
GET /version
GET /graphql
POST /graphql
GET /get-artifact
GET /model-versions/get-artifact
GET 2.0/mlflow-artifacts/artifacts
GET 2.0/mlflow-artifacts/artifacts/<path:artifact_path>
GET 2.0/mlflow-artifacts/presigned/<path:artifact_path>
GET 2.0/mlflow/artifacts/list
POST 2.0/mlflow/artifacts/presigned-download-url
GET 2.0/mlflow/experiments/get
GET 2.0/mlflow/experiments/get-by-name
GET 2.0/mlflow/experiments/search
POST 2.0/mlflow/experiments/search
POST 2.0/mlflow/experiments/search-datasets
GET 2.0/mlflow/logged-models/<model_id>
GET 2.0/mlflow/logged-models/<model_id>/artifacts/directories
GET 2.0/mlflow/logged-models/<model_id>/artifacts/files
POST 2.0/mlflow/logged-models/search
GET 2.0/mlflow/metrics/get-history
GET 2.0/mlflow/metrics/get-history-bulk
GET 2.0/mlflow/metrics/get-history-bulk-interval
GET 2.0/mlflow/model-versions/get
GET 2.0/mlflow/model-versions/get-download-uri
GET 2.0/mlflow/model-versions/search
GET 2.0/mlflow/registered-models/alias
GET 2.0/mlflow/registered-models/get
GET 2.0/mlflow/registered-models/get-latest-versions
POST 2.0/mlflow/registered-models/get-latest-versions
GET 2.0/mlflow/registered-models/search
GET 2.0/mlflow/runs/get
POST 2.0/mlflow/runs/search
GET 2.0/mlflow/users/current
PATCH 2.0/mlflow/users/update-password
GET 3.0/mlflow/server-info
GET 3.0/mlflow/ui-telemetry
GET 3.0/mlflow/users/current/permissions
GET 3.0/mlflow/workspaces
"""

TRAINING = """
DELETE 2.0/mlflow/logged-models/<model_id>/tags/<tag_key>
DELETE 2.0/mlflow/model-versions/delete-tag
DELETE 2.0/mlflow/registered-models/alias
DELETE 2.0/mlflow/registered-models/delete-tag
PATCH 2.0/mlflow/logged-models/<model_id>
PATCH 2.0/mlflow/logged-models/<model_id>/tags
PATCH 2.0/mlflow/model-versions/update
PATCH 2.0/mlflow/registered-models/update
POST 2.0/mlflow-artifacts/mpu/abort/<path:artifact_path>
POST 2.0/mlflow-artifacts/mpu/complete/<path:artifact_path>
POST 2.0/mlflow-artifacts/mpu/create/<path:artifact_path>
POST 2.0/mlflow/experiments/create
POST 2.0/mlflow/experiments/set-experiment-tag
POST 2.0/mlflow/logged-models
POST 2.0/mlflow/logged-models/<model_id>/params
POST 2.0/mlflow/model-versions/create
POST 2.0/mlflow/model-versions/set-tag
POST 2.0/mlflow/registered-models/alias
POST 2.0/mlflow/registered-models/create
POST 2.0/mlflow/registered-models/set-tag
POST 2.0/mlflow/runs/create
POST 2.0/mlflow/runs/delete-tag
POST 2.0/mlflow/runs/log-batch
POST 2.0/mlflow/runs/log-inputs
POST 2.0/mlflow/runs/log-metric
POST 2.0/mlflow/runs/log-model
POST 2.0/mlflow/runs/log-parameter
POST 2.0/mlflow/runs/outputs
POST 2.0/mlflow/runs/set-tag
POST 2.0/mlflow/runs/update
PUT 2.0/mlflow-artifacts/artifacts/<path:artifact_path>
"""

RELEASING = """
DELETE 2.0/mlflow-artifacts/artifacts/<path:artifact_path>
DELETE 2.0/mlflow/logged-models/<model_id>
DELETE 2.0/mlflow/model-versions/delete
DELETE 2.0/mlflow/registered-models/delete
POST 2.0/mlflow/experiments/delete
POST 2.0/mlflow/experiments/delete-experiment-tag
POST 2.0/mlflow/experiments/restore
POST 2.0/mlflow/experiments/update
POST 2.0/mlflow/model-versions/transition-stage
POST 2.0/mlflow/registered-models/rename
POST 2.0/mlflow/runs/delete
POST 2.0/mlflow/runs/restore
"""

ALLOWED = {
    route: role
    for role, routes in zip(ROLES, (READING, TRAINING, RELEASING), strict=True)
    for route in routes.strip().splitlines()
}
"""The least role that may ask for a route; what is not here is the admin's alone."""

CANDIDATE = "candidate"
LOCK = re.compile(r"\.lock-[0-9a-f]{8}-\d+$")
"""How the name of a registered model ends that is a lock of another."""

RESERVED = ("kd.", "mlflow.")
REGISTERING = {"kd.run_id", "kd.target", "kd.data_digest", "kd.split", "kd.content_digest"}
"""Tags that a version has from its beginning; ``kd.promotion`` is ``pending`` besides."""
SAME = "kd.same_as"
"""Tag that a version gets once, right after it was made."""

KIND, DECISIONS = "kd.kind", ("promotion", "rollback")
"""Runs of these kinds say why production moved: releasers make and change them."""

FIELD = re.compile(r"[a-z][a-z0-9_]*")
"""A field as MLflow's clients write it; its server reads other spellings too."""

ID = re.compile(r"(m-)?[0-9a-f]{32}")
ODD = re.compile(r"[%?#\\]|/\.|(?<=[^:/])//")
"""What a source may have that stands for another folder than it seems to."""
OF_RUN = re.compile(r"\d+/([0-9a-f]{32})/artifacts/.+", re.DOTALL)
OF_MODEL = re.compile(r"\d+/models/(m-[0-9a-f]{32})/artifacts/.+", re.DOTALL)


class UnclearError(Exception):
    """A request that MLflow might read in another way than this guard."""


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
    logging.getLogger(__name__).warning("%s; everything is refused to everybody", refusal)


def _refusal(username: str) -> str:
    """Why this user may not do what the request asks for; nothing where MLflow's rules decide."""
    user = auth.store.get_user(username)
    if user.is_admin:
        return ""
    if not auth.MLFLOW_BASIC_AUTH_FAIL_CLOSED.get():
        return "this server runs without MLFLOW_BASIC_AUTH_FAIL_CLOSED=true: it serves its admin"
    held = {role.name for role in auth.store.list_user_roles(user.id)}
    route = asked_route(str(request.url_rule or ""), request.method)
    if route not in ALLOWED:
        return f"no role may ask for {request.method} {request.path}, only the server's admin"
    needed, what = ALLOWED[route], "this request"
    if needed == TRAINER and RELEASER not in held and (what := _reserved(route)):
        needed = RELEASER
    able = ROLES[ROLES.index(needed) :]
    if held & set(able):
        return ""
    return (
        f"{what or 'this request'} needs the role {' or '.join(able)}, which {username!r} has not"
    )


def asked_route(rule: str, method: str) -> str:
    """A rule of MLflow's URL map as the list has it: one line for both addresses of an API."""
    path = rule.removeprefix(os.environ.get("_MLFLOW_STATIC_PREFIX", "").rstrip("/"))
    method = "GET" if method == "HEAD" else method
    return f"{method} {re.sub(r'^/(ajax-)?api/(?=[0-9])', '', path)}"


def _reserved(route: str) -> str:
    """What of a request is for releasers alone; nothing where a trainer may make it."""
    _, path = route.split(" ")
    try:
        for start, look in LOOKS.items():
            if path.startswith(start) and (what := look(path)):
                return what
    except UnclearError:
        return "a request that is no plain JSON"
    return ""


def _body() -> dict[str, Any]:
    """The request's JSON.  Raises UnclearError where MLflow might find something else in it."""
    body = request.get_json(force=True, silent=True)  # as MLflow takes it
    plain = isinstance(body, dict) and all(FIELD.fullmatch(name) for name in body)
    if request.args or not plain:
        raise UnclearError
    return body


def _text(body: dict[str, Any], field: str) -> str:
    if not isinstance(value := body.get(field), str):
        raise UnclearError
    return value


def _tags(body: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """The tags that a request writes or deletes, with their values."""
    if "key" in body:
        yield _text(body, "key"), body.get("value")
    if not isinstance(tags := body.get("tags") or [], list):
        raise UnclearError
    for tag in tags:
        if not isinstance(tag, dict) or not tag.keys() <= {"key", "value"}:
            raise UnclearError
        yield _text(tag, "key"), tag.get("value")


def _of_model(path: str) -> str:
    """Registered models: no lock, no alias but the candidate's, no tag that this project reads."""
    body = _body()
    if LOCK.search(_text(body, "name")):
        return "a lock"
    if path.endswith("/alias"):
        return "" if _text(body, "alias") == CANDIDATE else f"any alias but {CANDIDATE!r}"
    reserved = [key for key, _ in _tags(body) if key.startswith(RESERVED)]
    return f"the tag {reserved[0]!r}" if reserved else ""


def _of_version(path: str) -> str:
    """Versions: of the reserved tags those of registering, once."""
    body = _body()
    for key, value in _tags(body):
        if path.endswith("/create"):
            free = key in REGISTERING or (key, value) == ("kd.promotion", "pending")
        else:
            free = key == SAME and path.endswith("/set-tag") and not _has_tag(body, key)
        if key.startswith(RESERVED) and not free:
            return f"the tag {key!r} of a version"
    return ""


def _has_tag(body: dict[str, Any], key: str) -> bool:
    name, version = _text(body, "name"), _text(body, "version")
    try:
        return key in auth._get_model_registry_store().get_model_version(name, version).tags
    except MlflowException:  # MLflow itself says what is wrong with the name
        return False


def _of_run(path: str) -> str:
    """Runs: none of those that say why production moved, and none becomes one."""
    body = _body()
    making = path.endswith("/create")
    runs = [_text(body, field) for field in ("run_id", "run_uuid") if body.get(field)]
    if (not making and not runs) or (not making and any(_decides(run) for run in runs)):
        return "the run of a promotion or rollback"
    becomes = [key for key, value in _tags(body) if key == KIND and value in (None, *DECISIONS)]
    return "making a run of a promotion or rollback" if becomes else ""


def _decides(run_id: str) -> bool:
    try:
        return auth._get_tracking_store().get_run(run_id).data.tags.get(KIND) in DECISIONS
    except MlflowException:  # MLflow itself says what is wrong with the run
        return False


def _of_logged_model(path: str) -> str:
    """Logged models: what belongs to a registered version stays, but for tags."""
    if path.endswith(("/tags", "/tags/<tag_key>")):
        return ""
    return _registered("", str((request.view_args or {})["model_id"]))


def _of_file(path: str) -> str:
    """Files: of runs and logged models as MLflow lays them, and of no registered version."""
    given = str((request.view_args or {})["artifact_path"])
    odd = _decoded(given) != given or {"", ".", ".."} & set(given.split("/")) or "\\" in given
    if request.args or odd:
        return "a path that is not plain"
    if found := OF_MODEL.fullmatch(given):
        return _registered(given, found[1])
    if found := OF_RUN.fullmatch(given):
        return "a file of a promotion" if _decides(found[1]) else _registered(given, found[1])
    return "a file of no run and no model"


def _registered(file: str, owner: str) -> str:
    """What is registered of a logged model or run, so that the file may not be written."""
    if not ID.fullmatch(owner):
        return "an id that is not plain"
    root = f"/{file.partition(owner)[0]}{owner}/artifacts/"
    for source in _sources(owner):
        folder = f"{urlsplit(source).path}/"
        apart = folder.startswith(root) and not f"/{file}".startswith(folder)
        if owner.startswith("m-") or not apart or ODD.search(source):
            return "changing the files of a registered model"
    return ""


def _sources(owner: str) -> Iterator[str]:
    """The sources of all versions that name a logged model or a run."""
    registry, token = auth._get_model_registry_store(), None
    while True:
        page = registry.search_model_versions(f"source_path LIKE '%{owner}%'", page_token=token)
        yield from (str(version.source) for version in page)
        if not (token := page.token):
            return


def _of_experiment(path: str) -> str:
    """Experiments: kept where the server keeps them."""
    return "a place for artifacts" if _body().get("artifact_location") else ""


LOOKS: dict[str, Callable[[str], str]] = {
    "2.0/mlflow/registered-models/": _of_model,
    "2.0/mlflow/model-versions/": _of_version,
    "2.0/mlflow/runs/": _of_run,
    "2.0/mlflow/logged-models/": _of_logged_model,
    "2.0/mlflow/experiments/create": _of_experiment,
    "2.0/mlflow-artifacts/": _of_file,
}
"""How a trainer's request is looked into, by how its path begins."""


def _decoded(path: str) -> str:
    """A path without escapes, however often they were escaped."""
    while (plain := unquote(path)) != path:
        path = plain
    return path


def _forbidden(reason: str) -> Response:
    response = jsonify(error_code="PERMISSION_DENIED", message=reason)
    response.status_code = 403
    return response
