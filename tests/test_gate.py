"""The gate: what each check asks, and what it says where it cannot."""

from dataclasses import replace

import numpy as np
import pytest

from kd_mlflow.errors import RegistryError, Unavailable
from kd_mlflow.evaluation.case import Examined
from kd_mlflow.evaluation.checks import GateLimits
from kd_mlflow.evaluation.gate import CHECKS, gate, verdict
from kd_mlflow.evaluation.intervals import Interval
from kd_mlflow.evaluation.scores import RowScores
from kd_mlflow.evaluation.succession import Incumbent, PredictionTask

GOOD = {
    "registered_test_accuracy": 0.95,
    "registered_test_log_loss": 0.2,
    "registered_test_ece": 0.02,
    "ensemble_test_accuracy": 0.955,
    "ensemble_test_log_loss": 0.19,
    "compression_ratio": 50.0,
    "log_loss_gap": 0.01,
    "log_loss_gap_low": 0.003,
    "log_loss_gap_high": 0.017,
    "gain_over_baseline_high": 0.02,
    "log_loss_gain_over_baseline_high": 0.03,
    "gain_over_strong_baseline_high": 0.01,
    "log_loss_gain_over_strong_baseline_high": 0.02,
    "gain_over_boosting_high": 0.02,
    "log_loss_gain_over_boosting_high": 0.02,
}
LIMITS = GateLimits(
    gate_metric="accuracy",
    max_accuracy_gap=0.02,
    max_log_loss_gap=0.005,
    min_compression=10.0,
    allow_worse_than_baseline=False,
    policy="non_inferior",
    margin=0.005,
    allow_schema_change=False,
    max_ece=0.0,
    max_latency_ms=0.0,
    min_class_recall=0.0,
)
TASK = PredictionTask(target="churned", classes=("no", "yes"), columns=("age", "plan"))
N = 1000


def answers(wrong=(), loss=0.1):
    """Answers to N rows, wrong on some, each with the same loss or with its own."""
    labels, said = np.zeros(N, dtype=int), np.zeros(N, dtype=int)
    said[list(wrong)] = 1
    of_label = np.exp(-np.broadcast_to(np.asarray(loss, dtype=float), (N,)))
    return RowScores(
        classes=2,
        predicted=said,
        confidence=np.ones(N),
        labels=labels,
        of_label=of_label,
        second=np.zeros(N),
    )


def standing(ours=None, theirs=None, *, left_out=0, task=TASK):
    """A version 1 in production that was compared with the candidate."""
    scores = (ours or answers(), theirs or answers())
    return Incumbent(version="1", task=task, scores=scores, left_out=left_out)


def points(**metrics):
    """Metrics of an early version that no rounding can move."""
    return {name: Interval(value=v, low=v, high=v) for name, v in metrics.items()}


def asked(changes=(), incumbent=None, *, task=TASK, **options):
    """The gate's checks by name, of good findings with changes, and its verdict."""
    logged = {**GOOD, **dict(changes)}
    reproduced = points(accuracy=logged["registered_test_accuracy"])
    own = {
        name: options.pop(name)
        for name in ("constant", "latency_ms", "least_recall", "measured", "reproduced")
        if name in options
    }
    findings = Examined(**{"logged": logged, "reproduced": reproduced, "task": task, **own})
    checks = gate(findings, incumbent, replace(LIMITS, **options))
    return {check.name: check for check in checks}, verdict(checks)


def test_a_good_candidate_passes_every_check():
    """All questions that are asked have the answer yes, and a sentence; each check is known."""
    checks, (passed, reason) = asked(
        incumbent=standing(),
        max_ece=0.05,
        max_latency_ms=5.0,
        min_class_recall=0.5,
        latency_ms=1.0,
        least_recall=0.9,
    )
    assert {name: check.passed for name, check in checks.items()} == {
        asked.name: True for asked in CHECKS
    }
    assert passed
    assert all(check.reason in reason and check.question.endswith("?") for check in checks.values())


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("gain_over_baseline_high", "accuracy against the baseline"),
        ("log_loss_gain_over_baseline_high", "log loss against the baseline"),
        ("gain_over_strong_baseline_high", "accuracy against the strong baseline"),
        ("log_loss_gain_over_strong_baseline_high", "log loss against the strong baseline"),
        ("gain_over_boosting_high", "accuracy against the boosted trees"),
        ("log_loss_gain_over_boosting_high", "log loss against the boosted trees"),
    ],
)
def test_a_student_that_a_baseline_beats_is_rejected(metric, words):
    """An interval of a gain that lies below 0 rejects, and the reason names it."""
    checks, (passed, reason) = asked({metric: -0.001})
    assert checks["baseline"].passed is False
    assert checks["baseline"].metrics[metric] == -0.001
    assert not passed
    assert reason == f"measurably worse, by {words}"


@pytest.mark.parametrize("kind", ["baseline", "strong_baseline", "boosting"])
@pytest.mark.parametrize("measure", ["gain", "log_loss_gain"])
def test_a_baseline_that_may_be_better_rejects_nothing(kind, measure):
    """A gain below 0 whose interval reaches 0 is not measurably worse."""
    name = f"{measure}_over_{kind}"
    found = {name: -0.01, f"{name}_low": -0.03, f"{name}_high": 0.0}
    assert asked(found)[0]["baseline"].passed


@pytest.mark.parametrize("rule", ["registered_threshold", "registered_weight_0"])
def test_beside_a_decision_threshold_accuracy_is_not_compared(rule):
    """It is chosen for other things, at the price of right answers: log loss says who is better."""
    ruled = {rule: 0.1, "gain_over_boosting_high": -0.06, "gain_over_majority_high": -0.05}
    check = asked(ruled)[0]["baseline"]
    assert check.passed
    assert check.reason.startswith("no baseline is measurably better; accuracy is not compared")
    check = asked(ruled | {"log_loss_gain_over_boosting_high": -0.01})[0]["baseline"]
    assert not check.passed
    assert check.reason.startswith("measurably worse, by log loss against the boosted trees; ")
    worse, better = answers(range(30), loss=0.1), answers(loss=0.2)
    check = asked(incumbent=replace(standing(worse, better), by_rule=True))[0]["production"]
    assert check.passed
    assert check.reason.startswith("log loss 0.1000 against 0.2000")
    assert "; not in accuracy: one of them has a decision threshold; policy" in check.reason


def test_worse_than_a_baseline_may_be_allowed():
    """The option lets it pass, and the reason says that it was used."""
    checks, (passed, _) = asked({"gain_over_baseline_high": -0.001}, allow_worse_than_baseline=True)
    assert passed
    assert checks["baseline"].reason.endswith("which is allowed")


def test_a_run_without_such_intervals_is_not_asked():
    """Early runs have none: nothing is compared, nothing is stopped."""
    logged = {name: value for name, value in GOOD.items() if "gain" not in name}
    findings = Examined(logged=logged, reproduced=points(accuracy=0.95), task=TASK)
    checks = gate(findings, None, LIMITS)
    (check,) = [check for check in checks if check.name == "baseline"]
    assert (check.passed, check.metrics) == (None, {})
    assert verdict(checks)[0]


@pytest.mark.parametrize(("gap", "passed"), [(0.07, False), (0.08, True)])
def test_accuracy_gap_is_measured_on_the_registered_student(gap, passed):
    """The gate compares the registered student with the ensemble, not the mean over seeds."""
    figures = {
        "ensemble_test_accuracy": 0.88,
        "registered_test_accuracy": 0.80,
        "distilled_test_accuracy": 0.90,
    }
    assert asked(figures, max_accuracy_gap=gap)[0]["accuracy"].passed is passed


@pytest.mark.parametrize(
    ("low", "classes", "passed"),
    [
        (0.0034, 2, True),
        (0.0035, 2, False),
        (-0.01, 2, True),
        (0.0035, 3, True),
        (0.0055, 3, False),
    ],
)
def test_a_log_loss_that_is_measurably_lost_is_refused(low, classes, passed):
    """The gap's lower bound decides; of more classes more is allowed, as a guess costs more."""
    task = replace(TASK, classes=tuple(map(str, range(classes))))
    checks, (verdict, reason) = asked({"log_loss_gap_low": low}, task=task)
    assert checks["log_loss"].passed is verdict is passed
    assert checks["log_loss"].threshold == pytest.approx(0.005 * np.log(classes))
    bounds = f"{low:.4f} to 0.0170" if low > 0 else f"0.0170 higher to {-low:.4f} lower"
    assert f"higher than the ensemble's (95 % interval {bounds})" in reason
    assert "log_loss" not in asked({"log_loss_gap_low": low}, max_log_loss_gap=0.0)[0]


def test_a_gap_above_the_limit_that_passes_says_why():
    """Few rows leave a wide interval: what its lower end allows is not read as a mistake."""
    reached = "allowed, which the interval reaches"
    assert reached in asked({"log_loss_gap_low": 0.003})[0]["log_loss"].reason
    assert reached not in asked({"log_loss_gap": 0.003})[0]["log_loss"].reason
    assert reached not in asked({"log_loss_gap_low": 0.009})[0]["log_loss"].reason


def test_a_student_with_one_answer_says_so():
    """Whoever approves it reads that it never answers anything else."""
    said = "; it answers 'no' for every test row"
    assert asked(constant="no")[0]["accuracy"].reason.endswith(said)
    assert "every test row" not in asked()[0]["accuracy"].reason


def test_a_run_without_an_interval_of_the_gap_is_not_asked():
    """Early runs have none."""
    logged = {name: value for name, value in GOOD.items() if "gap" not in name}
    findings = Examined(logged=logged, reproduced=points(accuracy=0.95), task=TASK)
    (check,) = [check for check in gate(findings, None, LIMITS) if check.name == "log_loss"]
    assert check.passed is None


@pytest.mark.parametrize(("gap", "passed"), [(0.02, True), (0.02001, False), (0.019, True)])
def test_one_row_of_a_hundred_thousand_is_beyond_the_gap(gap, passed):
    """Only rounding is forgiven: 0.02 of 0.7 may be lacking, a row of 100,000 more may not."""
    figures = {"ensemble_test_accuracy": 0.7, "registered_test_accuracy": 0.7 - gap}
    assert figures["ensemble_test_accuracy"] - figures["registered_test_accuracy"] != gap
    assert asked(figures)[0]["accuracy"].passed is passed


@pytest.mark.parametrize(
    ("numbers", "time", "bulk", "passed"),
    [
        (12, 3, None, True),
        (3, 12, None, True),
        (12, None, None, True),
        (9, 9, None, False),
        (None, 12, None, True),
        (9, None, None, False),
        (2, 3, 14, True),
        (2, 3, 9, False),
        (None, 3, 14, True),
    ],
)
def test_ten_times_fewer_numbers_or_ten_times_less_time(numbers, time, bulk, passed):
    """One ratio is enough, all are said; runs of before have no times, or one row's alone."""
    ratios = {"compression_ratio": numbers, "latency_ratio": time, "bulk_ratio": bulk}
    known = {name: ratio for name, ratio in ratios.items() if ratio}
    logged = {n: v for n, v in GOOD.items() if n != "compression_ratio"} | known
    findings = Examined(logged=logged, reproduced=points(accuracy=0.95), task=TASK)
    (check,) = [check for check in gate(findings, None, LIMITS) if check.name == "compression"]
    assert check.passed is passed
    assert known.items() <= check.metrics.items()
    assert all(f"{ratio}.0x" in check.reason for ratio in known.values())


def test_what_is_small_enough_is_not_said_to_be_fast_in_bulk():
    """The line of the check stays short where numbers are enough; its metrics have all ratios."""
    logged = GOOD | {"compression_ratio": 12.0, "latency_ratio": 3.0, "bulk_ratio": 40.0}
    findings = Examined(logged=logged, reproduced=points(accuracy=0.95), task=TASK)
    (check,) = [check for check in gate(findings, None, LIMITS) if check.name == "compression"]
    assert check.reason == "compression 12.0x, 3.0x in time, at least 10x required"
    assert check.metrics["bulk_ratio"] == 40.0


def test_what_cannot_be_counted_is_no_reason_to_refuse():
    """Teachers without a count whose student is not ten times faster: nobody knows its size."""
    logged = {n: v for n, v in GOOD.items() if n != "compression_ratio"} | {"latency_ratio": 2.0}
    findings = Examined(logged=logged, reproduced=points(accuracy=0.95), task=TASK)
    (check,) = [check for check in gate(findings, None, LIMITS) if check.name == "compression"]
    assert check.passed is None


@pytest.mark.parametrize(("student", "passed"), [(0.19, True), (0.1, True), (0.25, False)])
def test_of_log_loss_less_is_better(student, passed):
    """With gate_metric log_loss a student may have more of it than the ensemble by the gap."""
    checks, _ = asked({"registered_test_log_loss": student}, gate_metric="log_loss")
    assert checks["accuracy"].passed is passed
    assert checks["accuracy"].metrics["accuracy_gap"] == pytest.approx(student - 0.19)


def test_a_metric_of_two_classes_is_asked_for_in_vain():
    """A run without the metric to compare is an error that names it."""
    with pytest.raises(RegistryError, match="gate_metric roc_auc needs two classes"):
        asked(gate_metric="roc_auc")


@pytest.mark.parametrize("policy", ["non_inferior", "better", "any"])
def test_nothing_in_production_stops_nothing(policy):
    """The first candidate has nobody to be compared with."""
    checks, (passed, _) = asked(policy=policy)
    assert passed
    assert (checks["production"].passed, checks["task"].passed) == (None, None)


@pytest.mark.parametrize(
    ("policy", "passed"), [("non_inferior", True), ("better", False), ("any", None)]
)
def test_an_equal_student_is_not_inferior_and_not_better(policy, passed):
    """Answers that are the same have no difference, and no interval of one."""
    check = asked(incumbent=standing(), policy=policy)[0]["production"]
    assert check.passed is passed
    assert "may still differ" not in check.reason  # on 0.38 % at most


def test_a_student_that_learnt_nothing_is_said_to():
    """Its log loss must be measurably below that of the classes' shares, and never above it."""
    gain = dict.fromkeys(("log_loss_gain_over_majority_low", "log_loss_gain_over_majority_high"))
    for low, high, passed, said in (
        (0.1, 0.2, True, "no baseline is measurably better"),
        (-0.01, 0.01, True, "nor is it measurably better than the classes' shares alone"),
        (-0.2, -0.1, False, "log loss against the classes' shares alone"),
    ):
        check = asked(dict(zip(gain, (low, high), strict=True)))[0]["baseline"]
        assert check.passed is passed
        assert check.reason.endswith(said)
    both = dict(zip(gain, (-0.01, 0.01), strict=True)) | {"gain_over_boosting_high": -0.01}
    reason = asked(both)[0]["baseline"].reason
    assert reason.endswith("trees, and not measurably better than the classes' shares alone")


def test_equality_on_few_rows_is_said_to_be_little():
    """No row that two models differ on is an interval of nothing; a few rows show no more."""
    check = asked(incumbent=standing(), margin=0.003)[0]["production"]
    assert check.passed is True
    assert "; equal on 1,000 rows, they may still differ on 0.4 % of others" in check.reason


@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "balanced_accuracy"])
@pytest.mark.parametrize(
    ("better", "policy", "passed"),
    [
        (True, "better", True),
        (True, "non_inferior", True),
        (False, "better", False),
        (False, "non_inferior", False),
    ],
)
def test_production_is_compared_in_accuracy_or_log_loss(metric, better, policy, passed):
    """Whoever is right on 30 rows more, or has 0.1 nats less, is better; the other one is not."""
    good = answers(loss=0.1 + np.arange(N) % 3 / 100)
    bad = answers(range(30), loss=0.2 + np.arange(N) % 3 / 100)
    incumbent = standing(good, bad) if better else standing(bad, good)
    own = {f"{who}_test_balanced_accuracy": 0.9 for who in ("registered", "ensemble")}
    check = asked(own, incumbent, policy=policy, gate_metric=metric)[0]["production"]
    assert check.passed is passed
    gain = check.metrics["gain_over_production"]
    assert gain == pytest.approx((0.03 if metric == "accuracy" else 0.1) * (1 if better else -1))


def test_the_margin_is_how_much_worse_it_may_be():
    """Ten rows of a thousand are within 2 points, interval and all, and not within half of one."""
    incumbent = standing(answers(range(10)), answers())
    for margin, passed in ((0.02, True), (0.005, False)):
        check = asked(incumbent=incumbent, margin=margin)[0]["production"]
        assert check.passed is passed
        assert check.threshold == -margin
        assert check.metrics["gain_over_production_low"] < -0.01


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
@pytest.mark.parametrize(("policy", "margin"), [("better", 0.0), ("non_inferior", 0.005)])
def test_the_lower_bound_of_a_gain_decides(metric, policy, margin):
    """A gain above what is asked for is not enough where its interval reaches below."""
    noise = np.random.default_rng(0).normal(0, 0.2, N)
    ours, theirs = answers(range(4), 1 + noise), answers(range(4, 10), 1.01 + noise[::-1])
    if policy == "non_inferior":
        ours, theirs = answers(range(4), 1.003 + noise), answers(loss=1 + noise[::-1])
    incumbent = standing(ours, theirs)
    check = asked(incumbent=incumbent, policy=policy, margin=margin, gate_metric=metric)[0][
        "production"
    ]
    assert check.metrics["gain_over_production"] > -margin
    assert check.metrics["gain_over_production_low"] < -margin
    assert check.passed is False


@pytest.mark.parametrize(
    ("left_out", "words"),
    [(7, "7 rows that production was trained on left out"), (None, "is not known")],
)
def test_rows_that_production_knows_are_accounted_for(left_out, words):
    """The sentence says how many rows were left out, or that nobody can know."""
    check = asked(incumbent=standing(left_out=left_out))[0]["production"]
    assert words in check.reason
    assert check.metrics.get("left_out_rows") == left_out


def test_what_cannot_be_compared_is_not_promoted():
    """Without a row to compare on, nothing shows that the candidate is not worse."""
    incumbent = Incumbent(version="1", task=TASK, scores=Unavailable("no row is left"))
    checks, (passed, reason) = asked(incumbent=incumbent)
    assert (checks["production"].passed, passed, reason) == (False, False, "no row is left")


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (replace(TASK, target="bought"), "it predicts 'bought', production 'churned'"),
        (replace(TASK, classes=("no", "maybe")), "its classes are 'no', 'maybe'"),
        (replace(TASK, columns=("age", "plan", "city")), "does not read: 'city'"),
    ],
)
def test_another_task_is_refused(task, words):
    """Another target, other classes or new columns are said and stop a promotion."""
    checks, (passed, _) = asked(incumbent=standing(), task=task)
    assert checks["task"].passed is False
    assert words in checks["task"].reason
    assert not passed


@pytest.mark.parametrize(
    ("task", "passed"),
    [(replace(TASK, columns=("city",)), True), (replace(TASK, target="bought"), False)],
)
def test_a_schema_may_change_and_a_task_may_not(task, passed):
    """allow_schema_change is for columns alone."""
    checks, _ = asked(incumbent=standing(), task=task, allow_schema_change=True)
    assert checks["task"].passed is passed


def test_fewer_columns_are_no_change():
    """Callers send what a smaller model leaves unread."""
    assert asked(incumbent=standing(), task=replace(TASK, columns=("age",)))[0]["task"].passed


def test_what_is_not_known_of_production_is_said():
    """A model that names no target, classes or columns has no task to be compared with."""
    nothing = PredictionTask(target=None, classes=None, columns=None)
    check = asked(incumbent=standing(task=nothing))[0]["task"]
    assert check.passed
    assert "target and classes not known" in check.reason
    assert "its columns are not known" in check.reason


@pytest.mark.parametrize("off", ["accuracy", "log_loss", "ece"])
def test_every_logged_metric_of_an_early_version_is_reproduced(off):
    """One that the pulled model does not have is named, and rejects."""
    reproduced = {"accuracy": 0.95, "log_loss": 0.2, "ece": 0.02}
    assert asked(reproduced=points(**reproduced))[0]["reproduction"].passed
    other = reproduced | {off: reproduced[off] + 0.001}
    check = asked(reproduced=points(**other))[0]["reproduction"]
    assert check.passed is False
    assert f"{off.replace('_', ' ')} {reproduced[off] + 0.001:.4f}, logged" in check.reason


def test_a_metric_may_be_off_by_what_rounding_explains():
    """A logged value within the range of the pulled model's is reproduced, one beyond it is not."""
    for high, passed in ((0.022, True), (0.0195, False)):
        near = Interval(value=0.019, low=0.016, high=high)
        check = asked(reproduced={**points(accuracy=0.95), "ece": near})[0]["reproduction"]
        assert check.passed is passed


def test_what_was_measured_counts_before_what_was_logged():
    """Accuracy and calibration error are those of the artifact, not those that its run claims."""
    measured = {"accuracy": 0.5, "ece": 0.3}
    checks, (passed, _) = asked(measured=measured, max_ece=0.05)
    assert not passed
    assert checks["accuracy"].metrics["registered_test_accuracy"] == 0.5
    assert checks["max_ece"].metrics["registered_test_ece"] == 0.3


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy"])
def test_one_row_of_a_hundred_thousand_is_not_reproduced(name):
    """Shares of right answers are the same but for rounding, or the model is another."""
    logged = {"registered_test_accuracy": 0.95, "registered_test_balanced_accuracy": 0.9}
    same = {"accuracy": 0.95, "balanced_accuracy": 0.9}
    for off, passed in ((1e-8, True), (1e-5, False)):
        reproduced = same | {name: same[name] - off}
        assert asked(logged, reproduced=points(**reproduced))[0]["reproduction"].passed is passed


def test_what_does_not_score_is_rejected_by_all_that_need_it():
    """Without answers there is no reproduction, no latency and no recall."""
    checks, (passed, _) = asked(
        reproduced=Unavailable("does not load"), max_latency_ms=1.0, min_class_recall=0.1
    )
    assert not passed
    for name in ("reproduction", "max_latency_ms", "min_class_recall"):
        assert checks[name].passed is False


@pytest.mark.parametrize(
    ("name", "limits"),
    [("max_ece", (0.01, 0.03)), ("max_latency_ms", (1.0, 3.0)), ("min_class_recall", (0.9, 0.7))],
)
def test_optional_checks_are_asked_where_they_are_set(name, limits):
    """Without a limit there is no such check; with one it decides."""
    known = {"latency_ms": 2.0, "least_recall": 0.8}
    assert name not in asked(**known)[0]
    for limit, passed in zip(limits, (False, True), strict=True):
        check = asked(**known, **{name: limit})[0][name]
        assert (check.passed, check.threshold) == (passed, limit)
