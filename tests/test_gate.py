"""The gate: what each check asks, and what it says where it cannot."""

import numpy as np
import pytest

from kd_mlflow.evaluation.challenge import Challenge, Task
from kd_mlflow.evaluation.checks import Answer
from kd_mlflow.evaluation.gate import InProduction, Limits, gate, verdict

GOOD = {
    "registered_test_accuracy": 0.95,
    "ensemble_test_accuracy": 0.955,
    "compression_ratio": 50.0,
    "gain_over_baseline_high": 0.02,
    "log_loss_gain_over_baseline_high": 0.03,
    "gain_over_strong_baseline_high": 0.01,
    "log_loss_gain_over_strong_baseline_high": 0.02,
}


TASK = Task(target="label", classes=("a", "b"), columns=("x", "y"))

LABELS = np.arange(400) % 2


def answers(hits, confidence=0.9):
    """Probabilities that are right in so many of 400 rows, each equally sure.  Shape: (400, 2)."""
    right = np.where(np.arange(400) < hits, confidence, 1 - confidence)
    return np.where(np.eye(2, dtype=bool)[LABELS], right[:, None], 1 - right[:, None])


ANSWER = Answer(probabilities=answers(380), labels=LABELS, classes=("a", "b"))


def against(own, theirs):
    """A production version on the candidate's rows."""
    challenge = Challenge(version="1", own=own, theirs=theirs, labels=LABELS, rows="on 400 rows")
    return InProduction(task=TASK, challenge=challenge)


def asked(changes=(), *, answer=ANSWER, production=InProduction(), task=TASK, **options):
    """The gate's checks by name, of good metrics with changes."""
    metrics = {**GOOD, **dict(changes)}
    checks = gate(metrics, answer, limits=Limits(**options), task=task, production=production)
    return {check.name: check for check in checks}, verdict(checks)


def test_a_good_candidate_passes_every_check():
    """All questions have the answer yes; that on production has none, as there is none."""
    checks, (promoted, _) = asked()
    assert {name: check.passed for name, check in checks.items()} == {
        **dict.fromkeys(("accuracy", "baseline", "compression", "reproduction", "task"), True),
        "production": None,
    }
    assert promoted


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("gain_over_baseline_high", "accuracy against the baseline"),
        ("log_loss_gain_over_baseline_high", "log loss against the baseline"),
        ("gain_over_strong_baseline_high", "accuracy against the strong baseline"),
        ("log_loss_gain_over_strong_baseline_high", "log loss against the strong baseline"),
    ],
)
def test_a_student_that_a_baseline_beats_is_rejected(metric, words):
    """An interval of a gain that lies below 0 rejects, and the reason names it."""
    checks, (promoted, reason) = asked({metric: -0.001})
    assert checks["baseline"].passed is False
    assert checks["baseline"].metrics[metric] == -0.001
    assert not promoted
    assert reason == f"measurably worse, by {words}"


def test_worse_than_a_baseline_may_be_allowed():
    """The option lets it pass, and the reason says that it was used."""
    checks, (promoted, _) = asked(
        {"gain_over_baseline_high": -0.001}, allow_worse_than_baseline=True
    )
    assert promoted
    assert checks["baseline"].reason.endswith("which is allowed")


def test_a_run_without_such_intervals_is_not_asked():
    """Early runs have none: nothing is compared, nothing is stopped."""
    metrics = {name: value for name, value in GOOD.items() if "gain" not in name}
    checks = gate(metrics, ANSWER, limits=Limits(), task=TASK)
    (check,) = [check for check in checks if check.name == "baseline"]
    assert (check.passed, check.metrics) == (None, {})
    assert verdict(checks)[0]


@pytest.mark.parametrize(
    ("policy", "passed"), [("non_inferior", True), ("better", False), ("any", None)]
)
@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_an_equal_student_is_not_inferior_and_not_better(policy, passed, metric):
    """The same answers as production's are let in by non_inferior and kept out by better."""
    metrics = {"registered_test_log_loss": 0.2, "ensemble_test_log_loss": 0.2}
    production = against(answers(380), answers(380))
    checks, _ = asked(metrics, production=production, policy=policy, gate_metric=metric)
    assert checks["production"].passed is passed


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
@pytest.mark.parametrize(("own", "theirs", "passed"), [(380, 300, True), (300, 380, False)])
def test_the_better_of_two_is_known_in_either_metric(metric, own, theirs, passed):
    """More right answers are better in accuracy, and in log loss, where less is more."""
    metrics = {"registered_test_log_loss": 0.2, "ensemble_test_log_loss": 0.2}
    production = against(answers(own), answers(theirs))
    for policy in ("non_inferior", "better"):
        checks, _ = asked(metrics, production=production, policy=policy, gate_metric=metric)
        check = checks["production"]
        assert check.passed is passed
        assert (check.metrics["gain_over_production"] > 0) is passed
        assert f"of version 1, on 400 rows: gain {'+' if passed else '-'}" in check.reason


def test_a_log_loss_may_be_so_much_above_the_ensembles():
    """The gap in log loss counts upwards: less than the ensemble's is no gap."""
    for own, passed in ((0.21, True), (0.3, False), (0.1, True)):
        metrics = {"registered_test_log_loss": own, "ensemble_test_log_loss": 0.2}
        checks, _ = asked(metrics, gate_metric="log_loss")
        assert checks["accuracy"].passed is passed


def test_rows_that_production_knows_all_are_no_comparison():
    """Where no test row is left, the candidate is not let in on none."""
    empty = Challenge(
        version="1",
        own=ANSWER.probabilities[:0],
        theirs=ANSWER.probabilities[:0],
        labels=LABELS[:0],
        rows="",
        left_out=400,
    )
    _, (promoted, reason) = asked(production=InProduction(task=TASK, challenge=empty))
    assert not promoted
    assert reason == "production was trained on all 400 test rows: none is left"


@pytest.mark.parametrize(
    ("changes", "allowed", "passed", "words"),
    [
        ({"target": "other"}, True, False, "it predicts 'label', production 'other'"),
        ({"classes": ("a", "c")}, True, False, "only it has 'b'"),
        ({"classes": ("b", "a")}, False, True, "same task"),
        ({"columns": ("x", "y", "z")}, False, True, "no new columns"),
        ({"columns": ("x",)}, False, False, "columns that production does not take: 'y'"),
        ({"columns": ("x",)}, True, True, "which is allowed"),
        ({"target": None}, False, True, "production does not say its target"),
        ({"classes": None}, False, None, "production does not say its classes"),
    ],
)
def test_another_task_never_replaces_production(changes, allowed, passed, words):
    """Target and classes must be production's; new columns only where that is allowed."""
    theirs = Task(**{"target": "label", "classes": ("a", "b"), "columns": ("x", "y"), **changes})
    checks, _ = asked(production=InProduction(task=theirs), allow_schema_change=allowed)
    assert checks["task"].passed is passed
    assert words in checks["task"].reason


def test_a_logged_log_loss_that_is_not_reproduced_rejects():
    """Not accuracy alone is held against the log: the reason names the metric that is off."""
    checks, (promoted, _) = asked({"registered_test_log_loss": 0.5})
    assert not promoted
    assert "log loss 0.2152 (logged 0.5000)" in checks["reproduction"].reason


@pytest.mark.parametrize(
    ("option", "name", "strict", "lax"),
    [
        ("max_ece", "ece", 0.01, 0.2),
        ("max_latency_ms", "latency", 1.0, 3.0),
        ("min_class_recall", "class_recall", 0.96, 0.94),
    ],
)
def test_optional_checks_are_asked_where_they_are_set(option, name, strict, lax):
    """Off by default; each holds its figure to its threshold and says both."""
    answer = Answer(probabilities=answers(380), labels=LABELS, classes=("a", "b"), latency_ms=2.0)
    assert name not in asked(answer=answer)[0]
    for limit, passed in ((strict, False), (lax, True)):
        check = asked(answer=answer, **{option: limit})[0][name]
        assert (check.passed, check.threshold, check.metrics[option]) == (passed, limit, limit)
