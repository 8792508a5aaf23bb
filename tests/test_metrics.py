"""Metrics: equal to their formulas, and honest about what is not known."""

import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from scipy.stats import binom

from kd_mlflow.distillation.logits import Logits, agreements, teacher_student_kl
from kd_mlflow.distillation.logits import compared as comparison
from kd_mlflow.evaluation import intervals
from kd_mlflow.evaluation.intervals import (
    Interval,
    _resampled_accuracies,
    accuracy_difference,
    knowledge_recovered,
    loss_difference,
    mcnemar_p,
    standard_error,
    wilson,
)
from kd_mlflow.evaluation.metrics import (
    class_recalls,
    confidence_bins,
    expected_calibration_error,
    probability_metrics,
)


def two_classes(confidence, hits):
    """Rows that predict class 0 with a confidence, and labels that say which are right."""
    confidence = np.asarray(confidence, dtype=np.float64)
    return np.column_stack([confidence, 1 - confidence]), np.where(hits, 0, 1)


def likeliest_ece(probabilities, labels):
    """The calibration error of the likeliest classes."""
    return expected_calibration_error(probabilities, labels, probabilities.argmax(axis=1))


def answers(shape, share, seed):
    """Answers of which a share is right."""
    return np.random.default_rng(seed).random(shape) < share


@pytest.fixture
def hits():
    """Distilled (4, n), baseline (4, n) and ensemble (n,) with a clear gap, correlated by row."""
    hard = np.random.default_rng(0).random(800)
    noise = np.random.default_rng(1).random((8, 800)) * 0.3
    ensemble = hard < 0.95
    distilled = hard + noise[:4] < [[1.0], [1.02], [0.99], [1.05]]
    baseline = hard + noise[4:] < [[0.8], [0.85], [0.82], [0.78]]
    return distilled, baseline, ensemble


def test_accuracy_counts_right_rows_by_member():
    """Each member's accuracy is the share of rows whose largest logit is the label's."""
    logits = torch.tensor([[[1.0, 0.0]] * 4, [[0.0, 1.0]] * 4])
    assert agreements(logits, torch.tensor([0, 0, 0, 1])).tolist() == [0.75, 0.25]


def test_agreement_with_oneself_is_one():
    """A member agrees on every row with the classes that it predicts."""
    logits = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    agreed = agreements(logits, logits[1].argmax(dim=1))
    assert agreed[1] == 1.0
    assert agreed[0] < 1.0


def test_ece_is_zero_when_calibrated():
    """Where each confidence is right as often as it says, the calibration error is zero."""
    confidence = np.repeat([0.6, 0.75, 0.9], 20)
    hits = np.concatenate([np.arange(20) < right for right in (12, 15, 18)])
    assert likeliest_ece(*two_classes(confidence, hits)) == pytest.approx(0, abs=1e-12)


def test_ece_weighs_bins_by_their_rows():
    """Three sure rows, all right, and one row of 0.6 that is wrong give 0.6 / 4."""
    probabilities, labels = two_classes([1.0, 1.0, 1.0, 0.6], [True, True, True, False])
    assert likeliest_ece(probabilities, labels) == pytest.approx(0.15)


def test_a_round_confidence_is_in_one_bin_however_it_is_rounded():
    """A probability on an edge, such as 0.6 or 2/3, is in the bin above it, in float32 too."""
    for place in range(1, 15):
        exact = place / 15
        near = [exact, exact - 6e-8, exact + 6e-8, float(np.float32(exact))]
        assert confidence_bins(np.array(near)).tolist() == [place] * 4
        assert confidence_bins(np.array([exact - 1e-6])) == [place - 1]
    assert confidence_bins(np.array([0.0, 1.0])).tolist() == [0, 14]


def test_ece_does_not_let_bins_cancel():
    """Too sure in one bin and too unsure in another add up instead of cancelling."""
    probabilities, labels = two_classes([0.9, 0.6], [False, True])
    assert likeliest_ece(probabilities, labels) == pytest.approx((0.9 + 0.4) / 2)


def test_log_loss_is_the_mean_of_minus_log_probability():
    """Log loss is -log of the label's probability in nats, also with a class absent from rows."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], size=40)
    labels = rng.integers(2, size=40)
    expected = -np.log(probabilities[np.arange(40), labels]).mean()
    assert probability_metrics(probabilities, labels)["log_loss"] == pytest.approx(expected)


def test_probability_metrics_take_float32():
    """Rows of float32, which do not add up to 1 exactly, give the figures of their float64."""
    probabilities = np.random.default_rng(0).dirichlet([0.1] * 10, size=200)
    labels = np.random.default_rng(1).integers(10, size=200)
    narrow = np.clip(probabilities, 1e-30, 1).astype(np.float32)
    narrow_figures = probability_metrics(narrow, labels)
    wide_figures = probability_metrics(narrow.astype(np.float64), labels)
    assert narrow_figures == pytest.approx(wide_figures)


def test_probability_metrics_leave_their_input_alone():
    """Normalising works on a copy: the caller's probabilities are unchanged."""
    probabilities = np.full((4, 2), 0.25)
    probability_metrics(probabilities, np.array([0, 1, 0, 1]))
    assert (probabilities == 0.25).all()


def test_recovered_is_the_formula(hits):
    """The point value is (distilled - baseline) / (ensemble - baseline), inside its interval."""
    distilled, baseline, ensemble = hits
    recovery = knowledge_recovered(*hits)
    gap = ensemble.mean() - baseline.mean()
    assert recovery.value == pytest.approx((distilled.mean() - baseline.mean()) / gap)
    assert recovery.low < recovery.value < recovery.high


def test_recovery_repeats(hits):
    """The same answers give the same interval, whatever else has drawn random numbers."""
    assert knowledge_recovered(*hits) == knowledge_recovered(*hits)


def test_recovery_does_not_depend_on_row_order(hits):
    """Shuffling the test rows changes neither value nor interval."""
    order = np.random.default_rng(5).permutation(hits[2].size)
    shuffled = knowledge_recovered(*(h[..., order] for h in hits))
    assert vars(shuffled) == pytest.approx(vars(knowledge_recovered(*hits)))


def test_a_perfect_student_recovers_everything(hits):
    """Students that answer as the ensemble does recover 1, with no doubt about it."""
    _, baseline, ensemble = hits
    recovery = knowledge_recovered(np.tile(ensemble, (4, 1)), baseline, ensemble)
    assert vars(recovery) == pytest.approx({"value": 1.0, "low": 1.0, "high": 1.0})


def test_seeds_are_resampled_in_pairs(hits):
    """Students that answer as their own seed's baseline recover 0, with no doubt about it."""
    _, baseline, ensemble = hits
    recovery = knowledge_recovered(baseline, baseline, ensemble)
    assert vars(recovery) == pytest.approx({"value": 0.0, "low": 0.0, "high": 0.0})


def test_no_share_of_no_gap():
    """Where baseline and ensemble tie, the share of their gap is no number."""
    ensemble = answers(500, 0.9, 0)
    baseline = np.tile(ensemble, (3, 1))
    assert knowledge_recovered(answers((3, 500), 0.9, 1), baseline, ensemble) is None


def test_no_share_of_a_negative_gap():
    """Where the baseline beats the ensemble, there is nothing to recover."""
    ensemble, baseline = answers(500, 0.7, 0), answers((3, 500), 0.95, 1)
    assert knowledge_recovered(answers((3, 500), 0.9, 2), baseline, ensemble) is None


def test_no_share_of_a_doubtful_gap():
    """A gap of one row in fifty may be none: its share is no number."""
    ensemble = np.ones(50, dtype=bool)
    ensemble[:5] = False
    baseline = ensemble.copy()[None]
    baseline[0, 10] = False
    assert ensemble.mean() > baseline.mean()
    assert knowledge_recovered(baseline, baseline, ensemble) is None


def test_pattern_bootstrap_equals_row_bootstrap(hits):
    """Drawing answer patterns gives the means and covariances of drawing rows one by one."""
    distilled, baseline, ensemble = hits
    fast = np.stack(_resampled_accuracies([distilled, baseline, ensemble[None]]))
    rng = np.random.default_rng(1)
    naive = np.empty_like(fast)
    for i in range(naive.shape[1]):
        rows = rng.integers(ensemble.size, size=ensemble.size)
        seeds = rng.integers(len(distilled), size=len(distilled))
        d, b = distilled[seeds][:, rows].mean(), baseline[seeds][:, rows].mean()
        naive[:, i] = d, b, ensemble[rows].mean()
    np.testing.assert_allclose(fast.mean(axis=1), naive.mean(axis=1), atol=0.002)
    spread = naive.std(axis=1)
    np.testing.assert_allclose(fast.std(axis=1), spread, rtol=0.1)
    np.testing.assert_allclose(np.cov(fast), np.cov(naive), atol=0.15 * spread.max() * spread.max())


def test_difference_is_zero_between_the_same(hits):
    """Models that answer alike differ by nothing, with no doubt about it."""
    distilled, _, ensemble = hits
    for first, second in ((distilled, distilled), (ensemble[None], ensemble[None])):
        assert vars(accuracy_difference(first, second)) == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_difference_changes_its_sign_with_its_sides(hits):
    """Exchanging the sides turns value and interval round."""
    distilled, baseline, _ = hits
    there, back = accuracy_difference(distilled, baseline), accuracy_difference(baseline, distilled)
    assert back.value == pytest.approx(-there.value)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=0.002)


def drawn_hits(seed, seeds, rows=400):
    """Distilled, baseline and ensemble of expected accuracies 0.8, 0.7 and 0.95 on drawn rows.

    Some rows are harder for all; a seed's students are better or worse by two points.
    """
    rng = np.random.default_rng(seed)
    hard, noise = rng.random(rows), 0.3 * rng.random((2, seeds, rows))
    luck = (0.02 if seeds > 1 else 0) * rng.normal(size=(2, seeds, 1))
    distilled, baseline = (
        hard + noise[i] < level + luck[i] for i, level in enumerate((0.95, 0.85))
    )
    return distilled, baseline, hard + 0.1 * rng.random(rows) < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "times", "bounds"), [(1, 500, (0.925, 0.975)), (5, 100, (0.89, 0.99))]
)
def test_bootstrapped_intervals_hold_the_truth_19_times_of_20(monkeypatch, seeds, times, bounds):
    """So do those of a gain, 0.1, and of the knowledge recovered, 0.4, for one seed and five."""
    monkeypatch.setattr(intervals, "REPLICATES", 300)
    held = np.zeros(2)
    for seed in range(times):
        distilled, baseline, ensemble = drawn_hits(seed, seeds)
        gain = accuracy_difference(distilled, baseline)
        share = knowledge_recovered(distilled, baseline, ensemble)
        held += gain.low <= 0.1 <= gain.high, share.low <= 0.4 <= share.high
    least, most = bounds
    assert (least * times <= held).all(), held
    assert (held <= most * times).all(), held


@pytest.mark.parametrize(("rows", "least"), [(20, 0.9), (100, 0.91), (1000, 0.945)])
def test_wilson_holds_a_share_19_times_of_20(rows, least):
    """Over all shares 95 % of the counts that one may give have an interval that holds it.

    Never fewer than nine of ten do: the exact chance of each count, no sample of them.
    """
    shares = np.linspace(0, 1, 202)[1:-1, None]
    low, high = wilson(np.arange(rows + 1) / rows, rows)
    chances = binom.pmf(np.arange(rows + 1), rows, shares)
    held = (chances * ((low <= shares) & (shares <= high))).sum(axis=1)
    assert held.mean() == pytest.approx(0.95, abs=0.005)
    assert held.min() >= least


@pytest.mark.parametrize(
    ("low", "high", "decided"), [(-0.1, 0.2, False), (0.0, 0.2, False), (0.1, 0.2, True)]
)
def test_an_interval_that_holds_0_decides_nothing(low, high, decided):
    """A difference counts as measured where its interval leaves 0 out."""
    assert Interval(value=0.1, low=low, high=high).decided is decided
    assert Interval(value=-0.1, low=-high, high=-low).decided is decided


def test_mcnemar_is_the_exact_test():
    """The p value is that of the two-sided binomial test on the rows where two models differ."""
    first = np.array([True] * 9 + [False] * 2 + [True] * 50)
    second = np.array([False] * 9 + [True] * 2 + [True] * 50)
    tail = sum(math.comb(11, i) for i in range(3)) / 2**11
    assert mcnemar_p(first, second) == pytest.approx(2 * tail)
    assert mcnemar_p(second, first) == pytest.approx(2 * tail)
    assert mcnemar_p(first, first) == 1.0


@pytest.mark.parametrize("rows", [5, 20, 50, 100, 200])
def test_mcnemar_accuses_equals_at_most_once_in_twenty(rows):
    """Of models that err equally often 2 to 5 % have a p of 0.05 or less, of few rows none."""
    won = [np.arange(rows) < first for first in range(rows + 1)]
    accused = np.array([mcnemar_p(first, ~first) <= 0.05 for first in won])
    level = binom.pmf(np.arange(rows + 1), rows, 0.5) @ accused
    assert (0.025 if rows > 5 else 0) <= level <= 0.05


def test_standard_error_is_deviation_over_root_n():
    """The standard error is the sample deviation over the root of the number of values."""
    assert standard_error(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(np.sqrt(5 / 3) / 2)


def test_standard_error_of_one_value_is_zero():
    """One seed has no spread to speak of, and raises no warning."""
    assert standard_error(np.array([0.9])) == 0.0


def test_kl_is_zero_at_equality_and_positive_elsewhere():
    """A student equal to the ensemble is at distance 0 from it, any other above."""
    logits = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    assert teacher_student_kl(logits, logits) == pytest.approx(0, abs=1e-12)
    assert teacher_student_kl(logits, -logits) > 0.1


def test_figures_beside_accuracy_are_scikit_learns():
    """Balanced accuracy and, for two classes, the areas under both curves are its own."""
    rng = np.random.default_rng(3)
    labels = (rng.random(200) < 0.2).astype(np.int64)
    positive = np.clip(0.3 * labels + rng.random(200) * 0.6, 0, 1)
    figures = probability_metrics(np.stack([1 - positive, positive], axis=1), labels)
    predicted = (positive > 0.5).astype(int)
    assert figures["balanced_accuracy"] == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(labels, predicted)
    )
    assert figures["roc_auc"] == pytest.approx(sklearn.metrics.roc_auc_score(labels, positive))
    assert figures["average_precision"] == pytest.approx(
        sklearn.metrics.average_precision_score(labels, positive)
    )


def test_three_classes_have_no_area_under_a_curve():
    """ROC AUC and average precision are figures of two classes."""
    figures = probability_metrics(np.eye(3), np.arange(3))
    assert figures.keys() == {"accuracy", "balanced_accuracy", "log_loss", "ece"}


def test_recalls_average_to_balanced_accuracy():
    """Each member's recalls are scikit-learn's, and their mean is its balanced accuracy."""
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(4, size=300), rng.integers(4, size=(3, 300))
    recalls = class_recalls(predicted, labels, 4)
    assert recalls.shape == (3, 4)
    for own, answers_of_one in zip(recalls, predicted, strict=True):
        expected = sklearn.metrics.recall_score(labels, answers_of_one, average=None)
        assert own == pytest.approx(expected)
        balanced = sklearn.metrics.balanced_accuracy_score(labels, answers_of_one)
        assert own.mean() == pytest.approx(balanced)


def test_a_class_without_a_row_has_no_recall():
    """A class that no test row has gets NaN, not 0, and takes nothing from the others."""
    recalls = class_recalls(np.array([[0, 2, 1]]), np.array([0, 2, 2]), 3)
    np.testing.assert_array_equal(recalls, [[1.0, np.nan, 0.5]])


def compared(labels, registered=0, **students):
    """A comparison of students that all answer as told; the ensemble is always right."""
    answers_as = {kind: torch.eye(3)[torch.tensor(said)] for kind, said in students.items()}
    right = torch.eye(3)[torch.tensor(labels)]
    return comparison(
        Logits(labels=np.array(labels), ensemble=right, students=answers_as, registered=registered),
        student_parameters=1,
        ensemble_parameters=2,
    )


def test_a_comparison_has_the_recalls_of_every_model():
    """Ensemble, means over seeds and the first student: recalls by class, None where unknown."""
    found = compared([0, 0, 2], distilled=[[0, 0, 0], [0, 1, 2]], baseline=[[2, 2, 2], [2, 2, 2]])
    assert found.recall_by_class() == {
        "ensemble": {"0": 1.0, "1": None, "2": 1.0},
        "distilled": {"0": 0.75, "1": None, "2": 0.5},
        "baseline": {"0": 0.0, "1": None, "2": 1.0},
        "registered": {"0": 1.0, "1": None, "2": 0.0},
    }


def test_what_is_said_of_the_registered_student_is_of_its_seed():
    """Metrics, recalls and McNemar's test follow the seed that is registered, paired by seed."""
    labels, wrong = [0, 0, 0, 0, 0, 0, 2, 2], [2, 2, 2, 2, 2, 2, 0, 0]
    students = {"distilled": [wrong, labels], "baseline": [labels, wrong]}
    first, second = (compared(labels, registered=place, **students) for place in (0, 1))
    for found, accuracy, p in ((first, 0.0, 2 / 2**8), (second, 1.0, 1.0)):
        assert found.summary["registered_test_accuracy"] == accuracy
        assert found.recall_by_class()["registered"]["2"] == accuracy
        assert found.summary["mcnemar_p_ensemble"] == p
        assert found.summary["mcnemar_p_baseline"] == 2 / 2**8
    assert (first.registered, second.registered) == (0, 1)


@pytest.mark.parametrize(("majority", "imbalanced"), [(90, False), (91, True)])
def test_imbalance_starts_above_nine_tenths(majority, imbalanced):
    """A table is imbalanced where one class has more than 90 % of its rows."""
    labels = [0] * majority + [1] * (100 - majority)
    assert compared(labels, distilled=[labels], baseline=[labels]).imbalanced is imbalanced


def test_a_difference_of_losses_has_the_interval_of_its_formula():
    """The variance over rows of the seeds' means, plus that over seeds; 0 of equal losses."""
    rng = np.random.default_rng(3)
    first, second = rng.random((4, 300)), rng.random((4, 300)) + 0.1
    found = loss_difference(first, second)
    difference = first - second
    rows, seeds = difference.mean(axis=0), difference.mean(axis=1)
    error = math.sqrt(rows.var(ddof=1) / 300 + seeds.var(ddof=1) / 4)
    assert found.value == pytest.approx(difference.mean())
    assert found.high - found.value == pytest.approx(1.959964 * error)
    assert found.value - found.low == pytest.approx(1.959964 * error)
    same = loss_difference(first, first)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_an_interval_of_a_loss_difference_covers_the_truth():
    """Of 3,000 samples of two equally good models one in twenty excludes 0."""
    rng = np.random.default_rng(5)
    decided = [
        loss_difference(rng.exponential(size=(1, 200)), rng.exponential(size=(1, 200))).decided
        for _ in range(3000)
    ]
    assert 0.04 < np.mean(decided) < 0.06


def scored(shift, seed, rows=600):
    """Three seeds' logits on rows of two classes: better the larger the shift."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(3, rows, 2, generator=generator)
    labels = torch.arange(rows) % 2
    return noise + shift * torch.nn.functional.one_hot(labels, 2)


def weighed(distilled, baseline, boosting=None):
    """Students of a shift each against an ensemble that is better than all."""
    labels = np.arange(600) % 2
    logits = Logits(
        labels=labels,
        ensemble=scored(4, 3)[0],
        students={"distilled": scored(distilled, 1), "baseline": scored(baseline, 2)},
        boosting=None if boosting is None else scored(boosting, 4)[0],
    )
    return comparison(logits, student_parameters=10, ensemble_parameters=100)


def test_who_is_worse_than_a_baseline_is_known():
    """Beyond noise by accuracy or log loss; a tie and a better student are not."""
    assert weighed(1, 3).worse_than == ("baseline",)
    assert weighed(3, 1).worse_than == ()
    assert weighed(2, 2).worse_than == ()
    assert weighed(2, 1, boosting=3).worse_than == ("boosting",)
    assert weighed(2, 1, boosting=2).worse_than == ()


def test_a_student_that_answers_one_class_for_every_row_is_known():
    """Of the registered student; the others may say what they like."""
    students = {"distilled": [[0, 0, 0], [0, 1, 2]], "baseline": [[2, 2, 2], [2, 2, 2]]}
    assert compared([0, 0, 2], **students).constant == "0"
    assert compared([0, 0, 2], registered=1, **students).constant is None
    last = students | {"distilled": [[2, 2, 2], [0, 1, 2]]}
    assert compared([0, 0, 2], **last).constant == "2"


def test_log_loss_gains_are_positive_where_students_are_better():
    """A gain is the other's log loss minus the students', in the summary with its bounds."""
    comparison = weighed(3, 1, boosting=2)
    summary = comparison.summary
    assert list(comparison.gains) == list(comparison.loss_gains) == ["baseline"]
    gain = comparison.loss_gains["baseline"]
    assert gain.low > 0
    expected = summary["baseline_test_log_loss"] - summary["distilled_test_log_loss"]
    assert summary["log_loss_gain_over_baseline"] == pytest.approx(expected) == gain.value
    assert summary["log_loss_gain_over_baseline_low"] == gain.low
    gap = summary["distilled_test_log_loss"] - summary["ensemble_test_log_loss"]
    assert summary["log_loss_gap"] == pytest.approx(gap)
    over = summary["boosting_test_log_loss"] - summary["distilled_test_log_loss"]
    assert summary["log_loss_gain_over_boosting"] == pytest.approx(over)
    assert comparison.over_boosting[0].value == pytest.approx(
        summary["distilled_test_accuracy"] - summary["boosting_test_accuracy"]
    )
    assert not any("boosting" in name for name in weighed(3, 1).summary)
