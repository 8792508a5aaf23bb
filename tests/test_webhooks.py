"""MLflow's webhooks tell a receiver that production moved, signed, as docs/webhooks.md says."""

import json
import queue
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import mlflow
import pytest
from conftest import ROOT, copy_store, forget_store, part_of, use_store
from cryptography.fernet import Fernet
from served import mlflow_server

import kd_mlflow as kd
from kd_mlflow.config.entry_points import PromoteConfig

pytestmark = pytest.mark.slow

SECRET = "hush"
ALIASES = ["model_version_alias.created", "model_version_alias.deleted"]
PATIENCE_S = 30
LOCAL = {
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
}


def documented():
    """The check of signatures that the page gives."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/webhooks.md").read_text(), re.S)
    (code,) = [block for block in blocks if "def is_genuine" in block]
    found = {}
    exec(code, found)
    return found


is_genuine = documented()["is_genuine"]


class Deliveries(BaseHTTPRequestHandler):
    """Keeps what is posted, headers and body, in the order in which it comes."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.put((dict(self.headers), body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def receiver():
    """A receiver on 127.0.0.1; its address, and what it was sent."""
    with HTTPServer(("127.0.0.1", 0), Deliveries) as http:
        http.received = queue.Queue()
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/production-moved", http.received
        http.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def database(finished_main, tmp_path_factory):
    """A store of the finished ``main`` whose version is in production; its address."""
    return copy_store(finished_main.folder / "mlflow.db", tmp_path_factory.mktemp("webhooks"))


@pytest.fixture(scope="module")
def server(database, receiver, tmp_path_factory):
    """A tracking server on it that has a webhook for the receiver."""
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(database, folder, **LOCAL) as address:
        client = mlflow.MlflowClient(address)
        client.create_webhook("deploy", receiver[0], ALIASES, secret=SECRET)
        yield address


@pytest.fixture
def told(server, receiver, tmp_path, monkeypatch):
    """The receiver's deliveries, one after the other; the server is the store in use."""
    _, received = receiver
    use_store(monkeypatch, server, tmp_path)
    yield lambda: received.get(timeout=PATIENCE_S)
    forget_store()


def of_alias(alias, told):
    """The next delivery about an alias."""
    while True:
        headers, body = told()
        if json.loads(body)["data"]["alias"] == alias:
            return headers, body


def test_a_promotion_is_told_and_signed(told, server):
    """``promote`` through a server reaches the receiver, who can check who sent it and when."""
    client = mlflow.MlflowClient(server)
    client.delete_registered_model_alias("kd-student", "production")
    assert json.loads(told()[1])["action"] == "deleted"
    gate = part_of(PromoteConfig)
    assert kd.promote(version="1", data="synthetic", **gate).promoted
    headers, body = of_alias("production", told)
    message = json.loads(body)
    assert (message["entity"], message["action"]) == ("model_version_alias", "created")
    assert message["data"] == {"name": "kd-student", "alias": "production", "version": "1"}
    assert is_genuine(headers, body, SECRET)
    assert not is_genuine(headers, body.replace(b'"1"', b'"2"'), SECRET)
    assert not is_genuine(headers, body, "guessed")
    old = headers | {"X-MLflow-Timestamp": str(int(time.time()) - 3600)}
    assert not is_genuine(old, body, SECRET)


def test_a_store_beside_the_server_tells_nobody(told, server, database):
    """An alias that is set in the database itself reaches no receiver; the next one does."""
    mlflow.MlflowClient(database).set_registered_model_alias("kd-student", "unheard", "1")
    mlflow.MlflowClient(server).set_registered_model_alias("kd-student", "heard", "1")
    aliases = []
    while "heard" not in aliases:
        aliases.append(json.loads(told()[1])["data"]["alias"])
    assert "unheard" not in aliases


def test_a_server_takes_public_https_addresses_alone(server, database, tmp_path_factory):
    """Without the settings for receivers within a network the page's warning holds."""
    folder = tmp_path_factory.mktemp("strict")
    with mlflow_server(database, folder) as address:
        client = mlflow.MlflowClient(address)
        for url, words in (
            ("http://deploy.example.com/", "scheme"),
            ("https://127.0.0.1/", "public"),
        ):
            with pytest.raises(mlflow.MlflowException, match=words):
                client.create_webhook("refused", url, ALIASES)


def test_without_a_lasting_key_nothing_is_delivered(server, receiver, database, tmp_path_factory):
    """A server that was started anew with another key cannot read the secret, and says so."""
    _, received = receiver
    folder = tmp_path_factory.mktemp("another key")
    changed = LOCAL | {"MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode()}
    with mlflow_server(database, folder, **changed) as address:
        mlflow.MlflowClient(address).set_registered_model_alias("kd-student", "lost", "1")
        deadline = time.monotonic() + PATIENCE_S
        while "Failed to deliver webhook" not in (folder / "log").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert not any(b'"lost"' in body for _, body in list(received.queue))
