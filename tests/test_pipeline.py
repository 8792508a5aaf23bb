"""The straight line leaves the runs, figures and errors that the design promises."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL, TINY, flat, part_of
from forks import Forked

from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import DistillConfig, MainConfig, TeachersConfig
from kd_mlflow.config.groups import StudentRecipe
from kd_mlflow.distillation.teachers import Ensemble
from kd_mlflow.errors import RunError, TrainingError
from kd_mlflow.evaluation import comparison
from kd_mlflow.population.training import Task
from kd_mlflow.report import leaderboard
from kd_mlflow.tracking.lookup import load_ensemble
from kd_mlflow.tracking.runs import Tracker
from kd_mlflow.tracking.saved_model import STAMP

TEACHERS = part_of(TeachersConfig)
STUDENTS = part_of(StudentRecipe)

CURVES = {
    "teacher": {"train_loss", "held_out_loss", "val_loss", "val_accuracy"},
    "student": {
        "train_loss",
        "held_out_loss",
        "soft_loss",
        "hard_loss",
        "val_loss",
        "val_accuracy",
        "val_agreement",
    },
}
CURVES["baseline"] = CURVES["student"]
CURVES["strong_baseline"] = CURVES["student"] - {"soft_loss"}

TWO_CLASS = ("accuracy", "balanced_accuracy", "log_loss", "ece", "roc_auc", "average_precision")
"""Figures of every model on a table of two classes."""

SPEEDS = ("latency_ms", "bulk_us")

COSTS = {
    *(f"registered_{cost}" for cost in ("model_bytes", "environment_bytes")),
    *(f"{who}_{speed}" for who in ("registered", "ensemble") for speed in SPEEDS),
    *("latency_ratio", "bulk_ratio"),
}
"""What the registered student costs to run, which is no metric of the comparison."""

BESIDE = {
    *(f"majority_test_{name}" for name in ("accuracy", "balanced_accuracy", "log_loss")),
    *(f"{who}_{speed}" for who in ("ensemble", "boosting") for speed in SPEEDS),
    "boosting_parameters",
    *(f"{who}_fit_s" for who in ("distilled", "baseline", "strong_baseline", "boosting")),
}
"""What readers ask beside a comparison: the majority class, what the other models cost."""

HEADLINE = {
    *(
        f"{who}_test_{name}"
        for who in leaderboard.KINDS
        for name in ("accuracy", "log_loss", "roc_auc")
    ),
    *("accuracy_gap", "log_loss_gap", "student_parameters", "compression_ratio"),
    "registered_latency_ms",
}
"""Metrics of a comparison that stand on its pipeline's run too."""

FINAL = {
    "pipeline": HEADLINE,
    "teacher": {*(f"test_{name}" for name in TWO_CLASS), "parameters", "weight", "best_epoch"},
    "teachers": {
        *(f"ensemble_test_{name}" for name in TWO_CLASS),
        *(
            f"ensemble_test_{name}_averaged_{average}"
            for name in ("accuracy", "log_loss", "ece")
            for average in ("logits", "probabilities")
        ),
        "mean_teacher_test_accuracy",
        "best_teacher_test_accuracy",
        "teacher_parameters",
        "ensemble_parameters",
    },
    "student": {*(f"test_{name}" for name in TWO_CLASS), "test_agreement", "parameters"},
    "distill": {
        *COSTS,
        *BESIDE,
        *(
            f"{who}_test_{name}"
            for who in (
                "ensemble",
                "distilled",
                "baseline",
                "strong_baseline",
                "registered",
                "boosting",
            )
            for name in TWO_CLASS
        ),
        *(
            f"{who}_test_{name}_sem"
            for who in ("distilled", "baseline", "strong_baseline")
            for name in TWO_CLASS
        ),
        *(
            f"{name}{bound}"
            for name in (
                "accuracy_gap",
                "knowledge_recovered",
                "gain_over_baseline",
                "gain_over_strong_baseline",
                "gain_over_boosting",
                "log_loss_gap",
                "log_loss_gain_over_majority",
                "log_loss_gain_over_baseline",
                "log_loss_gain_over_strong_baseline",
                "log_loss_gain_over_boosting",
            )
            for bound in ("", "_low", "_high")
        ),
        *(f"mcnemar_p_{other}" for other in ("ensemble", "baseline", "strong_baseline")),
        "test_agreement",
        "student_parameters",
        "ensemble_parameters",
        "compression_ratio",
    },
    "promotion": {"gate.accuracy", "gate.baseline", "gate.compression", "gate.reproduction"},
}
FINAL["baseline"] = FINAL["strong_baseline"] = FINAL["student"]


def runs_by_kind(client):
    """All runs of a store, by the tag kd.kind."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found: dict[str, list] = {}
    for run in client.search_runs(experiments):
        found.setdefault(run.data.tags["kd.kind"], []).append(run)
    return found


def parent_of(run):
    """The id of the run above."""
    return run.data.tags.get("mlflow.parentRunId")


def test_main_is_one_run_with_three_children(finished):
    """One pipeline run holds one teachers, one distill and one promotion run, and nothing else."""
    runs = runs_by_kind(finished.client)
    (top,) = runs["pipeline"]
    below = [
        kind for kind, some in runs.items() for run in some if parent_of(run) == top.info.run_id
    ]
    assert sorted(below) == ["distill", "promotion", "teachers"]
    assert parent_of(top) is None


@pytest.mark.parametrize(
    ("kind", "name", "above", "number"),
    [
        ("teacher", "teacher", "teachers", 3),
        ("teacher", "boosting", "teachers", 2),
        ("student", "student", "distill", 2),
        ("baseline", "baseline", "distill", 2),
        ("strong_baseline", "strong", "distill", 2),
    ],
)
def test_every_model_is_a_numbered_run_below_its_step(finished, kind, name, above, number):
    """Each teacher, student and baseline has a run named teacher-01 and on, below its step."""
    runs = runs_by_kind(finished.client)
    (step,) = runs[above]
    own = [run for run in runs[kind] if run.info.run_name.startswith(name)]
    names = sorted(run.info.run_name for run in own)
    assert names == [f"{name}-{i:02d}" for i in range(1, number + 1)]
    assert {parent_of(run) for run in own} == {step.info.run_id}


def test_all_runs_finish(finished):
    """After a main that ran through, every run is FINISHED."""
    runs = [run for some in runs_by_kind(finished.client).values() for run in some]
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.parametrize("kind", FINAL)
def test_runs_have_the_metrics_of_the_design(finished, kind):
    """Each kind of run has the metrics that DESIGN.md names; a promotion its figures besides."""
    wanted = FINAL[kind] | CURVES.get(kind, set())
    for run in runs_by_kind(finished.client)[kind]:
        if kind == "promotion":
            assert wanted <= run.data.metrics.keys()
        else:
            assert run.data.metrics.keys() == wanted


@pytest.mark.parametrize(
    ("kind", "epochs"),
    [("teacher", 3), ("student", 4), ("baseline", 4), ("strong_baseline", 4)],
)
def test_curves_have_one_value_an_epoch_from_one(finished, kind, epochs):
    """A curve's steps are the epochs, counted from 1."""
    for run in runs_by_kind(finished.client)[kind]:
        for name in CURVES[kind] if run.data.tags.get("kd.family") != "boosting" else ():
            history = finished.client.get_metric_history(run.info.run_id, name)
            steps = sorted(metric.step for metric in history)
            assert (name, steps) == (name, list(range(1, epochs + 1)))


def test_one_student_is_the_registered_one(finished):
    """Its run says so, and what the comparison and the card say of it is what it was measured."""
    client, result = finished.client, finished.result
    (run,) = [run for run in runs_by_kind(client)["student"] if "kd.registered" in run.data.tags]
    comparison = result.distill.comparison
    place = comparison.registered
    assert run.info.run_name == f"student-{place + 1:02d}"
    assert run.data.metrics["test_log_loss"] == comparison.summary["registered_test_log_loss"]
    version = client.get_model_version(result.distill.model_name, result.distill.version)
    assert f"seed {place + 1} of 2, the nearest to the ensemble" in version.description


def test_logged_figures_are_the_ones_returned(finished):
    """What ``main`` returns and prints is what stands in the store."""
    distill = finished.client.get_run(finished.result.distill.run_id)
    logged = {
        name: value for name, value in distill.data.metrics.items() if name not in COSTS | BESIDE
    }
    assert logged == pytest.approx(finished.result.distill.comparison.summary)
    teachers = finished.client.get_run(finished.result.taught.run_id)
    assert teachers.data.metrics == pytest.approx(finished.result.taught.metrics)


@pytest.mark.parametrize("kind", FINAL)
def test_every_run_says_what_it_is(finished, kind):
    """Each run has kd. parameters, fingerprint, digest, data set input and a description."""
    for run in runs_by_kind(finished.client)[kind]:
        tags, params = run.data.tags, run.data.params
        assert params
        assert all(name.startswith("kd.") for name in params)
        assert len(tags["kd.fingerprint"]) == len(tags["kd.data_digest"]) == 64
        assert len(tags["mlflow.note.content"]) > 20
        (entry,) = run.inputs.dataset_inputs
        assert tags["kd.data_digest"].startswith(entry.dataset.digest)


def test_parameters_are_the_configuration(finished):
    """A step's parameters are its options, as the command line would take them; auto as it came."""
    params = finished.client.get_run(finished.result.distill.run_id).data.params
    config = finished.config.resolved(3600)
    expected = config.for_distill(finished.result.taught.run_id).as_text()
    optimizers = ("student_optimizer", "baseline_optimizer", "strong_baseline_optimizer")
    resolved = {"augment": "mixup", **dict.fromkeys(optimizers, "adam")}
    assert {expected[name] for name in resolved} == {"auto"}
    expected |= resolved
    sides = {"train_rows": "3600", "val_rows": "400", "test_rows": "1000", "pool_rows": "10800"}
    assert params == {f"kd.{name}": value for name, value in (expected | sides).items()}


def test_model_lies_in_its_runs_experiment(finished):
    """The logged student belongs to the distill run and to that run's experiment."""
    run = finished.client.get_run(finished.result.distill.run_id)
    experiment = [run.info.experiment_id]
    (model,) = finished.client.search_logged_models(experiment, "name = 'student'")
    assert model.source_run_id == run.info.run_id
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]


def test_ensemble_is_reused_on_the_same_fingerprint(own_main):
    """The same data and options train nothing: the run, figures and logits are the first ones."""
    before = len(runs_by_kind(own_main.client)["teachers"])
    result, first = pipeline.run_teachers(TeachersConfig(**TEACHERS)), own_main.result.taught
    assert result.reused
    assert result.run_id == first.run_id
    assert result.teacher_accuracies == first.teacher_accuracies
    assert result.metrics == pytest.approx(first.metrics)
    assert len(runs_by_kind(own_main.client)["teachers"]) == before


@pytest.mark.slow
def test_another_option_trains_another_ensemble(own_main):
    """An option that changes training changes the fingerprint."""
    changed = TeachersConfig(**TEACHERS | {"teacher_epochs": 1})
    result = pipeline.run_teachers(changed)
    assert not result.reused


@pytest.mark.slow
def test_force_trains_anew_to_the_same_figures(own_main):
    """``force`` trains another run; the same seed gives the same figures."""
    result = pipeline.run_teachers(TeachersConfig(**TEACHERS, force=True))
    assert not result.reused
    assert result.run_id != own_main.result.taught.run_id
    assert result.metrics == own_main.result.taught.metrics


@pytest.mark.slow
def test_reuse_under_mlflow_run_is_recorded_on_the_given_run(own_main, monkeypatch):
    """The run that ``mlflow run`` made finishes, points at the ensemble, and is a valid teacher."""
    client, first = own_main.client, own_main.result.taught.run_id
    given = client.create_run(client.get_run(first).info.experiment_id).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    pipeline.run_teachers(TeachersConfig(**TEACHERS))
    run = client.get_run(given)
    assert (run.info.status, run.data.tags["kd.reused_run_id"]) == ("FINISHED", first)
    monkeypatch.delenv("MLFLOW_RUN_ID")
    result = pipeline.run_distill(DistillConfig(**STUDENTS, teachers=given))
    assert (result.teachers_run_id, result.version) == (first, "2")
    assert result.comparison == own_main.result.distill.comparison


def test_ensemble_files_hold_no_pickle(finished):
    """The ensemble is JSON, npz files of plain arrays, the trees' text, its model's own files."""
    folder = Tracker().download(finished.result.taught.run_id, "ensemble")
    of_model = {"MLmodel", "requirements.txt", "conda.yaml", "python_env.yaml"}
    of_model |= {"bounds.py", "scoring.py", "student.py", "ensemble_scoring.py", STAMP}
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in of_model]
    assert {path.suffix for path in files} == {".json", ".npz", ".txt"}
    for path in files:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as weights:
                assert {weights[name].dtype.kind for name in weights} <= {"f", "i"}
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                assert all(archive.read(name).startswith(b"\x93NUMPY") for name in names)
        else:
            assert path.read_text(encoding="utf-8").startswith(("{", "tree"))


@pytest.mark.slow
def test_ensemble_is_the_same_bit_for_bit_in_another_process(finished, tmp_path):
    """Another process rebuilds the ensemble from its artifact and scores the same logits."""
    folder = Tracker().download(finished.result.taught.run_id, "ensemble")
    dataset = pipeline.read_dataset(finished.config)
    (tmp_path / "rebuild.py").write_text(
        "import sys, torch\nfrom pathlib import Path\n"
        "from kd_mlflow.config.groups import DataOptions\n"
        "from kd_mlflow.distillation.teachers import Ensemble\n"
        "ensemble = Ensemble.load(Path(sys.argv[1]))\n"
        "from kd_mlflow.table.dataset import read_dataset\n"
        "features = read_dataset(DataOptions()).features('test')\n"
        "torch.save(ensemble.member_logits(features), 'logits.pt')\n"
    )
    words, log = ("rebuild", str(folder)), tmp_path / "log"
    done = Forked(*words, folder=tmp_path, env=os.environ, log=log)
    assert done.wait(120) == 0, log.read_text()
    theirs = torch.load(tmp_path / "logits.pt", weights_only=True)
    trained = finished.result.taught.ensemble
    assert torch.equal(theirs, trained.member_logits(dataset.features("test")))


def test_distill_without_any_ensemble_says_so(store):
    """``latest`` in a store without an ensemble raises RunError and opens no run."""
    with pytest.raises(RunError, match="run the entry point teachers first"):
        pipeline.run_distill(DistillConfig())
    assert runs_by_kind(store) == {}


def test_distill_refuses_an_unknown_run(finished):
    """A run id that the store lacks raises RunError."""
    with pytest.raises(RunError, match="no run 'feedbeef'"):
        pipeline.run_distill(DistillConfig(teachers="feedbeef"))


def test_distill_refuses_a_run_that_is_no_ensemble(finished):
    """A run of another kind raises RunError, which names the kind."""
    with pytest.raises(RunError, match=r"kd\.kind is 'distill'"):
        pipeline.run_distill(DistillConfig(teachers=finished.result.distill.run_id))


def test_distill_refuses_an_ensemble_of_other_data(finished):
    """An ensemble of another table raises RunError."""
    config = DistillConfig(data="wine", teachers=finished.result.taught.run_id)
    with pytest.raises(RunError, match="trained on other data"):
        pipeline.run_distill(config)


def test_latest_ignores_ensembles_of_other_data(finished):
    """``latest`` looks for this table's ensemble only."""
    with pytest.raises(RunError, match="no finished ensemble trained on this data"):
        pipeline.run_distill(DistillConfig(data="wine"))


def test_distill_refuses_an_unfinished_ensemble(own_main):
    """An ensemble whose run failed raises RunError."""
    run_id = own_main.result.taught.run_id
    own_main.client.set_terminated(run_id, status="FAILED")
    with pytest.raises(RunError, match="not finished: FAILED"):
        pipeline.run_distill(DistillConfig(teachers=run_id))


@pytest.mark.slow
def test_a_failure_in_training_leaves_failed_runs_and_no_version(own_main, monkeypatch):
    """When students diverge their runs and the distill run are FAILED and nothing is registered."""
    before = {run.info.run_id for some in runs_by_kind(own_main.client).values() for run in some}

    def diverge(*args, **kwargs):
        raise TrainingError("training diverged")

    monkeypatch.setattr(Task, "fit", diverge)
    with pytest.raises(TrainingError):
        pipeline.run_distill(DistillConfig(**STUDENTS))
    new = [
        run
        for some in runs_by_kind(own_main.client).values()
        for run in some
        if run.info.run_id not in before
    ]
    assert [run.info.status for run in new] == ["FAILED"] * 7
    assert len(own_main.client.search_model_versions("name='kd-student'")) == 1


@pytest.mark.slow
def test_a_failure_in_main_fails_every_open_run(store):
    """A learning rate that diverges fails the teachers and the pipeline above them."""
    config = SMALL | {"learning_rate": 1e30}
    with pytest.raises(TrainingError, match="learning_rate"):
        pipeline.run_main(MainConfig(**config, data="wine"))
    runs = [run for some in runs_by_kind(store).values() for run in some]
    assert {run.info.status for run in runs} == {"FAILED"}
    assert store.search_registered_models() == []


@pytest.mark.slow
def test_undefined_recovery_is_said_in_words(own_main, monkeypatch):
    """Where ensemble and baseline tie no knowledge_recovered is logged; the table says why.

    The ensemble is the latest one, and the student the next version.
    """
    monkeypatch.setattr(comparison, "knowledge_recovered", lambda *correct, groups: None)
    result = pipeline.run_distill(DistillConfig(**STUDENTS))
    taught = own_main.result.taught.run_id
    assert (result.teachers_run_id, result.version) == (taught, "2")
    logged = own_main.client.get_run(result.run_id).data.metrics
    assert not [name for name in logged if name.startswith("knowledge_recovered")]
    assert "undefined: ensemble and baseline tie" in flat(result)


def test_loaded_ensemble_scores_as_the_trained_one(finished):
    """The ensemble read back from its run gives the trained ensemble's logits."""
    loaded = load_ensemble(Tracker(), finished.result.taught.run_id)
    features = pipeline.read_dataset(finished.config).features("val")
    assert isinstance(loaded, Ensemble)
    trained = finished.result.taught.ensemble
    for averaging in ("logits", "probabilities"):
        expected = trained.score(features, averaging)
        assert torch.equal(loaded.score(features, averaging), expected)


def test_recall_of_each_class_is_logged(finished, tmp_path):
    """The distill run has each model's recall by class; their mean is the balanced accuracy."""
    distill = finished.result.distill
    path = finished.client.download_artifacts(distill.run_id, "class_recall.json", tmp_path)
    recalls = json.loads(Path(path).read_text())
    assert recalls.keys() == {
        "ensemble",
        "distilled",
        "baseline",
        "strong_baseline",
        "registered",
    }
    for model, by_class in recalls.items():
        assert by_class.keys() == {"0", "1"}
        balanced = distill.comparison.summary[f"{model}_test_balanced_accuracy"]
        assert np.mean(list(by_class.values())) == pytest.approx(balanced)


def rare_classes(classes):
    """A table of which one class has 95 % of the rows, and the others the rest."""
    rows = 2000
    random = np.random.default_rng(0)
    label = np.where(np.arange(rows) % 20, 0, 1 + np.arange(rows) // 20 % (classes - 1))
    names = np.array(["most", *(f"rare-{i:02d}" for i in range(1, classes))])
    return pd.DataFrame({"x": random.normal(label), "y": random.normal(label), "c": names[label]})


def notes_by_kind(client):
    """Descriptions of a store's runs, by kind."""
    return {
        kind: some[0].data.tags["mlflow.note.content"]
        for kind, some in runs_by_kind(client).items()
    }


@pytest.mark.slow
def test_an_imbalanced_table_is_told_by_balanced_accuracy(store):
    """Where one class has most rows it comes first in table, notes and card, then recalls."""
    result = pipeline.run_main(MainConfig(data=rare_classes(2), target="c", **TINY))
    closing = flat(result)
    accuracy = closing.index("test accuracy")
    assert closing.index("95.0 % of the rows are of one class") < accuracy
    assert closing.index("rare-01, 100 rows") < closing.index("most, 1,900 rows") < accuracy
    balanced = result.distill.comparison.summary["distilled_test_balanced_accuracy"]
    assert closing.index(f"{100 * balanced:.2f} %") < accuracy
    assert repr(result.taught).startswith("ensemble, balanced accuracy")
    card = store.get_model_version("kd-student", "1").description
    notes = notes_by_kind(store)
    for text in (card, notes["distill"], notes["pipeline"]):
        assert 0 < text.index("| balanced accuracy |") < text.index("| model | test accuracy |")
        assert 0 < text.index("| recall of class rare-01 |") < text.index("| recall of class most")
    teachers = notes["teachers"]
    assert teachers.index("balanced accuracy **") < teachers.index("%**, accuracy **")


@pytest.mark.slow
def test_the_closing_table_ends_recalls_at_ten_classes(store):
    """Of many rare classes ten stand in the closing table, and it counts the others."""
    distilled = pipeline.run_main(MainConfig(data=rare_classes(13), target="c", **TINY))
    lines = repr(distilled).splitlines()
    assert sum(line.startswith("rare-") and " rows " in line for line in lines) == 10
    assert sum("and 3 more, in class_recall.json" in line for line in lines) == 1


def test_a_balanced_table_is_told_by_accuracy(finished):
    """Elsewhere accuracy comes first, without recalls, in table, notes and card."""
    closing = flat(finished.result)
    assert "recall" not in closing
    assert closing.index("test accuracy") < closing.index("balanced")
    card = finished.client.get_model_version("kd-student", "1").description
    for text in (card, *notes_by_kind(finished.client).values()):
        assert "balanced accuracy" not in text


@pytest.mark.parametrize("kind", ["taught", "distill"])
def test_class_balance_of_each_side_is_logged(finished, kind, tmp_path):
    """Rows a class on each side of the split stand beside the figures that depend on them."""
    run_id = getattr(finished.result, kind).run_id
    path = finished.client.download_artifacts(run_id, "class_balance.json", tmp_path)
    balance = json.loads(Path(path).read_text())
    assert {side: sum(rows.values()) for side, rows in balance.items()} == {
        "train": 3600,
        "val": 400,
        "test": 1000,
    }


def test_the_pipelines_run_has_the_headline(finished):
    """Metrics of the comparison, the decision and the verdict stand on the run of the whole."""
    (run,) = runs_by_kind(finished.client)["pipeline"]
    summary = finished.result.distill.comparison.summary
    for name in ("registered_test_accuracy", "ensemble_test_log_loss", "compression_ratio"):
        assert run.data.metrics[name] == summary[name]
    assert run.data.tags["kd.decision"] == "promoted"
    assert run.data.tags["kd.verdict"].startswith(
        "APPROVED kd-student version 1 is in production; "
    )
    assert run.data.tags["mlflow.note.content"].startswith("Version 1 of **kd-student** was prom")
    assert run.info.run_name == "pipeline kd-student best, synthetic"


def test_an_experiment_is_introduced_once(store):
    """It gets a description and a view of its pipelines; what somebody wrote there stays."""
    tracker = Tracker()
    store.set_experiment_tag(tracker.experiment_id, "mlflow.note.content", "ours")
    tracker.introduce()
    tags = store.get_experiment(tracker.experiment_id).tags
    assert tags["mlflow.note.content"] == "ours"
    (view,) = (json.loads(text) for name, text in tags.items() if "sharedViewState" in name)
    assert view["searchFilter"] == "tags.`kd.kind` = 'pipeline'"


def test_a_comparison_has_a_view_of_its_models(finished):
    """The link that is printed opens students and baselines of this run, least log loss first."""
    run_id, page = finished.result.distill.run_id, finished.result.distill.page
    key = page.models.rpartition("viewStateShareKey=")[2]
    assert run_id.startswith(key.removeprefix("kd-models-"))
    tags = finished.client.get_experiment("1").tags
    view = json.loads(tags[f"mlflow.sharedViewState.{key}"])
    assert view["searchFilter"] == f"tags.`mlflow.parentRunId` = '{run_id}'"
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`test_log_loss`", True)
    found = finished.client.search_runs(["1"], view["searchFilter"])
    for column in view["selectedColumns"]:
        kind, name = column.removesuffix("`").split(".`")
        assert any(name in getattr(run.data, kind) for run in found)
    assert f"each  {page.models}" in repr(finished.result)


def test_the_leaderboard_has_every_model(finished, tmp_path):
    """Each teacher, student, baseline and the trees have a line with metrics and times."""
    (run,) = runs_by_kind(finished.client)["pipeline"]
    path = finished.client.download_artifacts(run.info.run_id, "leaderboard.csv", tmp_path)
    rows = pd.read_csv(path, index_col="model")
    teachers = [teacher.name for teacher in finished.result.taught.teachers]
    assert list(rows.index[: len(teachers)]) == teachers
    compared = ["ensemble", "student", "baseline", "strong baseline", "boosted trees"]
    assert list(rows.index[len(teachers) :]) == [*compared, "majority class"]
    summary = finished.result.distill.comparison.summary
    assert rows.log_loss["student"] == summary["distilled_test_log_loss"]
    assert rows.fit_s.drop(["ensemble", "majority class"]).gt(0).all()
    assert rows.latency_ms[["ensemble", "student", "boosted trees"]].gt(0).all()
    assert rows.weight[teachers].sum() == pytest.approx(1)
    assert rows.bytes.dropna().index.tolist() == ["student"]
