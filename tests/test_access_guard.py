"""The access guard refuses what it cannot tell: odd requests, other releases of MLflow."""

import importlib
import json
from types import SimpleNamespace

import pytest
from conftest import ROOT
from flask import Flask, request
from mlflow.protos.model_registry_pb2 import DeleteRegisteredModelAlias, SetRegisteredModelAlias
from mlflow.server import handlers
from werkzeug.datastructures import Authorization

# MLflow's basic-auth imports it
pytestmark = pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")

APP = Flask(__name__)
ALIAS = "/api/2.0/mlflow/registered-models/alias"
RENAME = "/api/2.0/mlflow/registered-models/rename"
TAG = "/api/2.0/mlflow/registered-models/set-tag"


class Accounts:
    """What MLflow knows of one user, who has one role."""

    def __init__(self, role):
        self.role = role

    def get_user(self, username):
        return SimpleNamespace(id=1, is_admin=False)

    def list_user_roles(self, user_id):
        return [SimpleNamespace(name=self.role)]


class Models:
    """A registry in which every model has a version in production."""

    def get_registered_model(self, name):
        return SimpleNamespace(aliases={"production": "1"})

    def search_model_versions(self, clause, max_results=None):
        return []


@pytest.fixture
def guard(monkeypatch):
    """The guard of a server whose user has a role; MLflow's part of it can be changed."""

    def made(role="kd-trainer", **other):
        monkeypatch.syspath_prepend(ROOT / "deploy")
        module = importlib.import_module("access_guard")
        known = Authorization("basic", {"username": "somebody"})
        parts = {
            "authenticate_request_basic_auth": lambda: known,
            "store": Accounts(role),
            "_get_model_registry_store": Models,
            **other,
        }
        given = {name: part for name, part in parts.items() if part is not None}
        monkeypatch.setattr(module, "auth", SimpleNamespace(**given))
        module._warn.cache_clear()
        return module

    return made


def answered(guard, path, *, method="POST", **sent):
    """The status of what the guard answers; 200 where it lets a request through."""
    with APP.test_request_context(path, method=method, **sent):
        answer = guard.authenticate()
    return 200 if isinstance(answer, Authorization) else answer.status_code


@pytest.mark.parametrize(
    ("path", "sent", "status"),
    [
        (ALIAS, {"name": "m", "alias": "champion", "version": "1"}, 200),
        (ALIAS, {"name": "m", "alias": "Previous", "version": "1"}, 403),
        (TAG, {"name": "m", "key": "colour", "value": "red"}, 200),
        (TAG, {"name": "m", "key": "mlflow.prompt.is_prompt", "value": "true"}, 403),
        (RENAME, {"name": "m", "new_name": "n"}, 403),
    ],
)
def test_a_trainer_may_do_what_leaves_production_alone(guard, path, sent, status):
    """Plain requests are let through or refused by what they ask for; a releaser's are let in."""
    assert answered(guard(), path, json=sent) == status
    assert answered(guard("kd-releaser"), path, json=sent) == 200


@pytest.mark.parametrize("path", [ALIAS, RENAME, TAG])
@pytest.mark.parametrize(
    "sent",
    [
        {"data": b""},
        {"data": b"alias=champion&name=m&key=colour"},
        {"json": [{"name": "m", "alias": "champion", "key": "colour"}]},
        {"json": json.dumps({"name": "m", "alias": "champion", "key": "colour"})},
        {"json": {"name": 7, "alias": 7, "key": 7}},
        {"json": {"name": None, "alias": None, "key": None}},
        {
            "json": {"name": "m", "alias": "champion", "key": "colour"},
            "query_string": {"alias": "production"},
        },
    ],
    ids=["nothing", "a form", "a list", "JSON in JSON", "numbers", "null", "a query besides"],
)
def test_what_could_be_read_in_another_way_is_refused(guard, path, sent):
    """Only a plain JSON object says of itself that it is harmless."""
    assert answered(guard(), path, **sent) == 403


FORMS = [
    b'{"alias": "champion", "alias": "production"}',
    b'{"alias": "production", "alias": "champion"}',
    b'{"alias": "champion", "\\u0061lias": "production"}',
    b'{"alias": "champion", "Alias": "production", "ALIAS": "production"}',
    b'{"alias": "champion", "[alias]": "production", "name": {"alias": "production"}}',
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
    with APP.test_request_context(ALIAS, method=method, **sent):
        alias = handlers._get_request_message(kind(), request).alias
    harmless = alias.lower() not in ("production", "previous")
    assert harmless or answered(guard(), ALIAS, method=method, **sent) == 403


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
        {"_get_model_registry_store": None},
        {"_get_model_registry_store": object},
    ],
    ids=["no accounts", "other accounts", "another call", "no registry", "another registry"],
)
def test_an_mlflow_that_it_does_not_know_is_closed(guard, caplog, other):
    """All that is guarded is refused, to a releaser too, with one warning; reading goes on."""
    module = guard("kd-releaser", **other)
    sent = {"name": "m", "new_name": "n"}
    assert [answered(module, RENAME, json=sent) for _ in range(3)] == [403] * 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "does not know MLflow" in caplog.text
    assert answered(module, "/api/2.0/mlflow/runs/search", json={}) == 200
