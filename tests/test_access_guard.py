"""The access guard lets through what is listed, and refuses odd requests and other MLflows."""

import importlib
import json
from types import SimpleNamespace

import pytest
from conftest import ROOT
from flask import request
from mlflow.exceptions import MlflowException
from mlflow.protos.model_registry_pb2 import DeleteRegisteredModelAlias, SetRegisteredModelAlias
from werkzeug.datastructures import Authorization

# MLflow's basic-auth imports it
pytestmark = pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")

API = "/api/2.0/mlflow"
ALIAS = f"{API}/registered-models/alias"
RENAME = f"{API}/registered-models/rename"
TAG = f"{API}/registered-models/set-tag"
VERSION_TAG = f"{API}/model-versions/set-tag"
FILES = "/api/2.0/mlflow-artifacts/artifacts"
MODEL, RUN, DECISION, FREE = "m-" + "a" * 32, "b" * 32, "c" * 32, "d" * 32
NAMED = {"name": "m", "version": "1"}
LOCK = "m.lock-0123abcd-7"


class Accounts:
    """What MLflow knows of one user, who has one role."""

    def __init__(self, role):
        self.role = role

    def get_user(self, username):
        return SimpleNamespace(id=1, is_admin=self.role == "admin")

    def list_user_roles(self, user_id):
        return [SimpleNamespace(name=self.role)]


class Page(list):
    """A page of a search, the only one."""

    token = None


class Models:
    """A registry of two versions: of a logged model, and of a run's folder."""

    sources = (f"models:/{MODEL}", f"mlflow-artifacts:/1/{RUN}/artifacts/model")

    def search_model_versions(self, clause, page_token=None):
        wanted = clause.split("%")[1]
        return Page(SimpleNamespace(source=one) for one in self.sources if wanted in one)

    def get_model_version(self, name, version):
        return SimpleNamespace(tags={"kd.same_as": "1"} if version == "2" else {})


class Runs:
    """A store of runs, one of which is a promotion's."""

    def get_run(self, run_id):
        if run_id not in (RUN, DECISION, FREE):
            raise MlflowException("no such run")
        kind = "promotion" if run_id == DECISION else "distill"
        return SimpleNamespace(data=SimpleNamespace(tags={"kd.kind": kind}))


@pytest.fixture
def guard(monkeypatch):
    """The guard of a server whose user has a role; MLflow's part of it can be changed."""

    def made(role="kd-trainer", closed=True, **other):
        monkeypatch.syspath_prepend(ROOT / "deploy")
        module = importlib.import_module("access_guard")
        known = Authorization("basic", {"username": "somebody"})
        parts = {
            "authenticate_request_basic_auth": lambda: known,
            "store": Accounts(role),
            "_get_model_registry_store": Models,
            "_get_tracking_store": Runs,
            "MLFLOW_BASIC_AUTH_FAIL_CLOSED": SimpleNamespace(get=lambda: closed),
            **other,
        }
        given = {name: part for name, part in parts.items() if part is not None}
        monkeypatch.setattr(module, "auth", SimpleNamespace(**given))
        module._warn.cache_clear()
        return module

    return made


def answered(guard, path, *, method="POST", **sent):
    """The status of what the guard answers; 200 where it lets a request through."""
    from mlflow.server import app  # a second for whoever collects tests

    with app.test_request_context(path, method=method, **sent):
        answer = guard.authenticate()
    return 200 if isinstance(answer, Authorization) else answer.status_code


def tags(**given):
    """Tags as a request has them; a line stands for a point."""
    return [{"key": key.replace("_", "."), "value": value} for key, value in given.items()]


PLAIN = [
    ("POST", ALIAS, {"name": "m", "alias": "candidate", "version": "1"}),
    ("POST", TAG, {"name": "m", "key": "colour", "value": "red"}),
    ("POST", VERSION_TAG, {**NAMED, "key": "kd.same_as", "value": "1"}),
    ("POST", f"{API}/model-versions/create", {"name": "m", "tags": tags(kd_target="y")}),
    ("POST", f"{API}/model-versions/create", {"name": "m", "tags": tags(kd_promotion="pending")}),
    ("POST", f"{API}/registered-models/create", {"name": "m"}),
    ("POST", f"{API}/runs/create", {"experiment_id": "1", "tags": tags(kd_kind="distill")}),
    ("POST", f"{API}/runs/log-batch", {"run_id": FREE, "tags": tags(kd_kind="distill")}),
    ("PATCH", f"{API}/logged-models/m-{FREE}", {"status": "LOGGED_MODEL_READY"}),
    ("PATCH", f"{API}/logged-models/{MODEL}/tags", {"tags": tags(mlflow_modelVersions="[]")}),
    ("PUT", f"{FILES}/1/{FREE}/artifacts/model/MLmodel", None),
    ("PUT", f"{FILES}/1/{RUN}/artifacts/model.txt", None),
    ("PUT", f"{FILES}/1/models/m-{FREE}/artifacts/MLmodel", None),
    ("POST", f"{API}/experiments/create", {"name": "e"}),
]

RESERVED = [
    ("POST", ALIAS, {"name": "m", "alias": "production", "version": "1"}),
    ("POST", ALIAS, {"name": "m", "alias": "Previous", "version": "1"}),
    ("DELETE", ALIAS, {"name": "m", "alias": "production"}),
    ("POST", TAG, {"name": "m", "key": "kd.moving", "value": "{}"}),
    ("POST", TAG, {"name": "m", "key": "mlflow.prompt.is_prompt", "value": "true"}),
    ("DELETE", f"{API}/registered-models/delete-tag", {"name": "m", "key": "kd.lock"}),
    ("POST", f"{API}/registered-models/create", {"name": "m", "tags": tags(kd_kind="lock")}),
    ("POST", f"{API}/registered-models/create", {"name": LOCK}),
    ("PATCH", f"{API}/registered-models/update", {"name": LOCK, "description": "mine"}),
    ("POST", RENAME, {"name": "m", "new_name": "n"}),
    ("POST", VERSION_TAG, {**NAMED, "key": "kd.production.000001", "value": "{}"}),
    ("POST", VERSION_TAG, {**NAMED, "key": "kd.promotion", "value": "promoted"}),
    ("POST", VERSION_TAG, {"name": "m", "version": "2", "key": "kd.same_as", "value": "1"}),
    ("DELETE", f"{API}/model-versions/delete-tag", {**NAMED, "key": "kd.content_digest"}),
    ("POST", f"{API}/model-versions/create", {"name": "m", "tags": tags(kd_promotion="promoted")}),
    ("POST", f"{API}/model-versions/create", {"name": "m", "tags": tags(kd_production_1="{}")}),
    ("POST", f"{API}/model-versions/transition-stage", {**NAMED, "stage": "Production"}),
    ("POST", f"{API}/runs/create", {"experiment_id": "1", "tags": tags(kd_kind="promotion")}),
    ("POST", f"{API}/runs/set-tag", {"run_id": FREE, "key": "kd.kind", "value": "rollback"}),
    ("POST", f"{API}/runs/delete-tag", {"run_id": FREE, "key": "kd.kind"}),
    ("POST", f"{API}/runs/log-batch", {"run_id": FREE, "tags": tags(kd_kind="promotion")}),
    ("POST", f"{API}/runs/update", {"run_id": FREE, "run_uuid": DECISION, "status": "FAILED"}),
    ("POST", f"{API}/runs/log-metric", {"run_uuid": DECISION, "key": "x", "value": 1}),
    ("POST", f"{API}/runs/log-metric", {"key": "x", "value": 1}),
    ("PATCH", f"{API}/logged-models/{MODEL}", {"status": "LOGGED_MODEL_UPLOAD_FAILED"}),
    ("POST", f"{API}/logged-models/{MODEL}/params", {"params": []}),
    ("DELETE", f"{API}/logged-models/m-{FREE}", None),
    ("PUT", f"{FILES}/1/models/{MODEL}/artifacts/MLmodel", None),
    ("PUT", f"{FILES}/1/{RUN}/artifacts/model/MLmodel", None),
    ("PUT", f"{FILES}/1/{DECISION}/artifacts/promotion.json", None),
    ("PUT", f"{FILES}/1/{FREE}/artifacts/../../{RUN}/artifacts/model/MLmodel", None),
    ("PUT", f"{FILES}/1/{FREE}/artifacts/a%252fb", None),
    ("PUT", f"{FILES}/1/{FREE}/artifacts/a?path=b", None),
    ("PUT", f"{FILES}/elsewhere/MLmodel", None),
    ("DELETE", f"{FILES}/1/{FREE}/artifacts/a", None),
    ("POST", "/api/2.0/mlflow-artifacts/mpu/create/1/models/" + MODEL + "/artifacts/x", {}),
    ("POST", f"{API}/experiments/create", {"name": "e", "artifact_location": "mlflow-artifacts:/"}),
]


@pytest.mark.parametrize(("method", "path", "body"), PLAIN)
def test_a_trainer_may_do_what_leaves_production_alone(guard, method, path, body):
    """Plain requests of training are let through, for both addresses of an API; no reader's are."""
    for address in (path, path.replace("/api/", "/ajax-api/")):
        assert answered(guard(), address, method=method, json=body) == 200
        assert answered(guard("kd-reader"), address, method=method, json=body) == 403


@pytest.mark.parametrize(("method", "path", "body"), RESERVED)
def test_what_says_what_is_in_production_is_releasers(guard, method, path, body):
    """No trainer moves production, says that it moved, or changes what is in it."""
    for address in (path, path.replace("/api/", "/ajax-api/")):
        assert answered(guard(), address, method=method, json=body) == 403
        assert answered(guard("kd-releaser"), address, method=method, json=body) == 200


NOBODY = [
    ("POST", f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={FREE}&path=x"),
    ("POST", f"{API}/artifacts/presigned-upload-url"),
    ("POST", f"{API}/webhooks"),
    ("POST", "/api/3.0/mlflow/gateway/secrets/create"),
    ("GET", "/api/2.0/mlflow/users/list"),
    ("POST", "/v1/traces"),
    ("GET", "/of-no-mlflow"),
    ("OPTIONS", ALIAS),
]


@pytest.mark.parametrize(("method", "path"), NOBODY)
def test_what_is_not_listed_is_refused(guard, method, path):
    """Neither a route without a role nor one that MLflow does not have is any role's."""
    assert answered(guard("kd-releaser"), path, method=method) == 403
    assert answered(guard("admin"), path, method=method) == 200


def test_reading_needs_a_role(guard):
    """A reader reads, HEAD included; who has no role of ours does not."""
    for method in ("GET", "HEAD"):
        path = f"{API}/registered-models/get?name=m"
        assert answered(guard("kd-reader"), path, method=method) == 200
        assert answered(guard("other"), path, method=method) == 403


def test_without_mlflow_s_own_net_it_serves_the_admin_alone(guard):
    """A server that was started without the setting says so to everybody else."""
    path = f"{API}/registered-models/get?name=m"
    assert answered(guard("kd-releaser", closed=False), path, method="GET") == 403
    assert answered(guard("admin", closed=False), path, method="GET") == 200


@pytest.mark.parametrize("path", [ALIAS, TAG, VERSION_TAG])
@pytest.mark.parametrize(
    "sent",
    [
        {"data": b""},
        {"data": b"alias=candidate&name=m&key=colour"},
        {"json": [{"name": "m", "alias": "candidate", "key": "colour"}]},
        {"json": json.dumps({"name": "m", "alias": "candidate", "key": "colour"})},
        {"json": {"name": 7, "alias": 7, "key": 7}},
        {"json": {"name": None, "alias": None, "key": None}},
        {"json": {"name": "m", "alias": "candidate", "key": "colour", "newName": "n"}},
        {
            "json": {"name": "m", "alias": "candidate", "key": "colour"},
            "query_string": {"alias": "production"},
        },
    ],
    ids=["nothing", "a form", "a list", "JSON in JSON", "numbers", "null", "camels", "a query"],
)
def test_what_could_be_read_in_another_way_is_refused(guard, path, sent):
    """Only a plain JSON object says of itself that it is harmless."""
    assert answered(guard(), path, **sent) == 403


FORMS = [
    b'{"alias": "candidate", "alias": "production"}',
    b'{"alias": "production", "alias": "candidate"}',
    b'{"alias": "candidate", "\\u0061lias": "production"}',
    b'{"alias": "candidate", "Alias": "production", "ALIAS": "production"}',
    b'{"alias": "candidate", "[alias]": "production", "name": {"alias": "production"}}',
    json.dumps({"alias": "production"}).encode("utf-16"),
    b'\xef\xbb\xbf{"alias": "production"}',
    b'{"alias": "production", "version": {}}',
    b'{"version": {}, "alias": "production"}',
]


@pytest.mark.parametrize("body", FORMS)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_mlflow_reads_of_a_request_what_the_guard_reads(guard, method, body):
    """No request is let through of which MLflow takes the alias of production."""
    sent = {"data": body, "content_type": "application/json"}
    kind = SetRegisteredModelAlias if method == "POST" else DeleteRegisteredModelAlias
    from mlflow.server import app, handlers

    with app.test_request_context(ALIAS, method=method, **sent):
        alias = handlers._get_request_message(kind(), request).alias
    assert alias.lower() == "candidate" or answered(guard(), ALIAS, method=method, **sent) == 403


@pytest.mark.parametrize(
    "source",
    [
        f"runs:/{RUN}/model",
        f"mlflow-artifacts:/1/{RUN}/artifacts",
        f"mlflow-artifacts:/1/{RUN}/artifacts/x/../model",
        f"mlflow-artifacts:/1/{RUN}/artifacts/%6dodel",
        f"https://host/api/2.0/mlflow-artifacts/artifacts/1/{RUN}/artifacts/model",
    ],
)
def test_a_source_that_is_not_plain_closes_its_run(guard, monkeypatch, source):
    """Whatever a version's source stands for, no file of its run can be written."""
    monkeypatch.setattr(Models, "sources", (source,))
    assert answered(guard(), f"{FILES}/1/{RUN}/artifacts/model/MLmodel", method="PUT") == 403


class OtherAccounts(Accounts):
    """Accounts that are asked in another way."""

    def get_user(self, username, workspace):
        return SimpleNamespace(id=1, is_admin=True)


@pytest.mark.parametrize(
    "other",
    [
        {"store": None},
        {"store": object()},
        {"store": OtherAccounts("kd-releaser")},
        {"MLFLOW_BASIC_AUTH_FAIL_CLOSED": None},
        {"_get_model_registry_store": None},
        {"_get_model_registry_store": object},
        {"_get_tracking_store": object},
    ],
    ids=["no accounts", "other accounts", "another call", "no net", "no registry", "other", "runs"],
)
def test_an_mlflow_that_it_does_not_know_is_closed(guard, caplog, other):
    """What it cannot find out it refuses, with one warning."""
    module = guard(**other)
    path = f"{FILES}/1/{FREE}/artifacts/a"
    assert [answered(module, path, method="PUT") for _ in range(3)] == [403] * 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "does not know MLflow" in caplog.text
