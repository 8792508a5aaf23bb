"""The gate: what each check asks, and what it says where it cannot."""

import pytest

from kd_mlflow.evaluation.gate import gate, verdict

GOOD = {
    "registered_test_accuracy": 0.95,
    "ensemble_test_accuracy": 0.955,
    "compression_ratio": 50.0,
    "gain_over_baseline_high": 0.02,
    "log_loss_gain_over_baseline_high": 0.03,
    "gain_over_strong_baseline_high": 0.01,
    "log_loss_gain_over_strong_baseline_high": 0.02,
}


def asked(changes=(), **options):
    """The gate's checks by name, of good metrics with changes."""
    metrics = {**GOOD, **dict(changes)}
    given = {"metric": "accuracy", "max_accuracy_gap": 0.02, "min_compression": 10.0, **options}
    checks = gate(metrics, metrics["registered_test_accuracy"], **given)
    return {check.name: check for check in checks}, verdict(checks)


def test_a_good_candidate_passes_every_check():
    """All four questions have the answer yes."""
    checks, (promoted, _) = asked()
    assert {name: check.passed for name, check in checks.items()} == dict.fromkeys(
        ("accuracy", "baseline", "compression", "reproduction"), True
    )
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
    checks = gate(metrics, 0.95, metric="accuracy", max_accuracy_gap=0.02, min_compression=10)
    (check,) = [check for check in checks if check.name == "baseline"]
    assert (check.passed, check.metrics) == (None, {})
    assert verdict(checks)[0]
