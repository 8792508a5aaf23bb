"""One weight per class: chosen on validation rows, applied alike, served as logged."""

import json
from itertools import combinations
from types import SimpleNamespace
from typing import NamedTuple

import mlflow
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import sklearn.metrics
import torch
from conftest import TINY, copied_store, flat

from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import DistillConfig, EvaluateConfig, MainConfig, PredictConfig
from kd_mlflow.distillation.review import decision
from kd_mlflow.evaluation.reproduction import repetition
from kd_mlflow.evaluation.thresholds import (
    EXPONENTS,
    WORTHS,
    choose_weights,
    found_by_class,
    logged_as,
    logged_cutoff,
)
from kd_mlflow.report.evaluation_result import EvaluationResult
from kd_mlflow.report.training_results import MainResult
from kd_mlflow.serving.scoring import decided
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding

SHARES = (0.7, 0.25, 0.05)


def answers(rows=600, shares=SHARES, seed=0):
    """Calibrated probabilities of a model of some classes, and labels of which few are rare."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(len(shares), rows, p=shares)
    logits = rng.normal(size=(rows, len(shares))) + np.log(shares)
    logits[np.arange(rows), labels] += 1.2
    found = np.exp(logits)
    return found / found.sum(axis=1, keepdims=True), labels


def worth(rule, labels, predicted):
    """What scikit-learn says of classes."""
    if rule == "f1":
        return sklearn.metrics.f1_score(labels, predicted, average="macro", zero_division=0)
    return sklearn.metrics.balanced_accuracy_score(labels, predicted)


def shares_of(labels):
    """Each class's share of some rows."""
    return np.bincount(labels) / len(labels)


@pytest.mark.parametrize("rule", WORTHS)
@pytest.mark.parametrize("seed", range(3))
def test_weights_beat_the_likeliest_class(rule, seed):
    """They gain on the rows they were chosen on, over weights of 1 and over 1 / share."""
    shares, labels = answers(seed=seed)
    weights = choose_weights(rule, shares, labels, shares_of(labels))
    found = worth(rule, labels, decided(shares, weights))
    assert found > worth(rule, labels, shares.argmax(axis=1)) + 0.02
    inverse = 1 / np.bincount(labels)
    assert found >= worth(rule, labels, decided(shares, tuple(inverse)))


@pytest.mark.parametrize("rule", WORTHS)
def test_weights_are_the_best_power_of_the_inverse_shares(rule):
    """No power that may be taken is better on these rows; their geometric mean is 1."""
    shares, labels = answers(rows=80)
    own = shares_of(labels)
    weights = choose_weights(rule, shares, labels, own)
    assert np.prod(weights) == pytest.approx(1)
    (power,) = {round(np.log(a / b) / np.log(x / y), 9) for (a, x), (b, y) in pairs(weights, own)}
    assert -power in EXPONENTS
    found = worth(rule, labels, decided(shares, weights))
    others = [worth(rule, labels, decided(shares, tuple(own**-e))) for e in EXPONENTS]
    assert found == max(others)


def pairs(weights, own):
    """Two classes' weights and shares, for each two classes."""
    return combinations(zip(weights, own, strict=True), 2)


@pytest.mark.parametrize("rule", WORTHS)
def test_what_nothing_gains_on_keeps_the_likeliest_class(rule):
    """Rows that are all right need no weights; equal probabilities neither."""
    labels = np.arange(30) % 3
    own = shares_of(labels)
    assert choose_weights(rule, np.eye(3)[labels], labels, own) == (1.0, 1.0, 1.0)
    assert choose_weights(rule, np.full((30, 3), 1 / 3), labels, own) == (1.0, 1.0, 1.0)


def test_a_class_without_validation_rows_has_its_weight():
    """Its share of the training rows says what it is; nothing divides by its rows here."""
    own = np.array([0.6, 0.3, 0.0999, 0.0001])
    shares, labels = answers(shares=own, rows=200)
    assert 3 not in labels
    weights = choose_weights("balanced_accuracy", shares, labels, own)
    assert sorted(weights) == list(weights)
    assert np.isfinite(weights).all()


@pytest.mark.parametrize("rule", WORTHS)
def test_few_rows_of_many_classes_are_not_learnt_by_heart(rule):
    """Weights chosen on a handful of rows a class lose nothing worth mentioning on others."""
    own = np.arange(1, 41) / 820
    shares, labels = answers(rows=250, shares=own)
    weights = choose_weights(rule, shares, labels, own)
    shares, labels = answers(rows=20_000, shares=own, seed=1)
    gained = worth(rule, labels, decided(shares, weights))
    assert gained > worth(rule, labels, shares.argmax(axis=1)) - 0.005


def test_rows_found_are_counted_by_class():
    """The report's table has each class's rows, those found without weights and with them."""
    shares, labels = answers()
    weights = (0.5, 1.0, 4.0)
    for place, row in enumerate(found_by_class(["a", "b", "c"], weights, shares, labels)):
        mine = labels == place
        plain = int((shares.argmax(axis=1)[mine] == place).sum())
        found = int((decided(shares, weights)[mine] == place).sum())
        assert row == ("abc"[place], mine.sum(), weights[place], plain, found)


def test_metrics_say_how_a_student_decides():
    """What a run logs is read back: weights, a threshold, or none; some weights alone are none."""
    for cutoff, classes in (((0.5, 1.0, 2.0), 3), (0.3, 2)):
        assert logged_cutoff(logged_as(cutoff), classes) == cutoff
    assert logged_cutoff({}, 3) is None
    assert logged_cutoff({"registered_weight_0": 1.0}, 3) is None


@pytest.mark.parametrize(("apart", "open_"), [(0.4e-5, True), (0.6e-5, False)])
def test_reproduction_allows_what_weights_leave_open(apart, open_):
    """Where weighted probabilities are nearly equal either class is right; no other one is."""
    shares = np.array([[0.4, 0.4 + apart, 0.2 - apart]])
    found = [
        repetition(shares, shares, np.array([place]), (0.5, 1.0, 2.0)).other_classes
        for place in range(3)
    ]
    assert found == [1, 0, 0 if open_ else 1]


def test_weights_that_are_no_numbers_reproduce_nothing():
    """A run that claims such weights does not get every class allowed."""
    shares, _ = answers(rows=20)
    found = repetition(shares, shares, shares.argmax(axis=1), (np.nan,) * 3)
    assert found.other_classes == 20


class Served(NamedTuple):
    """A ``main`` whose student has weights: result, files, dataset, evaluation, scored file."""

    result: MainResult
    folder: str
    dataset: Dataset
    again: EvaluationResult
    scored: pd.DataFrame


@pytest.fixture(scope="module")
def served(empty_database, tmp_path_factory):
    """A student of three unbalanced classes that two of its columns tell, not quite."""
    folder, rng = tmp_path_factory.mktemp("weighed"), np.random.default_rng(4)
    labels = rng.choice(3, 1200, p=SHARES)
    centres = np.array([[0, 0], [1.5, 0], [0, 2]])
    near = pd.DataFrame(centres[labels] + rng.normal(size=(1200, 2)), columns=["x", "y"])
    near.assign(label=np.array(["often", "some", "rare"])[labels]).to_csv(folder / "table.csv")
    source = {"data": str(folder / "table.csv"), "target": "label"}
    training = TINY | {"teacher_epochs": 20, "student_epochs": 20, "student_hidden": (8,)}
    with copied_store(empty_database, folder):
        config = MainConfig(
            **source, decision_threshold="balanced_accuracy", export="onnx", **training
        )
        result = pipeline.run_main(config)
        uri = f"models:/{result.distill.model_name}/{result.distill.version}"
        model = mlflow.artifacts.download_artifacts(uri, dst_path=str(folder / "model"))
        rows = pipeline.read_dataset(DistillConfig(**source))
        again = pipeline.run_evaluate(EvaluateConfig(model=uri, **source, against="none"))
        out = str(folder / "scored.csv")
        pipeline.run_predict(PredictConfig(data=source["data"], model=uri, out=out))
    return Served(result, model, rows, again, pd.read_csv(out))


def answer_of(served, rows="test"):
    """The loaded model's answer to test rows: predictions, probabilities by class, weights."""
    answer = mlflow.pyfunc.load_model(served.folder).predict(served.dataset.features(rows))
    with open(f"{served.folder}/encoding.json", encoding="utf-8") as file:
        encoding = json.load(file)
    shares = answer[[f"probability_{name}" for name in encoding["classes"]]].to_numpy()
    return answer["prediction"].to_numpy(), shares, tuple(encoding["threshold"])


@pytest.mark.slow
def test_the_served_model_decides_as_logged(served):
    """Weights lie in the model's encoding and in its run, and predictions follow them."""
    said, shares, weights = answer_of(served)
    classes, summary = served.dataset.table.classes, served.result.distill.comparison.summary
    assert logged_cutoff(summary, 3) == weights
    np.testing.assert_array_equal(said, np.array(classes)[(shares * weights).argmax(axis=1)])
    assert (said != np.array(classes)[shares.argmax(axis=1)]).any()
    right = said == np.array(classes)[served.dataset.labels("test")]
    assert right.mean() == summary["registered_test_accuracy"]
    assert "all models with one weight per class" in flat(served.result)


@pytest.mark.slow
def test_weights_are_the_best_of_the_validation_rows(served):
    """They are what the rule makes of the served model's answers to them, and gain there."""
    _, shares, weights = answer_of(served, "val")
    labels = served.dataset.labels("val")
    own = shares_of(served.dataset.labels("train"))
    chosen = choose_weights("balanced_accuracy", shares, labels, own)
    assert weights == pytest.approx(chosen, rel=1e-9)
    found = worth("balanced_accuracy", labels, decided(shares, weights))
    assert found > worth("balanced_accuracy", labels, shares.argmax(axis=1))


@pytest.mark.slow
def test_evaluate_and_predict_decide_as_served(served):
    """What ``evaluate`` counts and ``predict`` writes are the model's own predictions."""
    said = mlflow.pyfunc.load_model(served.folder).predict(served.dataset.table.features)
    classes = np.array(served.dataset.table.classes)
    counted = classes[served.again.findings.scores.predicted]
    np.testing.assert_array_equal(counted, said["prediction"])
    np.testing.assert_array_equal(served.scored["prediction"], said["prediction"])


@pytest.mark.slow
def test_onnx_decides_as_served(served):
    """The graph's probabilities with the weights that it names give the served predictions."""
    said, _, weights = answer_of(served)
    session = onnxruntime.InferenceSession(f"{served.folder}/model.onnx")
    about = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(about["threshold"])) == weights
    with open(f"{served.folder}/encoding.json", encoding="utf-8") as file:
        encoding = Encoding.from_dict(json.load(file))
    encoded = encoding.encode(served.dataset.features("test"))
    (shares,) = session.run(["probabilities"], {"columns": encoded})
    found = np.array(json.loads(about["classes"]))[decided(shares, encoding.threshold)]
    np.testing.assert_array_equal(found, said)


@pytest.mark.slow
def test_the_gate_reproduces_what_is_decided(served):
    """The clean process finds every row decided as was logged, with the weights."""
    (check,) = (each for each in served.result.decision.checks if each.name == "reproduction")
    assert check.passed
    assert check.metrics["reproduced_rows"] == len(served.dataset.labels("test"))


def test_no_row_but_validation_rows_is_asked():
    """Weights are chosen by answers to validation rows; of training rows only shares count."""
    shares, labels = answers()
    own = {"a": 70, "b": 25, "c": 5}
    dataset = SimpleNamespace(
        table=None,
        labels={"val": labels}.__getitem__,
        split=SimpleNamespace(balance=lambda table: {"train": own}),
    )
    trained = SimpleNamespace(score_validation_rows=lambda: torch.from_numpy(np.log(shares)))
    found = decision(DistillConfig(decision_threshold="f1"), dataset, trained).threshold
    assert found == pytest.approx(choose_weights("f1", shares, labels, np.array(SHARES)))
