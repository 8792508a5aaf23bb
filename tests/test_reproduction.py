"""Reproduction: a registered model answers as was logged, to what rounding explains."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import TINY, part_of

import kd_mlflow as kd
from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import DistillConfig, TeachersConfig
from kd_mlflow.evaluation.metrics import probability_metrics
from kd_mlflow.evaluation.reproduction import (
    TOLERANCE,
    metric_ranges,
    repetition,
    reproduction_check,
)
from kd_mlflow.tracking import kept_rows
from kd_mlflow.tracking.kept_rows import DIGEST

NAME = "kd-student"
FREE = {
    "allow_worse_than_baseline": True,
    "min_compression": 1.0,
    "max_accuracy_gap": 1.0,
    "max_log_loss_gap": 0.0,
    "policy": "any",
}
"""A gate that asks of reproduction alone."""


def answers(rows=300, classes=2, seed=0):
    """Probabilities in float32, labels that they are often right about, and the likeliest class."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(classes), rows)
    labels = np.array([rng.choice(classes, p=row) for row in shares])
    return shares.astype(np.float32), labels, shares.argmax(axis=1)


def rounded(shares, by, seed=1):
    """The same probabilities, each moved by up to so much, rows summing to 1 as before."""
    moves = np.random.default_rng(seed).uniform(-by, by, len(shares))
    moved = shares.astype(np.float64)
    moved[:, 0] += moves
    moved[:, 1] -= moves
    return moved


def checked(logged, found, predicted, threshold=None):
    """The check of some answers beside those that were logged."""
    return reproduction_check({}, repetition(logged, found, predicted, threshold))


@pytest.mark.parametrize("classes", [2, 3])
def test_rounding_is_no_difference(classes):
    """Within the tolerance a model is the one that was logged; sentence and figures say how far."""
    shares, _, predicted = answers(classes=classes)
    check = checked(shares, rounded(shares, 6e-8), predicted)
    assert check.passed
    assert check.threshold == TOLERANCE
    largest = check.metrics["reproduced_max_difference"]
    assert 0 < largest < 1e-7
    assert check.reason == (
        "in a clean process each of 300 test rows gets the probabilities that were logged, within "
        f"1e-05 (largest difference {largest:.1g})"
    )
    assert check.metrics["reproduced_rows"] == 300
    exact = checked(shares, shares, predicted)
    assert exact.reason.endswith("(largest difference 0)")


@pytest.mark.parametrize("by", [2e-5, np.nan])
def test_one_probability_of_another_model_shows(by):
    """A single row that is further off than the tolerance, or no number, refuses and is counted."""
    shares, _, predicted = answers()
    other = shares.astype(np.float64)
    other[7] += [by, -by]
    check = checked(shares, other, predicted)
    assert check.passed is False
    assert check.metrics["reproduced_other_probabilities"] == 1
    assert check.metrics["reproduced_other_classes"] == 0
    assert "of 300 test rows 1 get other probabilities than were logged" in check.reason


@pytest.mark.parametrize(("margin", "passed"), [(0.5e-5, True), (1.5e-5, False)])
def test_the_class_is_asked_where_the_margin_decides(margin, passed):
    """Of classes that are nearly as likely either is right; a clear one must be predicted."""
    shares = np.array([[0.5 + margin / 2, 0.5 - margin / 2], [0.9, 0.1]], dtype=np.float32)
    check = checked(shares, shares, np.array([1, 0]))
    assert check.passed is passed
    assert check.metrics["reproduced_other_classes"] == (not passed)


def test_a_class_far_below_two_that_tie_is_another_one():
    """The margin is to the class that was predicted, not between the two likeliest."""
    shares = np.array([[0.4, 0.4, 0.2]], dtype=np.float32)
    assert checked(shares, shares, np.array([1])).passed
    assert checked(shares, shares, np.array([2])).passed is False


@pytest.mark.parametrize(
    ("second", "predicted", "passed"),
    [
        (0.300005, 0, True),
        (0.299995, 1, True),
        (0.30002, 0, False),
        (0.29998, 1, False),
        (0.9, 1, True),
        (0.1, 0, True),
        (0.9, 0, False),
        (0.1, 1, False),
    ],
)
def test_with_a_threshold_the_margin_is_the_distance_to_it(second, predicted, passed):
    """From 0.3 on the second class is right, below it the first, and either one on it."""
    shares = np.array([[1 - second, second]])
    assert checked(shares, shares, np.array([predicted]), 0.3).passed is passed


def tied(rows=400):
    """Answers of which many are equal, nearly equal, on an edge of a bin, or undecided."""
    rng = np.random.default_rng(2)
    second = rng.choice([0.2, 0.2 + 3e-8, 1 / 3, 0.5, 0.5 + 2e-8, 0.6, 2 / 3, 0.9], rows)
    shares = np.stack([1 - second, second], axis=1)
    return shares, (rng.random(rows) < second).astype(int)


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [None, 0.2, 0.6])
@pytest.mark.parametrize("ties", [True, False])
def test_ranges_hold_whatever_rounding_does(ties, threshold):
    """Every metric of probabilities within the tolerance is within its range, tied rows or not."""
    shares, labels = tied() if ties else answers()[:2]

    def decided(own):
        return own.argmax(axis=1) if threshold is None else (own[:, 1] >= threshold).astype(int)

    ranges = metric_ranges(shares, labels, decided(shares), threshold)
    moved = set()
    for seed in range(40):
        own = rounded(shares, TOLERANCE if seed % 2 else 1e-7, seed)
        found = probability_metrics(own, labels, decided(own))
        assert found.keys() == ranges.keys()
        for name, value in found.items():
            slack = 1e-4 if name == "log_loss" else 1e-4 if name == "ece" else 1e-12
            assert ranges[name].low - slack <= value <= ranges[name].high + slack, name
            if abs(value - ranges[name].value) > 1e-3:
                moved.add(name)
    assert not ties or {"roc_auc", "average_precision"} <= moved


def test_without_ties_a_range_is_a_point():
    """Where no two probabilities are near each other nothing but the metric itself passes."""
    second = np.linspace(0.013, 0.987, 60)
    labels = (np.arange(60) % 7 < 3).astype(int)
    shares = np.stack([1 - second, second], axis=1)
    for found in metric_ranges(shares, labels, shares.argmax(axis=1), None).values():
        assert found.high - found.low < 1e-12


@pytest.fixture(autouse=True)
def from_anywhere(monkeypatch):
    """Where a version comes from is not asked here: these are copies in folders."""
    monkeypatch.setattr("kd_mlflow.steps.examine.foreign", lambda folder, source: None)


def registered(own_main, change=None):
    """Register the finished main's student once more, its files changed; return its number."""
    client = own_main.client
    first = client.get_model_version(NAME, "1")
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=first.source, dst_path="copy"))
    if change:
        change(folder)
    tags = {k: v for k, v in first.tags.items() if not k.startswith(("kd.pro", "kd.files"))}
    made = client.create_model_version(
        NAME, source=folder.resolve().as_uri(), run_id=first.run_id, tags=tags
    )
    return str(made.version)


def judged(version):
    """The check of a version, and whether it would be promoted."""
    decision = kd.promote(**FREE, version=version, dry_run=True)
    (check,) = [check for check in decision.checks if check.name == "reproduction"]
    return check, decision.passed


def weights_moved(by):
    """Change every weight by so much."""

    def change(folder):
        path = folder / "weights.npz"
        with np.load(path) as arrays:
            own = {
                name: array + np.float32(by) if name.startswith("network.") else array
                for name, array in arrays.items()
            }
        np.savez(path, **own)

    return change


def encoding_with(**items):
    """Change the document of the encoding."""

    def change(folder):
        path = folder / "encoding.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | items))

    return change


@pytest.mark.slow
def test_the_registered_student_is_reproduced(finished):
    """All its test rows get what was logged; the decision has the figures."""
    decision = finished.result.decision
    (check,) = [check for check in decision.checks if check.name == "reproduction"]
    assert (check.passed, decision.passed) == (True, True)
    assert check.metrics["reproduced_rows"] == 1000
    assert check.metrics["reproduced_max_difference"] < 1e-6


@pytest.mark.slow_cases
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (weights_moved(1e-3), "get other probabilities than were logged"),
        (encoding_with(classes=[1, 0]), "get other probabilities than were logged"),
        (encoding_with(threshold=0.4), "of 1,000 test rows 0 get other probabilities"),
        (encoding_with(classes=[0, 2]), "knows other classes"),
        (weights_moved(np.nan), "answers with numbers that are not finite"),
    ],
    ids=["weights", "classes swapped", "threshold", "other classes", "no numbers"],
)
def test_a_changed_artifact_is_refused(own_main, change, words):
    """What is not the student that was logged is not promoted, and one line says what is off."""
    check, passed = judged(registered(own_main, change))
    assert (check.passed, passed) == (False, False)
    assert words in check.reason
    assert "\n" not in check.reason


@pytest.mark.parametrize(("by", "promoted"), [(0.0, True), (0.05, False)])
def test_a_version_without_kept_answers_is_judged_by_its_metrics(own_main, by, promoted):
    """Early versions are held to the metrics of their run."""
    version = registered(own_main, weights_moved(by))
    own_main.client.delete_tag(own_main.result.distill.run_id, DIGEST)
    check, passed = judged(version)
    assert (check.passed, passed) == (promoted, promoted)
    assert check.metrics.keys() == {
        f"reproduced_test_{name}"
        for name in (
            "accuracy",
            "balanced_accuracy",
            "log_loss",
            "ece",
            "roc_auc",
            "average_precision",
        )
    }


@pytest.mark.slow
def test_kept_answers_that_are_gone_are_no_early_version(own_main, monkeypatch):
    """A run that kept answers and has none any more cannot be compared with: refused."""
    monkeypatch.setattr(kept_rows, "ANSWERS", "other.npy")
    check, passed = judged(registered(own_main))
    assert (check.passed, passed) == (False, False)
    assert "are gone, so that nobody can compare with them" in check.reason


@pytest.mark.slow
def test_what_a_run_says_of_its_student_is_not_believed(own_main):
    """The gate counts the accuracy that it measured, whatever its run claims."""
    version, run_id = registered(own_main), own_main.result.distill.run_id
    measured = own_main.client.get_run(run_id).data.metrics["registered_test_accuracy"]
    own_main.client.log_metric(run_id, "registered_test_accuracy", 0.999)
    own_main.client.log_metric(run_id, "ensemble_test_accuracy", 0.999)
    decision = kd.promote(**FREE | {"max_accuracy_gap": 0.001}, version=version, dry_run=True)
    check = decision.checks[0]
    assert (check.name, check.passed) == ("accuracy", False)
    assert check.metrics["registered_test_accuracy"] == pytest.approx(measured, abs=1e-9)


@pytest.fixture
def own_file(store, tmp_path):
    """A table as CSV with gaps, codes and equal rows, a student of it that waits for the gate."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "x": rng.normal(size=300).round(2),
            "code": rng.choice(["01", "1", "a"], 300),
            "day": rng.choice(["2024-01-01", "2024-03-05"], 300),
        }
    )
    table.loc[::7, "x"] = np.nan
    table = pd.concat([table, table.head(150)], ignore_index=True)
    table["label"] = np.where(table["x"].fillna(0) > 0, "yes", "no")
    table.to_csv(tmp_path / "table.csv", index=False)
    source = {"data": str(tmp_path / "table.csv"), "target": "label"}
    pipeline.run_teachers(TeachersConfig(**source, **part_of(TeachersConfig, TINY)))
    pipeline.run_distill(DistillConfig(**source, **part_of(DistillConfig, TINY)))
    return table


@pytest.mark.slow
def test_the_table_may_come_as_another_file(own_file, tmp_path):
    """Its rows are found by what they say: as Parquet the same, without one of them not."""
    own_file.to_parquet(tmp_path / "same.parquet")
    free = FREE | {"min_compression": 0.01}
    same = kd.promote(**free, data=tmp_path / "same.parquet", dry_run=True)
    assert same.passed
    assert {check.name: check.passed for check in same.checks}["reproduction"]
    own_file.iloc[1:].to_parquet(tmp_path / "other.parquet")
    other = kd.promote(**free, data=tmp_path / "other.parquet", dry_run=True)
    assert not other.passed
    assert "is another one, or it or its split changed" in other.reason
