"""Intervals of rows in groups: those of single rows where each is alone, and right where not."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import average_precision_score, roc_auc_score

from kd_mlflow.evaluation import grouped
from kd_mlflow.evaluation.grouped import (
    MOST_GROUPS,
    deviate,
    group_error,
    mcnemar_by_groups,
    mean_error,
)
from kd_mlflow.evaluation.intervals import (
    accuracy_difference,
    knowledge_recovered,
    loss_difference,
    mcnemar_p,
    mean_share,
    wilson,
)
from kd_mlflow.evaluation.metric_intervals import (
    _precision_contributions,
    _roc_contributions,
    metrics_with_intervals,
)
from kd_mlflow.evaluation.scores import RowScores, class_scores, expected_accuracy, paired

GROUPS, TABLES = 120, 500
"""Groups of test rows of each simulated table, and how many tables: a fifth of 600 customers."""


def simulated(groups, rng):
    """Rows of groups that share an effect on the label and on what each of two models makes of it.

    Returns each row's label, the second class's probability by model, and its group.
    """
    of = np.repeat(np.arange(groups), 1 + rng.poisson(7, groups))
    known, hidden, first, second = (rng.normal(size=groups)[of] for _ in range(4))
    seen = rng.normal(size=len(of)) + known
    labels = (rng.random(len(of)) < expit(1.5 * seen + 1.5 * hidden - 0.5)).astype(np.int64)
    models = [expit(1.2 * seen + 0.6 * own - 0.4) for own in (first, second + 0.4)]
    return labels, models, of


def scored(labels, second, groups=None):
    """A model's answers."""
    rows = RowScores.of(np.stack([1 - second, second], axis=1), labels)
    return rows if groups is None else rows.__class__(**vars(rows) | {"groups": groups})


def found(labels, models, groups):
    """Every interval of one model, and of it against the other."""
    one, two = (scored(labels, second, groups) for second in models)
    against = paired(one, two)
    first, second = class_scores(one, ["no", "yes"])
    return {
        **metrics_with_intervals(one),
        "recall": second.recall,
        "precision": first.precision,
        "accuracy gain": against.accuracy_gain,
        "loss gain": against.loss_gain,
    }


@pytest.mark.slow
def test_intervals_of_groups_hold_the_truth_in_95_of_100_tables():
    """Every interval, in 500 simulated tables of groups; those of single rows do not."""
    rng = np.random.default_rng(0)
    labels, models, _ = simulated(200_000, rng)  # values of metrics are the same without groups
    truth = {name: each.value for name, each in found(labels, models, None).items()}
    held = dict.fromkeys(truth, 0)
    as_rows = 0
    for _ in range(TABLES):
        labels, models, of = simulated(GROUPS, rng)
        for name, each in found(labels, models, of).items():
            held[name] += each.low <= truth[name] <= each.high
        rows = mean_share(scored(labels, models[0]).hits)
        as_rows += rows.low <= truth["accuracy"] <= rows.high
    print({name: count / TABLES for name, count in held.items()}, as_rows / TABLES)
    assert all(0.93 <= held[name] / TABLES <= 0.975 for name in held if name != "ece"), held
    assert held["ece"] / TABLES >= 0.93
    assert as_rows / TABLES < 0.9


def tables():
    """Labels and two models' scores of rows that are a group each."""
    labels, models, _ = simulated(60, np.random.default_rng(3))
    return labels, models, np.random.default_rng(4).permutation(len(labels))


def test_rows_that_are_alone_have_the_intervals_of_rows():
    """A group a row gives nearly what no groups give: Student's t instead of the normal."""
    labels, models, alone = tables()
    with_groups, without = found(labels, models, alone), found(labels, models, None)
    for name, each in with_groups.items():
        plain = without[name]
        assert each.value == pytest.approx(plain.value)
        assert each.high - each.low == pytest.approx(plain.high - plain.low, rel=0.25), name


def test_the_error_of_a_mean_is_that_of_groups_means_where_they_are_alike():
    """Of groups of one size it is the standard error of the groups' means."""
    values = np.random.default_rng(0).normal(size=(30, 4))
    error = mean_error(values.ravel(), np.repeat(np.arange(30), 4))
    assert error == pytest.approx(values.mean(axis=1).std(ddof=1) / np.sqrt(30))


def test_rows_written_twice_widen_nothing_once_they_are_a_group():
    """Each row ten times over is known no better; taken as rows it would seem so."""
    labels, models, alone = tables()
    ten = [np.repeat(each, 10) for each in (labels, *models, alone)]
    often, once = found(ten[0], ten[1:3], ten[3]), found(labels, models, alone)
    for name, each in often.items():
        assert each.high - each.low == pytest.approx(once[name].high - once[name].low, rel=0.12)
    assert paired(*(scored(ten[0], m) for m in ten[1:3])).accuracy_gain.high < (
        often["accuracy gain"].high
    )


@pytest.mark.parametrize(
    ("metric", "contributions"),
    [(roc_auc_score, _roc_contributions), (average_precision_score, _precision_contributions)],
)
def test_what_each_row_adds_is_the_metrics_derivative_by_its_weight(metric, contributions):
    """A hair's breadth more weight on one row moves an area by its contribution; ties included."""
    labels, (second, _), _ = tables()
    second, hair = second.round(2), 1e-6
    found = contributions(second, labels == 1)
    assert found.sum() == pytest.approx(0, abs=1e-9)
    for row in range(0, len(labels), 17):
        weights = np.ones(len(labels))
        weights[row] += hair
        moved = metric(labels, second, sample_weight=weights) - metric(labels, second)
        assert moved / hair == pytest.approx(found[row], abs=1e-5)


def test_mcnemars_test_of_single_rows_is_the_test_of_groups_of_one():
    """The exact test, drawn by signs; and ten copies of a row are one."""
    rng = np.random.default_rng(1)
    first, second = rng.random(80) < 0.7, rng.random(80) < 0.5
    alone = np.arange(80)
    assert mcnemar_by_groups(first, second, alone) == pytest.approx(mcnemar_p(first, second))
    ten = [np.repeat(each, 10) for each in (first, second, alone)]
    assert mcnemar_p(*ten) == pytest.approx(mcnemar_p(first, second))
    assert mcnemar_p(first, first, alone) == 1


def test_two_groups_have_one_degree_of_freedom():
    """Student's t of as many groups less one; of one group nothing is known."""
    assert deviate(2) == pytest.approx(12.7062, abs=1e-4)
    assert deviate(1) == np.inf


def test_of_very_many_rows_mcnemars_test_is_normal(monkeypatch):
    """Where the exact distribution takes too long its normal limit gives nearly the same."""
    rng = np.random.default_rng(5)
    groups = np.arange(4000) // 4
    first, second = rng.random((2, 4000)) < np.array([[0.8], [0.79]])
    exact = mcnemar_by_groups(first, second, groups)
    monkeypatch.setattr(grouped, "MOST_DISCORDANT", 0)
    assert 0.001 < exact < 0.999
    assert mcnemar_by_groups(first, second, groups) == pytest.approx(exact, abs=0.01)


def test_many_groups_are_drawn_together():
    """Beyond some thousand groups the bootstrap's interval is as wide, at a bounded cost."""
    rng = np.random.default_rng(2)
    n = 4 * MOST_GROUPS
    hits = rng.random((2, n)) < 0.8
    few = accuracy_difference(hits[:1], hits[1:])
    many = accuracy_difference(hits[:1], hits[1:], np.arange(n))
    assert many.high - many.low == pytest.approx(few.high - few.low, rel=0.1)


def test_one_group_says_nothing_of_others():
    """No interval of one group leaves anything out, and none is a warning."""
    labels, models, alone = tables()
    same = np.zeros_like(alone)
    every = found(labels, models, same)
    for name, each in every.items():
        assert each.low <= 0 or name in ("accuracy", "balanced_accuracy", "recall", "precision")
        assert each.high - each.low >= 0.7, name
    assert (every["ece"].low, every["ece"].high) == (0, 1)
    one = scored(labels, models[0], same)
    assert expected_accuracy(one).high == 1
    assert group_error(np.array([1.0, -1.0]), np.zeros(2, dtype=int)) == np.inf
    hits = one.hits
    assert knowledge_recovered(hits[None], ~hits[None], hits, groups=same) is None
    assert loss_difference(one.losses[None], 2 * one.losses[None], same).low == -np.inf


def test_a_share_of_groups_that_are_all_right_is_one_of_so_many_rows():
    """Where nothing varies a group says as much as one row."""
    hits = np.ones(100, dtype=bool)
    assert mean_share(hits, np.repeat(np.arange(20), 5)).low == wilson(1.0, 20)[0]
