"""A threshold between two classes: chosen on validation rows, applied alike, served as logged."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import mlflow
import numpy as np
import pytest
import sklearn.metrics
import torch
from conftest import TINY, copied_store, flat, part_of

from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import DistillConfig, EvaluateConfig, MainConfig, PromoteConfig
from kd_mlflow.distillation.logits import Logits, class_probabilities, compared, predicted
from kd_mlflow.distillation.review import check_decision
from kd_mlflow.errors import ConfigError
from kd_mlflow.evaluation.intervals import Interval
from kd_mlflow.evaluation.scores import RowScores
from kd_mlflow.evaluation.thresholds import (
    RULES,
    choose_threshold,
    tabled,
)
from kd_mlflow.report.decision import Decision
from kd_mlflow.report.evaluation_result import EvaluationResult
from kd_mlflow.report.leaderboard import worth_text
from kd_mlflow.report.training_results import DistillResult
from kd_mlflow.serving import scoring
from kd_mlflow.table.dataset import Dataset


def answers(rows=400, seed=0, share=0.2):
    """Logits of a model that is right more often than not, and labels of which few are 1."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < share).astype(np.int64)
    logits = torch.from_numpy(np.stack([np.zeros(rows), labels * 1.5 - 2 + rng.normal(size=rows)]))
    return logits.T, labels


def test_a_table_of_thresholds_is_scikit_learns():
    """Precision, recall, F1 and balanced accuracy of each threshold are the library's."""
    logits, labels = answers()
    second = class_probabilities(logits)[..., 1]
    for row in tabled(second, labels, [0.05, 0.2, 0.5, 0.999]):
        said = (second >= row.threshold).astype(int)
        assert row.predicted == said.mean()
        scores = sklearn.metrics.precision_recall_fscore_support(
            labels, said, average="binary", zero_division=0
        )
        assert (row.precision, row.recall, row.f1) == pytest.approx(scores[:3])
        balanced = sklearn.metrics.balanced_accuracy_score(labels, said)
        assert row.balanced_accuracy == pytest.approx(balanced)


@pytest.mark.parametrize("rule", RULES)
def test_the_chosen_threshold_is_the_best_of_all(rule):
    """No threshold at all is better on the rows that it was chosen on; no row lies on it."""
    logits, labels = answers()
    second = class_probabilities(logits)[..., 1]
    chosen = choose_threshold(rule, second, labels)
    assert chosen not in second
    every = [getattr(row, rule) for row in tabled(second, labels, np.unique(second))]
    (own,) = tabled(second, labels, [chosen])
    assert getattr(own, rule) == pytest.approx(max(every))
    assert getattr(own, rule) > getattr(tabled(second, labels, [0.5])[0], rule)


def test_a_threshold_can_be_given_or_none():
    """A number is itself; none is the likelier class; equal probabilities leave 0.5."""
    (logits, labels), even = answers(), class_probabilities(torch.zeros(9, 2))[..., 1]
    second = class_probabilities(logits)[..., 1]
    assert choose_threshold("0.3", second, labels) == 0.3
    assert choose_threshold("none", second, labels) is None
    assert choose_threshold("f1", even, np.arange(9) % 2) == 0.5
    np.testing.assert_array_equal(predicted(logits), logits.argmax(dim=1))
    np.testing.assert_array_equal(predicted(logits, 0.3), second >= 0.3)


def test_a_comparison_counts_what_models_decide():
    """Accuracy, recall and agreement follow the threshold; log loss and areas do not."""
    (logits, labels), other = answers(), answers(seed=1)[0]
    models = {"distilled": torch.stack([logits, other]), "baseline": torch.stack([other, logits])}
    plain, found = (
        compared(
            Logits(labels=labels, ensemble=other, students=models, threshold=level),
            student_parameters=1,
            ensemble_parameters=9,
        )
        for level in (None, 0.1)
    )
    first = found.students["distilled"][0]
    said, taught = (class_probabilities(each)[..., 1] >= 0.1 for each in (logits, other))
    assert first["test_accuracy"] == (said == labels).mean()
    assert first["test_agreement"] == (said == taught).mean()
    assert found.summary["ensemble_test_accuracy"] == (taught == labels).mean()
    assert found.recalls["registered"][1] == said[labels == 1].mean()
    assert found.summary["registered_threshold"] == 0.1
    assert "registered_threshold" not in plain.summary
    low = Interval(value=-0.2, low=-0.3, high=-0.1)
    even = Interval(value=0.0, low=-0.1, high=0.1)
    for each, worse in ((plain, ("baseline",)), (found, ())):
        judged = replace(each, gains={"baseline": low}, loss_gains={"baseline": even})
        assert judged.worse_than == worse
    for name in ("log_loss", "roc_auc", "average_precision"):
        assert found.summary[f"distilled_test_{name}"] == plain.summary[f"distilled_test_{name}"]


def test_rows_are_scored_by_the_same_decision():
    """What ``evaluate`` keeps of a row follows the threshold, its confidence too."""
    shares = np.array([[0.7, 0.3], [0.9, 0.1]])
    scores = RowScores.of(shares, np.array([1, 0]), scoring.decided(shares, 0.2))
    assert scores.predicted.tolist() == [1, 0]
    assert scores.confidence.tolist() == [0.3, 0.9]


@pytest.mark.parametrize("given", ["f2", "0", "1", "nan", True, None])
def test_other_thresholds_are_refused(given):
    """What is no rule and no probability is a misused option."""
    with pytest.raises(ConfigError, match="decision_threshold must be none, balanced_accuracy"):
        DistillConfig(decision_threshold=given)


def test_a_number_is_for_two_classes(store):
    """It is refused for three before anything is trained, with what there is for them."""
    with pytest.raises(ConfigError, match="of two classes; 'target' has 3: give balanced_accuracy"):
        pipeline.run_main(MainConfig(data="wine", decision_threshold="0.3", **TINY))
    assert store.search_runs([each.experiment_id for each in store.search_experiments()]) == []


def test_a_metric_of_two_classes_is_refused_before_training(store):
    """The gate would find out once students are trained and one is registered."""
    with pytest.raises(ConfigError, match="gate_metric=roc_auc is for tables of two classes"):
        pipeline.run_main(MainConfig(data="wine", gate_metric="roc_auc", **TINY))
    assert store.search_runs([each.experiment_id for each in store.search_experiments()]) == []


@pytest.mark.parametrize(
    ("rule", "share", "said"), [("f1", 0.9, 1), ("f1", 0.2, 0), ("0.5", 0.9, 0)]
)
def test_an_f1_of_most_rows_is_warned_of(caplog, rule, share, said):
    """The second class in order is meant, which here is not the one that is sought."""
    labels = (np.arange(100) < 100 * share).astype(np.int64)
    table = SimpleNamespace(classes=("churn", "stay"), labels=labels, target="y")
    check_decision(DistillConfig(decision_threshold=rule), table)
    assert len(caplog.messages) == said
    assert all("second class in order, 'stay'" in message for message in caplog.messages)


class Decided(NamedTuple):
    """A student that decides by the best F1: result, files, dataset, evaluation, promotion.

    ``successor`` is the promotion after it of the finished main's student, without a threshold.
    """

    result: DistillResult
    folder: str
    dataset: Dataset
    again: EvaluationResult
    promoted: Decision
    successor: Decision


@pytest.fixture(scope="module")
def decided(finished_main, tmp_path_factory):
    """A student of the finished ensemble that decides by the best F1, and who comes after it."""
    folder = tmp_path_factory.mktemp("decided")
    with copied_store(finished_main.folder / "mlflow.db", folder):
        config = DistillConfig(
            decision_threshold="f1", model_name="decided", **part_of(DistillConfig)
        )
        result = pipeline.run_distill(config)
        model = mlflow.artifacts.download_artifacts(
            f"models:/decided/{result.version}", dst_path=str(folder)
        )
        rows = pipeline.read_dataset(config)
        again = pipeline.run_evaluate(
            EvaluateConfig(
                model=f"models:/decided/{result.version}", data="synthetic", against="none"
            )
        )
        first = pipeline.run_promote(PromoteConfig(model_name="decided", **part_of(PromoteConfig)))
        gate = part_of(PromoteConfig) | {"policy": "non_inferior", "margin": 1.0}
        twice = pipeline.run_promote(PromoteConfig(to="decided", **gate))
    return Decided(result, model, rows, again, first, twice)


@pytest.mark.slow
def test_the_served_model_decides_as_logged(decided):
    """The threshold lies in the model's encoding, and its predictions have the logged accuracy."""
    result, folder, rows = decided.result, decided.folder, decided.dataset
    summary = result.comparison.summary
    with open(f"{folder}/encoding.json", encoding="utf-8") as file:
        threshold = json.load(file)["threshold"]
    assert threshold == summary["registered_threshold"] != 0.5
    answer = mlflow.pyfunc.load_model(folder).predict(rows.features("test"))
    said = answer["prediction"].to_numpy()
    np.testing.assert_array_equal(said, answer["probability_1"].to_numpy() >= threshold)
    accuracy = (said == rows.labels("test")).mean()
    assert accuracy == summary["registered_test_accuracy"]
    registered = result.comparison.students["distilled"][result.comparison.registered]
    assert accuracy == registered["test_accuracy"]


@pytest.mark.slow
def test_table_and_description_say_the_threshold(decided):
    """Who reads the accuracies of a run sees that they are at a threshold."""
    result = decided.result
    words = f"all models at a threshold of {result.comparison.summary['registered_threshold']:.4f}"
    assert words in flat(result)
    assert words in result.note


@pytest.mark.slow
def test_the_first_line_is_not_about_the_threshold(decided):
    """It was chosen for the student: what is gained over others is said by log loss."""
    comparison = decided.result.comparison
    said = worth_text(comparison, {})
    assert "accuracy" not in said
    assert " points" not in said
    gain = comparison.loss_gains["baseline"]
    size = f"log loss {abs(gain.value):.4f} {'lower' if gain.value > 0 else 'higher'}"
    assert (size in said) is gain.decided


@pytest.mark.slow
def test_evaluate_decides_as_served(decided):
    """``evaluate`` counts the model's own decisions, not the likelier class."""
    answer = mlflow.pyfunc.load_model(decided.folder).predict(decided.dataset.table.features)
    said = answer["prediction"].to_numpy()
    np.testing.assert_array_equal(decided.again.findings.scores.predicted, said)
    assert (said != (answer["probability_1"].to_numpy() > 0.5)).any()


@pytest.mark.slow
def test_the_gate_reproduces_what_is_decided(decided):
    """The clean process finds every row decided as was logged, at the threshold."""
    (check,) = (each for each in decided.promoted.checks if each.name == "reproduction")
    assert check.passed
    assert check.metrics["reproduced_rows"] == len(decided.dataset.labels("test"))
    assert check.metrics["reproduced_other_classes"] == 0


def test_no_candidate_lies_among_rows_that_rounding_may_move():
    """Equal rows that were scored a digit apart stay on one side, however good a cut there were."""
    second = np.repeat([0.2, 0.6, 0.999], 40) * (1 + 2e-7 * np.linspace(-1, 1, 120))
    labels = (np.arange(120) % 40 >= 20).astype(np.int64)
    for rule in RULES:
        chosen = choose_threshold(rule, second, labels)
        assert min(abs(chosen - level) for level in (0.2, 0.6, 0.999)) > 1e-3


@pytest.mark.slow
def test_production_is_asked_at_its_own_threshold(decided):
    """A successor is compared with what production answers, not with its likelier class."""
    (check,) = (each for each in decided.successor.checks if each.name == "production")
    labels = decided.dataset.labels("test")
    features = decided.dataset.features("test")
    said = mlflow.pyfunc.load_model(decided.folder).predict(features)["prediction"].to_numpy()
    assert check.metrics["production_test_accuracy"] == (said == labels).mean()
