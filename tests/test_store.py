"""A store that fails is one line within seconds, which names it and shows no password."""

import os
import shutil
import socket
import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import mlflow
import pytest
from conftest import forget_store, use_store
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import SSLError
from sqlalchemy.exc import OperationalError

import kd_mlflow as kd
from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import PromoteConfig
from kd_mlflow.errors import RunError, StoreError
from kd_mlflow.registry import versions
from kd_mlflow.tracking import failures
from kd_mlflow.tracking import store as stores
from kd_mlflow.tracking.runs import Tracker

SECRET = "hush"


@pytest.fixture
def no_store(tmp_path, monkeypatch):
    """Point MLflow at an address; forget it when the test ends."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield lambda uri: use_store(monkeypatch, uri, tmp_path)
    forget_store()


@contextmanager
def server(status, body):
    """A web server that answers every request alike; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        yield f"127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@contextmanager
def closed_port():
    """An address where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def fails(words, uri):
    """Using a store raises StoreError soon: one line with these words and no secret."""
    started = time.monotonic()
    with pytest.raises(StoreError) as caught:
        kd.train_teachers(data="wine", n_teachers=1, teacher_epochs=1)
    said = str(caught.value)
    assert time.monotonic() - started < failures.PATIENCE_S + 2
    assert any(word in said for word in words.split(" or "))
    assert failures.masked(uri) in said
    assert "check MLFLOW_TRACKING_URI" in said
    assert SECRET not in said
    assert "\n" not in said


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_refuses_connections(no_store, scheme):
    """A port where nobody listens is said as such, at once."""
    with closed_port() as address:
        no_store(uri := f"{scheme}://me:{SECRET}@{address}")
        fails("cannot be reached: [Errno 111] Connection refused", uri)


@pytest.mark.slow
def test_a_server_that_hangs(no_store, monkeypatch):
    """A server that takes the connection and never answers is given up within seconds."""
    monkeypatch.setattr(failures, "PATIENCE_S", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        no_store(uri := f"http://me:{SECRET}@127.0.0.1:{silent.getsockname()[1]}")
        fails("cannot be reached: no answer within", uri)


def test_a_name_that_takes_minutes_to_look_up(no_store, monkeypatch):
    """Looking a name up, which no timeout of a request covers, is given up too."""
    done = threading.Event()
    monkeypatch.setattr(failures, "PATIENCE_S", 0.2)
    monkeypatch.setattr(stores, "_ask_server", lambda *question: done.wait(30))
    no_store(uri := f"http://me:{SECRET}@nowhere.invalid")
    fails("cannot be reached: no answer within", uri)
    done.set()


@pytest.mark.slow_cases
@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, b"<html>\n<h1>none</h1></html>", "failed with error code 404"),
        (200, b"<html>\n<h1>welcome</h1></html>", "not in a valid JSON format"),
        (401, b"You are not let in", "MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD"),
        (
            500,
            b'{"error_code": "INTERNAL_ERROR", "message": "broken"}',
            "too many 500 error responses or INTERNAL_ERROR: broken",
        ),
    ],
)
def test_a_server_that_is_no_mlflow_server(no_store, status, body, words):
    """What answers in another way than MLflow does is a failure in one line, not a traceback."""
    with server(status, body) as address:
        no_store(uri := f"http://me:{SECRET}@{address}")
        fails(words, uri)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("sqlite:///nowhere/mlflow.db", "the folder nowhere does not exist"),
        ("sqlite:////proc/mlflow.db", "no file can be made in /proc"),
        ("sqlite:///table.csv", "file is not a database"),
        (f"postgresql+psycopg2://me:{SECRET}@db/x", "the Python package psycopg2, which is not"),
        (f"postgresql://me:{SECRET}@db:port/x", "that is no address"),
        (f"http://me:{SECRET}/{SECRET}@db", "that is no address"),
        (f"nosuch://me:{SECRET}@db/x", "unsupported URI"),
    ],
)
def test_a_store_that_cannot_be_opened(no_store, tmp_path, uri, words):
    """Missing folders, other files, missing drivers and bad addresses are said in one line."""
    (tmp_path / "table.csv").write_text("x,y\n1,0\n" * 100)
    no_store(uri)
    fails(words, uri)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.csv"]


def test_a_database_that_refuses(no_store, monkeypatch):
    """A database's own first line is the reason; MLflow does not get to try for minutes."""
    refusal = Exception("connection refused\n\tIs the server running?")
    monkeypatch.setattr(stores, "create_engine", lambda uri, **given: _Refusing(refusal))
    no_store(uri := f"postgresql://me:{SECRET}@db/x")
    fails("cannot be reached: connection refused; ", uri)


def test_mysql_is_asked_by_mlflows_certificates(no_store, monkeypatch):
    """What MLflow is told of TLS to MySQL holds for the first sign of life too."""
    asked = {}

    def connect(uri, **given):
        asked.update(given)
        return _Refusing(Exception("refused"))

    monkeypatch.setattr(stores, "create_engine", connect)
    monkeypatch.setenv("MLFLOW_MYSQL_SSL_CA", "ca.pem")
    no_store(uri := f"mysql+pymysql://me:{SECRET}@db/x")
    fails("cannot be reached: refused; ", uri)
    assert asked == {"connect_args": {"ssl_ca": "ca.pem"}}


class _Refusing:
    """An engine whose database refuses connections."""

    def __init__(self, refusal):
        self.refusal = refusal

    def connect(self):
        raise OperationalError("connect", {}, self.refusal)


def test_a_busy_database_is_there(store, tmp_path):
    """A database file that another process writes is no failure."""
    with sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        stores.check_stores()
        other.execute("ROLLBACK")
    other.close()


def test_a_database_whose_writer_was_killed_is_there(store, tmp_path):
    """What it left half written is undone by whoever opens the file next, as sqlite does."""
    writer = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM experiments")
    for name in ("mlflow.db", "mlflow.db-journal"):  # as a crash leaves both
        shutil.copy(tmp_path / name, tmp_path / f"killed-{name}")
    writer.close()
    uri = f"sqlite:///{tmp_path / 'killed-mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    stores.check_stores()
    assert MlflowClient(uri).search_experiments()


def test_a_registry_elsewhere_is_asked_too(store, monkeypatch):
    """With another MLFLOW_REGISTRY_URI, that one is asked and named."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with closed_port() as address:
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"http://me:{SECRET}@{address}")
        with pytest.raises(StoreError) as caught:
            kd.promote()
    words = f"the registry http://me:***@{address} cannot be reached: [Errno 111]"
    assert str(caught.value).startswith(words)
    assert str(caught.value).endswith("check MLFLOW_REGISTRY_URI")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pw@host:5000/x", "http://me:***@host:5000/x"),
        ("http://me:p@w@host", "http://me:***@host"),
        ("http://me:123@host", "http://me:***@host"),
        ("http://pw@host", "http://***@host"),
        ("postgresql+psycopg://me:p/w@host/db", "postgresql+psycopg://me:***@host/db"),
        ("postgresql//me:pw@host", "postgresql//me:***@host"),
        ("http://host:5000/models/a@b", "http://host:5000/models/a@b"),
        ("from http://a:pw@b and http://c:pw@d", "from http://a:***@b and http://c:***@d"),
        ("https://host/x?a=1&api_key=pw&b=2", "https://host/x?a=1&api_key=***&b=2"),
        ("https://host/x?X-Amz-Signature=pw", "https://host/x?X-Amz-Signature=***"),
        ("models:/name@production", "models:/name@production"),
    ],
)
def test_credentials_are_masked(text, shown):
    """Passwords, tokens as users and secrets in queries are replaced; nothing else is."""
    assert failures.masked(text) == shown


@pytest.mark.parametrize("given", [None, "3"])
def test_patience_comes_back(monkeypatch, given):
    """MLflow's own settings are as they were once the impatient requests are done."""
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    if given:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", given)
    before = dict(os.environ)
    with failures.impatient():
        during = os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
    assert during == "0"
    assert dict(os.environ) == before


def failing(monkeypatch, name, code=INTERNAL_ERROR):
    """Make one call of MLflow's client fail; its message holds a password."""

    def call(self, *arguments, **options):
        raise MlflowException(f"http://me:{SECRET}@host broke\nand more", error_code=code)

    monkeypatch.setattr(MlflowClient, name, call)


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("get_run", lambda: Tracker().get("0" * 32)),
        ("list_artifacts", lambda: Tracker().download("0" * 32, "ensemble")),
        ("get_registered_model", lambda: kd.rollback()),
        ("get_model_version", lambda: pipeline.run_promote(PromoteConfig(version="7"))),
        ("get_registered_model", lambda: pipeline.run_promote(PromoteConfig())),
        ("get_model_version", lambda: kd.load_production()),
        ("search_runs", lambda: kd.train_teachers(data="wine")),
        ("create_run", lambda: kd.train_teachers(data="wine", force=True, store_patience_s=0)),
    ],
)
def test_a_failure_is_never_an_absence(finished, monkeypatch, name, use):
    """What MLflow cannot say is a StoreError with the reason, not a run or model that is not."""
    failing(monkeypatch, name)
    with pytest.raises(StoreError) as caught:
        use()
    assert "answers with an error: http://me:***@host broke; check" in str(caught.value)


def test_an_outage_rejects_no_candidate(finished, monkeypatch, tmp_path):
    """A store that goes away while the gate loads a version is an error, not a rejection."""

    def away(**named):
        raise MlflowException("away") from OperationalError("select", {}, Exception("server away"))

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", away)
    version = finished.client.get_model_version("kd-student", "1")
    with pytest.raises(StoreError, match="cannot be reached: server away"):
        versions.pull(version, tmp_path)


def test_an_artifact_that_does_not_come_is_not_missing(finished, monkeypatch):
    """A folder that the run has and MLflow cannot fetch is the store's failure."""
    run_id = finished.result.taught.run_id
    failing(monkeypatch, "download_artifacts")
    with pytest.raises(StoreError, match="broke"):
        Tracker().download(run_id, "ensemble")
    with pytest.raises(RunError, match="has no artifact 'other'"):
        Tracker().download(run_id, "other")


def test_the_stores_in_use_are_left_alone(finished):
    """Asking for a sign of life changes no setting and makes no experiment."""
    before = (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), dict(os.environ))
    stores.check_stores()
    assert before == (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), dict(os.environ))


def test_a_failed_write_shows_no_value(store, tmp_path, caplog, capfd):
    """What was to be written is in no message and no log: a database's error has it all."""
    client = Tracker().client
    run = client.create_run(client.create_experiment("runs")).info.run_id
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON tags "
            "BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"
        )
    with pytest.raises(MlflowException) as caught:
        client.set_tag(run, "colour", SECRET)
    said = str(failures.store_error(caught.value))
    assert "disk is full" in said
    for text in (said, failures.masked(str(caught.value)), caplog.text, *capfd.readouterr()):
        assert SECRET not in text
        assert "INSERT" not in text


def test_a_private_certificate_is_named():
    """Who cannot check the server's certificate reads which setting says where it lies."""
    error = SSLError("certificate verify failed: self-signed certificate")
    assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in str(failures.store_error(error))


def test_what_no_waiting_mends_is_not_waited_for():
    """SQL that MLflow makes of a folder with both quotes is wrong for good."""
    error = OperationalError("INSERT", {}, sqlite3.OperationalError('near "c": syntax error'))
    assert not failures.passing(error)
    assert failures.passing(OperationalError("INSERT", {}, sqlite3.OperationalError("locked")))


def test_files_that_do_not_come_are_named_soon(finished, monkeypatch):
    """The line says which files; MLflow asks for them three times again, not seven."""
    asked = []

    def away(**given):
        asked.append(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
        raise RequestsConnectionError("refused")

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", lambda *uri, **given: away(**given))
    with pytest.raises(
        StoreError, match=r"the artifact of version 1 of 'kd-student' cannot be fet"
    ):
        kd.load_production()
    assert asked == ["3"]
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_a_folder_of_another_user_is_one_line():
    """Artifacts that this user may not write are the store's refusal, at once."""

    def refused():
        raise PermissionError(13, "Permission denied", "/data/mlruns/1")

    with pytest.raises(StoreError, match="Permission denied: '/data/mlruns/1'"):
        failures.Patience(60.0).make(refused)
