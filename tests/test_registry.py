"""The gate moves production only when a version earns it, and says what it did."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mlflow
import pytest
from conftest import copied_store
from mlflow import MlflowClient
from test_promotion import NAME, aliases

import kd_mlflow as kd
from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import MainConfig, PromoteConfig, RollbackConfig
from kd_mlflow.errors import ConfigError, RegistryError
from kd_mlflow.registry import moves, versions
from kd_mlflow.registry.lock import KIND
from kd_mlflow.tracking.runs import Tracker

ALLOWED = {
    "max_accuracy_gap": 1.0,
    "max_log_loss_gap": 0.0,
    "allow_worse_than_baseline": True,
    "policy": "any",
}
PASSING = PromoteConfig(**ALLOWED, min_compression=1.0)


def promotion_runs(client):
    """Runs of the gate, the newest first."""
    experiment = client.get_experiment_by_name("kd-mlflow").experiment_id
    return client.search_runs([experiment], "tags.`kd.kind` = 'promotion'")


def test_first_promotion_has_no_previous(finished):
    """After the first promotion production is version 1, nothing is previous, nobody waits."""
    assert aliases(finished.client) == {"production": "1"}
    assert finished.result.decision.replaced is None


def test_second_promotion_keeps_the_predecessor(waiting):
    """After the second promotion production is version 2 and previous is version 1."""
    assert aliases(waiting.client) == {"candidate": "2", "production": "1"}
    decision = pipeline.run_promote(PASSING)
    assert (decision.promoted, decision.version, decision.replaced) == (True, "2", "1")
    assert aliases(waiting.client) == {"production": "2", "previous": "1"}


def test_version_says_where_it_comes_from(finished):
    """A version's tags name its decision, run and data; its description is its card."""
    version = finished.client.get_model_version(NAME, "1")
    run = finished.client.get_run(finished.result.distill.run_id)
    record = json.loads(version.tags.pop("kd.production.000001"))
    (promotion,) = promotion_runs(finished.client)
    assert (record["version"], record["run_id"]) == ("1", promotion.info.run_id)
    decided = datetime.fromisoformat(version.tags.pop("kd.promotion_time"))
    assert timedelta(0) <= datetime.now(UTC) - decided < timedelta(hours=1)
    assert version.tags.pop("kd.files_digest") == record["digest"]
    assert version.tags == {
        "kd.promotion": "promoted",
        "kd.promotion_reason": moves.cut(finished.result.decision.reason),
        "kd.promotion_run_id": promotion.info.run_id,
        "kd.target": "label",
        "kd.run_id": run.info.run_id,
        "kd.data_digest": run.data.tags["kd.data_digest"],
        "kd.split": run.data.tags["kd.split"],
        "kd.content_digest": version.tags["kd.content_digest"],
    }
    assert version.run_id == run.info.run_id
    assert version.description.startswith(f"# {NAME}")


def test_a_new_version_waits(waiting):
    """A version that the gate has not seen is pending."""
    assert waiting.client.get_model_version(NAME, "2").tags["kd.promotion"] == "pending"


@pytest.mark.slow
def test_a_promotions_run_has_the_whole_decision(waiting):
    """``promotion.json`` and ``promotion.md`` have every check with its question and threshold.

    With ``gate_metric`` balanced_accuracy they hold that figure of both sides.
    """
    client = waiting.client
    decision = pipeline.run_promote(replace(PASSING, gate_metric="balanced_accuracy"))
    run = promotion_runs(client)[0]
    document = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/promotion.json")
    assert [check["name"] for check in document["checks"]] == [c.name for c in decision.checks]
    assert (document["passed"], document["in_production"]) == (True, "1")
    page = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/promotion.md")
    for check in decision.checks:
        assert f"| {check.name} | {check.question} |" in page
    assert "| compression, threshold | 1 |" in page
    assert run.data.tags["kd.promotion_reason"] == moves.cut(decision.reason)
    assert "balanced accuracy" in decision.reason
    (check,) = [check for check in document["checks"] if check["name"] == "accuracy"]
    assert {"registered_test_balanced_accuracy", "ensemble_test_balanced_accuracy"} <= set(
        check["metrics"]
    )


@pytest.mark.slow
def test_a_decision_leaves_the_card_alone(waiting):
    """Promoted and rolled back a version keeps its card; the promotion's run compares versions."""
    client = waiting.client
    card = client.get_model_version(NAME, "2").description
    pipeline.run_promote(PASSING)
    note = promotion_runs(client)[0].data.tags["mlflow.note.content"]
    assert "was promoted: " in note
    assert "Version 1 was in production." in note
    pipeline.run_rollback(RollbackConfig())
    assert client.get_model_version(NAME, "2").description == card


@pytest.mark.slow
def test_rejection_moves_nothing_and_is_recorded(waiting):
    """A rejected version waits no longer, and production stays; version and run say why.

    Its card begins with the reason and a link to the decision; a promotion takes both off again.
    """
    client = waiting.client
    card = client.get_model_version(NAME, "2").description
    decision = pipeline.run_promote(PromoteConfig(**ALLOWED, min_compression=1000))
    assert (decision.passed, decision.promoted) == (False, False)
    assert aliases(client) == {"production": "1"}
    tags = client.get_model_version(NAME, "2").tags
    assert tags["kd.promotion"] == "rejected"
    assert tags["kd.promotion_reason"] == decision.reason
    assert "at least 1000x required" in decision.reason
    run = promotion_runs(client)[0]
    assert run.info.status == "FINISHED"
    assert run.data.tags["kd.promotion"] == "rejected"
    gates = {key: value for key, value in run.data.metrics.items() if key.startswith("gate.")}
    assert gates == {
        "gate.accuracy": 1,
        "gate.baseline": 1,
        "gate.compression": 0,
        "gate.reproduction": 1,
        "gate.task": 1,
    }
    first, blank, *_ = client.get_model_version(NAME, "2").description.splitlines()
    assert first.startswith("**Rejected by the gate:** compression ")
    assert first.endswith(f"(#/experiments/{run.info.experiment_id}/runs/{run.info.run_id})")
    assert blank == ""
    pipeline.run_promote(replace(PASSING, version="2"))
    assert card.startswith(client.get_model_version(NAME, "2").description.strip()[:2000])


@pytest.mark.slow
def test_gate_rejects_a_version_whose_artifact_is_broken(waiting):
    """A version that does not load is rejected, not an error."""
    source = waiting.client.get_model_version(NAME, "2").source.removeprefix("models:/")
    location = waiting.client.get_logged_model(source).artifact_location
    (weights,) = Path(location.removeprefix("file://")).rglob("weights.npz")
    weights.write_bytes(b"no model")
    decision = pipeline.run_promote(PASSING)
    assert not decision.promoted
    assert "does not load and score" in decision.reason


@pytest.mark.slow
def test_rollback_restores_the_predecessor(waiting):
    """Production is what it was, and what left is previous; both say so, with the reason."""
    pipeline.run_promote(PASSING)
    restored, replaced = pipeline.run_rollback(RollbackConfig(reason="alarms"))
    assert (restored, replaced) == ("1", "2")
    assert aliases(waiting.client) == {"production": "1", "previous": "2"}
    one, two = (waiting.client.get_model_version(NAME, v).tags for v in "12")
    assert (one["kd.promotion"], two["kd.promotion"]) == ("promoted", "rolled_back")
    assert one["kd.promotion_reason"] == two["kd.promotion_reason"] == "alarms"


@pytest.mark.slow
def test_a_second_rollback_does_not_go_back_and_forth(waiting):
    """A plain rollback does not return to what was rolled back: it says so, and moves nothing."""
    pipeline.run_promote(PASSING)
    pipeline.run_rollback(RollbackConfig(reason="alarms"))
    before = aliases(waiting.client)
    with pytest.raises(RegistryError, match=r"version 2 .* was rolled back on .* \(alarms\)"):
        pipeline.run_rollback(RollbackConfig())
    assert aliases(waiting.client) == before
    restored, replaced = pipeline.run_rollback(RollbackConfig(version="2"))
    assert (restored, replaced) == ("2", "1")
    assert waiting.client.get_model_version(NAME, "2").tags["kd.promotion"] == "promoted"
    assert waiting.client.get_model_version(NAME, "1").tags["kd.promotion"] == "rolled_back"


@pytest.mark.slow
@pytest.mark.parametrize("alias", ["candidate", "champion"])
def test_a_version_rolled_back_is_promoted_by_its_number_alone(waiting, alias):
    """An alias that leads to it is refused; its number moves production to it once more."""
    client = waiting.client
    pipeline.run_promote(PASSING)
    pipeline.run_rollback(RollbackConfig())
    client.set_registered_model_alias(NAME, alias, "2")
    with pytest.raises(RegistryError, match=r"was rolled back .* name it: version=2"):
        pipeline.run_promote(replace(PASSING, version=alias))
    assert pipeline.run_promote(replace(PASSING, version="2")).promoted
    assert aliases(client)["production"] == "2"


def test_rollback_to_a_version_that_never_was_in_production(waiting):
    """It is refused, with those that were."""
    before = aliases(waiting.client)
    with pytest.raises(RegistryError, match=r"version 2 .* never was in production.* was: 1"):
        pipeline.run_rollback(RollbackConfig(version="2"))
    with pytest.raises(RegistryError, match="is in production already"):
        pipeline.run_rollback(RollbackConfig(version="1"))
    assert aliases(waiting.client) == before


@pytest.mark.slow
def test_promote_takes_an_alias_or_a_runs_id(waiting):
    """The run that distilled a version names it, and so does any alias."""
    client = waiting.client
    client.set_registered_model_alias(NAME, "champion", "2")
    run_id = client.get_model_version(NAME, "2").run_id
    for version in (run_id, "champion"):
        decision = pipeline.run_promote(replace(PASSING, version=version, dry_run=True))
        assert (decision.version, decision.passed, decision.promoted) == ("2", True, False)


def test_a_pipelines_run_names_its_version(waiting):
    """The id of a whole ``main`` is as good as that of its distillation."""
    (parent,) = Tracker().newest("pipeline")
    with pytest.raises(RegistryError, match="version 1 of 'kd-student' is in production already"):
        pipeline.run_promote(replace(PASSING, version=parent.info.run_id))


@pytest.mark.slow
def test_a_dry_run_changes_nothing(waiting, monkeypatch):
    """It gives the verdict and writes no run, tag or alias."""
    client = waiting.client
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "none-yet")
    before = waiting.folder.joinpath("mlflow.db").read_bytes()
    rejected = pipeline.run_promote(replace(PASSING, min_compression=1000.0, dry_run=True))
    assert (rejected.passed, rejected.promoted) == (False, False)
    passed = pipeline.run_promote(replace(PASSING, dry_run=True))
    assert (passed.passed, passed.promoted, passed.replaced) == (True, False, "1")
    assert "version 2 would go into production in place of version 1" in repr(passed)
    assert client.get_experiment_by_name("none-yet") is None
    assert waiting.folder.joinpath("mlflow.db").read_bytes() == before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PromoteConfig(model_name="unheard-of"), "no registered model 'unheard-of'.*kd-student"),
        (PromoteConfig(version="7"), "has no version '7'.*; it has: 1"),
        (PromoteConfig(version="newest"), "has no version 'newest'"),
        (PromoteConfig(version="1"), "nothing to promote: version 1"),
        (PromoteConfig(), "'kd-student' has no candidate; distil one first"),
    ],
)
def test_promote_says_what_is_missing(finished, config, message):
    """An unknown model or version, or one in production already, raises RegistryError."""
    with pytest.raises(RegistryError, match=message):
        pipeline.run_promote(config)


def test_promote_in_an_empty_registry(store):
    """Without any registered model the error says what to do first."""
    with pytest.raises(RegistryError, match="distil a student first"):
        pipeline.run_promote(PromoteConfig())


def test_promote_without_a_candidate(own_main):
    """Without the alias candidate there is nothing to promote; a version that waits is named."""
    own_main.client.set_model_version_tag(NAME, "1", "kd.promotion", "pending")
    with pytest.raises(RegistryError, match="has no candidate; version=1 waits"):
        pipeline.run_promote(PromoteConfig())


def test_promote_refuses_a_version_of_someone_elses(own_main):
    """A version without a distill run cannot be judged."""
    client = own_main.client
    source = client.get_model_version(NAME, "1").source
    client.create_model_version(NAME, source=source)
    with pytest.raises(RegistryError, match="no distill run to judge it by"):
        pipeline.run_promote(PromoteConfig(version="2"))


def test_rollback_without_a_predecessor(own_main):
    """With one promotion only there is nothing to go back to, and nothing moves."""
    before = aliases(own_main.client)
    with pytest.raises(RegistryError, match="production had no predecessor"):
        pipeline.run_rollback(RollbackConfig())
    assert aliases(own_main.client) == before


def test_rollback_of_an_unknown_model(own_main):
    """An unknown registered model raises RegistryError with its name."""
    with pytest.raises(RegistryError, match="'unheard-of'"):
        pipeline.run_rollback(RollbackConfig(model_name="unheard-of"))


@pytest.mark.parametrize("call", [kd.load_production, kd.promote, kd.rollback])
def test_an_error_before_a_run_makes_no_experiment(store, call):
    """Where there is nothing to load, promote or roll back, the store stays as it was."""
    before = [experiment.name for experiment in store.search_experiments()]
    with pytest.raises(RegistryError, match="no registered model 'kd-student'"):
        call()
    assert [experiment.name for experiment in store.search_experiments()] == before


def test_loading_makes_no_experiment(own_main, monkeypatch):
    """Who only pulls the model in production leaves no trace in the store."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mistyped")
    kd.load_production()
    assert own_main.client.get_experiment_by_name("mistyped") is None


@pytest.mark.parametrize("version", ["9" * 30, "-1", "0", "1.0", "", "newest"])
def test_no_number_of_a_version_is_a_failure_of_the_store(finished, version):
    """What is no version's number is said so, whatever a database makes of it."""
    with pytest.raises(RegistryError, match=r"has no version '.*', nor .*; it has: 1"):
        pipeline.run_promote(PromoteConfig(version=version))


WORKING = ["a#b", "a%b", "a%20b", "a..b", ".a", 'a"b', "a`b", "a&b+c=d;e,f", "a\\b", "1", "-a"]
WORKING += ["(a)[b]{c}|<d>*$!~", "modèle", "模型", "😀", " a ", "a b", "a" * 256]

REFUSED = [".", "..", "...", "..a", "a/b", "a:b", "a?b", "?", "a@b", "@", "a'b"]
REFUSED += ["", " ", "a\nb", "a\tb", "a\x00b", "a\x7fb", "a\u2028b", "\udcff", "a" * 257]


@pytest.fixture(scope="module")
def model_uri(finished_main):
    """The logged student of a finished main."""
    version = finished_main.client.get_model_version(NAME, "1")
    return version.source


@pytest.fixture(scope="module")
def names(finished_main, tmp_path_factory):
    """A store where models of all those names come together."""
    with copied_store(finished_main.folder / "mlflow.db", tmp_path_factory.mktemp("names")) as uri:
        yield MlflowClient(uri)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKING)
def test_a_name_that_is_taken_can_be_addressed(names, model_uri, name):
    """A version of any name that the rule allows is found by number, alias and search."""
    RollbackConfig(model_name=name)
    client = names
    client.create_registered_model(name)
    client.create_model_version(name, source=model_uri)
    client.set_registered_model_alias(name, "production", "1")
    assert len(client.search_model_versions(f"name='{name}'")) == 1
    for uri in (f"models:/{name}/1", f"models:/{name}@production"):
        assert Path(mlflow.artifacts.download_artifacts(uri)).joinpath("MLmodel").is_file()


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_cannot_be_addressed_is_refused(name):
    """Names that MLflow refuses or resolves to another model are refused before any work."""
    with pytest.raises(ConfigError, match="model_name must be a name of 1 to 256 characters"):
        MainConfig(model_name=name)


@pytest.mark.parametrize("name", ["kd-student", "churn", "other"])
def test_the_only_registered_model_is_meant_by_default(store, name):
    """Where nobody gives a name and there is one model, that is meant; locks are none."""
    store.create_registered_model("churn")
    store.create_registered_model("churn.lock-1", tags={KIND: "lock"})
    assert versions.resolve_name(store, name) == ("churn" if name == "kd-student" else name)
    with pytest.raises(
        RegistryError, match=r"nothing is in production under 'churn'; promote a version"
    ):
        pipeline.load_production("kd-student")


@pytest.mark.parametrize("own", [True, False])
def test_of_several_models_the_error_lists_those_there_are(store, own):
    """The default name is itself where there is one of it; else all are named, and the option."""
    for name in ("churn", "fraud", *(["kd-student"] if own else [])):
        store.create_registered_model(name)
    words = "nothing is in production" if own else "has: 'churn', 'fraud': give model_name"
    with pytest.raises(RegistryError, match=words):
        pipeline.load_production("kd-student")
    with pytest.raises(RegistryError, match="nothing" if own else words):
        pipeline.run_promote(PromoteConfig())
