"""Readers pull, trainers register, releasers move production: on a real server with basic-auth."""

import base64
import importlib
import itertools
import os
import re
import shutil
import sqlite3
from contextlib import closing

import mlflow
import psutil
import pytest
import requests
from click.testing import CliRunner
from conftest import ROOT, TINY, forget_store, part_of, use_store
from forks import Forked
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from served import made_server
from werkzeug.security import generate_password_hash

from kd_mlflow.config.entry_points import DistillConfig, MainConfig, PromoteConfig, TeachersConfig
from kd_mlflow.config.options import text_value
from kd_mlflow.table.loading import load_table

pytestmark = pytest.mark.slow

SECRET = "correct-Horse-7-battery"
ROLES = ("reader", "trainer", "releaser")
NAME = "kd-student"


def options_of(config):
    """The options of a tiny run that an entry point takes."""
    given = part_of(config, TINY) | {"data": "wine"}
    return [f"--{name}={text_value(value)}" for name, value in given.items()]


def environment(address, user):
    """What a person with an account sets."""
    return {
        "MLFLOW_TRACKING_URI": address,
        "MLFLOW_TRACKING_USERNAME": user,
        "MLFLOW_TRACKING_PASSWORD": SECRET,
    }


def roles(address, *arguments):
    """Call the script as the server's admin does; the password comes by standard input."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "deploy")
        for name, value in environment(address, "admin").items():
            patch.setenv(name, value)
        mlflow.set_tracking_uri(address)
        return CliRunner().invoke(importlib.import_module("roles").cli, arguments, input=SECRET)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the server keeps all that it writes."""
    return tmp_path_factory.mktemp("access")


@pytest.fixture(scope="module")
def server(empty_database, folder):
    """What ``make server`` starts with the repository's settings; an account of each role."""
    (folder / "data").mkdir()
    shutil.copy(empty_database, folder / "data" / "mlflow.db")
    with made_server(
        "server",
        folder,
        "SERVER_OPTIONS=--app-name basic-auth",
        MLFLOW_AUTH_CONFIG_PATH=str(ROOT / "deploy" / "auth.ini"),
        MLFLOW_AUTH_ADMIN_PASSWORD=SECRET,
        MLFLOW_FLASK_SERVER_SECRET_KEY="a-key-of-the-tests",
        PYTHONPATH=str(ROOT / "deploy"),
    ) as address:
        said = roles(address, "setup")
        assert said.exit_code == 0, said.output
        for role in ROLES:
            said = roles(address, "give", f"a-{role}", role)
            assert (said.exit_code, said.output) == (0, f"a-{role}: {role}\n")
        hash_cheaply(folder / "data" / "accounts.db")
        yield address


def hash_cheaply(accounts):
    """Keep passwords so that checking one takes no tenth of a second, which each request does."""
    cheap = generate_password_hash(SECRET, "pbkdf2:sha256:1")
    with closing(sqlite3.connect(accounts)) as database, database:
        database.execute("UPDATE users SET password_hash = ?", (cheap,))


@pytest.fixture
def login(server, tmp_path, monkeypatch):
    """Become somebody; return a client."""

    def become(user, password=SECRET):
        for name, value in environment(server, user).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        return MlflowClient(server)

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    use_store(monkeypatch, server, tmp_path)
    yield become
    forget_store()


@pytest.fixture
def production(login, run):
    """A version in production, trained by the trainer and promoted by the releaser."""
    client = login("a-trainer")
    registered = {model.name for model in client.search_registered_models()}
    if NAME not in registered:
        for command, config in (("teachers", TeachersConfig), ("distill", DistillConfig)):
            code, _, err = run(command, *options_of(config))
            assert code == 0, err
        login("a-releaser")
        code, out, err = run("promote", *options_of(PromoteConfig))
        assert code == 0, err
        assert "APPROVED" in out
    return MlflowClient().get_model_version_by_alias(NAME, "production")


def refused(said, *words):
    """A command said one clear line and exited 1."""
    code, out, err = said
    assert code == 1, out + err
    assert err.count("\n") == 1, err
    assert err.startswith("Error: ")
    for word in words:
        assert word in err
    assert SECRET not in out + err


@pytest.mark.parametrize("password", [None, "not-the-password"])
def test_without_credentials_one_line(server, login, run, monkeypatch, password):
    """Nobody is let in without a password, and the line names the settings that are wrong."""
    login("a-trainer", password or "")
    if password is None:
        monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
        monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    answer = requests.get(f"{server}/api/2.0/mlflow/experiments/search?max_results=1", timeout=9)
    assert answer.status_code == 401
    refused(run("teachers", *options_of(TeachersConfig)), "MLFLOW_TRACKING_PASSWORD")


def test_a_trainer_registers_and_a_releaser_promotes(production):
    """The way into production that the roles leave open is open."""
    assert production.version == "1"


def test_a_reader_pulls_production(production, login):
    """A reader loads what is in production by its alias, and it answers."""
    login("a-reader")
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@production")
    features = load_table("wine").features
    assert len(model.predict(features)) == len(features)


@pytest.mark.parametrize("experiment", ["kd-mlflow", "one of a reader's own"])
def test_a_reader_cannot_log(production, login, run, monkeypatch, experiment):
    """A reader neither logs into an experiment nor makes one; one line says so."""
    client = login("a-reader")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", experiment)
    before = len(client.search_runs(["1"]))
    refused(run("teachers", *options_of(TeachersConfig), "--force=true"), "does not permit")
    login("admin")
    assert len(client.search_runs(["1"])) == before
    assert client.get_experiment_by_name("one of a reader's own") is None


def test_a_trainer_cannot_move_production(production, login, run):
    """A trainer's promote and rollback exit 1 with one line, and every alias stays where it is."""
    client = login("a-trainer")
    code, _, err = run("distill", *options_of(DistillConfig), "--seed=7")
    assert code == 0, err
    before = client.get_registered_model(NAME).aliases
    refused(run("promote", *options_of(PromoteConfig)), "kd-releaser", "a-trainer")
    assert client.get_registered_model(NAME).aliases == before
    assert not [m.name for m in client.search_registered_models() if "lock" in m.name]
    login("a-releaser")
    assert run("promote", *options_of(PromoteConfig))[0] == 0
    login("a-trainer")
    refused(run("rollback"), "kd-releaser", "a-trainer")
    assert client.get_registered_model(NAME).aliases["production"] == "2"
    login("a-releaser")
    assert run("rollback")[0] == 0
    assert client.get_registered_model(NAME).aliases["production"] == production.version


REQUESTS = {
    "set production": lambda c: c.set_registered_model_alias(NAME, "production", 1),
    "set previous": lambda c: c.set_registered_model_alias(NAME, "previous", 1),
    "set it in capitals": lambda c: c.set_registered_model_alias(NAME, "Production", 1),
    "delete the alias": lambda c: c.delete_registered_model_alias(NAME, "production"),
    "rename the model": lambda c: c.rename_registered_model(NAME, "other"),
    "delete the model": lambda c: c.delete_registered_model(NAME),
    "delete the version": lambda c: c.delete_model_version(NAME, 1),
    "forge an intention": lambda c: c.set_registered_model_tag(NAME, "kd.moving", "{}"),
    "forge a record": lambda c: c.set_model_version_tag(NAME, 1, "kd.production.000009", "{}"),
    "forget a record": lambda c: c.delete_model_version_tag(NAME, 1, "kd.production.000001"),
    "make a lock": lambda c: c.create_registered_model(f"{NAME}.lock-0123abcd-1"),
    "make it a prompt": lambda c: c.set_registered_model_tag(
        NAME, "mlflow.prompt.is_prompt", "true"
    ),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_ways_around_the_command_line_are_closed(production, login, what):
    """A trainer who asks the server itself is refused whatever takes production away."""
    client = login("a-trainer")
    with pytest.raises(MlflowException, match="needs the role kd-releaser"):
        REQUESTS[what](client)
    assert client.get_registered_model(NAME).aliases["production"] == production.version


def test_files_of_registered_models_stay(production, login, server):
    """A trainer, who may write into the experiment, cannot replace a registered model's files."""
    client = login("a-trainer")
    model = client.get_logged_model(production.source.removeprefix("models:/"))
    addresses = ("{}", "./{}", "%2e/{}", "{}/../{}")
    for method, written in itertools.product(("PUT", "DELETE"), addresses):
        place = f"{model.experiment_id}/models/{written.format(model.model_id, model.model_id)}"
        url = f"{server}/api/2.0/mlflow-artifacts/artifacts/{place}/artifacts/MLmodel"
        asked = requests.Request(method, url, data=b"other", auth=("a-trainer", SECRET)).prepare()
        asked.url = url  # as it is written
        with requests.Session() as session:
            assert session.send(asked, timeout=9).status_code in (400, 403), (method, written)
    login("a-reader")
    mlflow.pyfunc.load_model(f"models:/{NAME}@production")


def test_files_of_a_run_stay_where_they_were_registered(production, login, server):
    """Registered by hand from a run, a folder is closed to trainers; the run's others are not."""
    client = login("a-trainer")
    run = client.create_run(client.get_experiment_by_name("kd-mlflow").experiment_id).info
    client.log_text(run.run_id, "flavors: {}", "model/MLmodel")
    client.create_registered_model("by-hand")
    client.create_model_version("by-hand", f"{run.artifact_uri}/model", run.run_id)
    with pytest.raises(requests.HTTPError, match="needs the role kd-releaser"):
        client.log_text(run.run_id, "other", "model/MLmodel")
    client.log_text(run.run_id, "more", "model.txt")
    assert [file.path for file in client.list_artifacts(run.run_id)] == ["model", "model.txt"]


def test_the_run_of_a_promotion_stays_as_it_was(production, login, server):
    """A trainer neither changes a releaser's decision nor makes a run that looks like one."""
    client = login("a-trainer")
    run_id = production.tags["kd.promotion_run_id"]
    experiment = client.get_run(run_id).info.experiment_id
    for change in (
        lambda: client.set_tag(run_id, "kd.promotion", "rejected"),
        lambda: client.log_metric(run_id, "gate.accuracy", 0),
        lambda: client.set_terminated(run_id, "FAILED"),
        lambda: client.delete_run(run_id),
        lambda: client.create_run(experiment, tags={"kd.kind": "promotion"}),
    ):
        with pytest.raises(MlflowException, match="needs the role kd-releaser"):
            change()
    with pytest.raises(requests.HTTPError, match="needs the role kd-releaser"):
        client.log_text(run_id, "{}", "promotion.json")


def test_no_route_changes_a_file_or_an_alias(production, login, server):
    """Every writing route of MLflow's, asked by a trainer for the files of two versions.

    Those that no role may ask for are refused whatever is sent.
    """
    client = login("a-trainer")
    run = client.create_run(client.get_experiment_by_name("kd-mlflow").experiment_id).info
    client.log_text(run.run_id, "flavors: {}", "model/MLmodel")
    client.create_registered_model("in-a-run")
    client.create_model_version("in-a-run", f"{run.artifact_uri}/model", run.run_id)
    model = client.get_logged_model(production.source.removeprefix("models:/"))
    paths = {
        run.run_id: f"{run.experiment_id}/{run.run_id}/artifacts/model/MLmodel",
        model.model_id: f"{model.experiment_id}/models/{model.model_id}/artifacts/MLmodel",
    }

    def standing():
        files = [client.get_model_version_download_uri(NAME, "1")]
        for path in paths.values():
            url = f"{server}/api/2.0/mlflow-artifacts/artifacts/{path}"
            files.append(requests.get(url, auth=("a-trainer", SECRET), timeout=9).content)
        found = client.get_registered_model(NAME)
        kept = {key: value for key, value in found.tags.items() if key.startswith("kd.")}
        return files, found.aliases, kept, client.get_model_version(NAME, "1").tags

    before = standing()
    session = requests.Session()
    page = (ROOT / "docs" / "routes.md").read_text()
    writing = re.findall(r"^\| `(POST|PUT|PATCH|DELETE) (\S+)` \| (\w+) ", page, re.MULTILINE)
    assert len(writing) > 150
    for method, route, role in writing:
        if "update-password" in route:
            continue
        for owner, path in paths.items():
            filled = route.replace("<path:artifact_path>", path).replace("<model_id>", owner)
            base = "" if route.startswith("/") else "/ajax-api/"
            named = {"run_id": owner, "run_uuid": owner, "model_id": owner, "path": "model/MLmodel"}
            asked = {**named, "name": NAME, "version": "1", "alias": "production", "new_name": "n"}
            tag = {"key": "kd.production.000001", "value": "{}", "stage": "Archived"}
            bodies = [
                {"json": {**asked, **tag}},
                {"params": named, "data": b"other"},
                {"data": b"other"},
            ]
            for sent in bodies[:1] if role == "admin" else bodies:
                login_of = ("a-trainer", SECRET)
                url = f"{server}{base}{filled}"
                session.request(method, url, auth=login_of, timeout=30, **sent)
    assert standing() == before


def test_an_account_without_a_role_sees_nothing(production, login, server):
    """Who is given no role reads neither runs nor models."""
    said = roles(server, "give", "nobody", "reader")
    assert said.exit_code == 0, said.output
    admin = login("admin")
    from mlflow.server import get_app_client  # a second for whoever collects tests

    accounts = get_app_client("basic-auth", tracking_uri=server)
    accounts.unassign_role("nobody", accounts.list_user_roles("nobody")[0].id)
    login("nobody")
    with pytest.raises(MlflowException, match="needs the role kd-reader"):
        admin.search_registered_models()
    with pytest.raises(MlflowException, match="needs the role kd-reader"):
        admin.get_model_version_by_alias(NAME, "production")


def test_a_role_replaces_the_one_before(production, login, server):
    """Giving an account another role takes the first away, and the account keeps its password."""
    for role in ("releaser", "reader"):
        assert roles(server, "give", "moved", role).exit_code == 0
    client = login("moved")
    with pytest.raises(MlflowException, match="needs the role kd-releaser"):
        client.set_registered_model_alias(NAME, "production", 1)
    assert client.get_model_version(NAME, "1").version == "1"
    assert roles(server, "remove", "moved").output == "moved: removed\n"
    login("moved")
    with pytest.raises(MlflowException, match="401"):
        client.get_model_version(NAME, "1")


def test_make_server_keeps_all_in_one_folder(production, folder):
    """``make server`` runs two processes, hands artifacts through, and writes into one folder."""
    [started] = [p for p in psutil.Process().children() if p.name() in ("make", "mlflow")]
    assert len(started.children(recursive=True)) <= 2
    run = MlflowClient().get_run(production.run_id).info
    assert run.artifact_uri.startswith("mlflow-artifacts:")
    assert {path.name for path in folder.iterdir()} == {"data", "log"}
    assert {"accounts.db", "artifacts", "mlflow.db"} <= {
        p.name for p in (folder / "data").iterdir()
    }


@pytest.mark.parametrize("api", ["api", "ajax-api"])
def test_both_addresses_of_an_api_are_guarded(production, server, api):
    """The addresses that MLflow's pages use are no way around either."""
    base = f"{server}/{api}/2.0"
    files = production.source.removeprefix("models:/")
    for method, path, body in (
        ("POST", "mlflow/registered-models/alias", {"alias": "production", "version": "1"}),
        ("DELETE", "mlflow/registered-models/alias", {"alias": "production"}),
        ("POST", f"mlflow-artifacts/mpu/create/1/models/{files}/artifacts", {"num_parts": 1}),
    ):
        answer = requests.request(
            method, f"{base}/{path}", json={"name": NAME, **body}, auth=("a-trainer", SECRET)
        )
        assert answer.status_code == 403, path
        assert "needs the role kd-releaser" in answer.text


def test_no_secret_is_written_anywhere(server, folder, tmp_path):
    """A password in the address and in the environment is in no run, file, log or line."""
    user = "a-releaser"
    address = server.replace("http://", f"http://{user}:{SECRET}@")
    main = Forked(
        *("kd_mlflow", "main", *options_of(MainConfig), "--model-name=other"),
        folder=tmp_path,
        env={**os.environ, **environment(address, user), "KD_MLFLOW_STATE": str(tmp_path)},
        log=tmp_path / "said",
        without=("drawing", "rehearsal", "timing", "export", "boosting alone"),
    )
    assert main.wait(120) == 0, (tmp_path / "said").read_text()
    files = [*folder.rglob("*"), *tmp_path.rglob("*")]
    written = [(path, path.read_bytes()) for path in files if path.is_file()]
    assert any(b"mlflow_version" in content for _, content in written)  # the model is among them
    secrets = [SECRET.encode(), base64.b64encode(f"{user}:{SECRET}".encode())]
    assert not [path for path, content in written if any(s in content for s in secrets)]
