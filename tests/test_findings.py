"""What an evaluation logs and writes: every number by its name, and nothing that is none."""

import json
from dataclasses import asdict

import numpy as np
from sklearn.metrics import balanced_accuracy_score
from test_scores import answers

from kd_mlflow.evaluation import findings as all_findings
from kd_mlflow.evaluation.checks import Check
from kd_mlflow.evaluation.drift import column_drift
from kd_mlflow.evaluation.findings import Findings, Histogram, predicted_shares
from kd_mlflow.evaluation.metric_intervals import metrics_with_intervals
from kd_mlflow.evaluation.scores import (
    NO_LABEL,
    UNKNOWN,
    RowScores,
    class_scores,
    expected_accuracy,
    paired,
)

BEFORE, MOVED = np.array([0, 500, 500]), np.array([50, 100, 850])


def found_of(scores, **parts):
    """The findings of a model on a table without columns, but for some parts."""
    plain = {
        "metrics": metrics_with_intervals(scores) if len(scores.known) else {},
        "classes": class_scores(scores, ["n", "y"]),
        "drift": (),
        "histograms": {},
        "pair": None,
        "limits": (),
    }
    return Findings(
        model="models:/ours/1",
        table="later.csv",
        target="y",
        scores=scores,
        class_shares=(0.5, 0.5),
        estimate=expected_accuracy(scores),
        against=None,
        notes=("read this",),
        **plain | parts,
    )


def column(name, now=MOVED):
    """A column of truth values and how it moved."""
    return column_drift(name, "boolean", BEFORE, now, binned=False)


def test_a_run_logs_every_metric_with_its_bounds():
    """Rows, labels, the estimate, how far off it is, and each metric by name, low and high."""
    probabilities, labels = answers(100)
    labels[:3] = UNKNOWN, NO_LABEL, NO_LABEL
    found = found_of(RowScores.of(probabilities, labels))
    logged = found.logged()
    assert {name for name in logged if "_low" not in name and "_high" not in name} == {
        *("rows", "mean_confidence", "estimated_accuracy", *found.metrics),
        *("labelled_rows", "unknown_labels", "estimate_error"),
    }
    assert (logged["rows"], logged["labelled_rows"], logged["unknown_labels"]) == (100, 98, 1)
    assert logged["mean_confidence"] == found.estimate.value
    assert logged["estimate_error"] == found.estimate.value - logged["accuracy"]
    for name, interval in (*found.metrics.items(), ("estimated_accuracy", found.estimate)):
        own = {"value": logged[name], "low": logged[f"{name}_low"], "high": logged[f"{name}_high"]}
        assert own == asdict(interval)


def test_what_is_no_number_is_not_logged():
    """Without labels there are no metrics, and a single row's loss has no bound above."""
    probabilities, labels = answers(1)
    blind = found_of(RowScores.of(probabilities, np.array([NO_LABEL]))).logged()
    assert blind.keys() == {
        *("rows", "mean_confidence", "estimated_accuracy"),
        *("estimated_accuracy_low", "estimated_accuracy_high"),
    }
    one = found_of(RowScores.of(probabilities, labels)).logged()
    assert {"log_loss", "log_loss_low"} <= one.keys()
    assert "log_loss_high" not in one


def test_a_run_logs_how_far_columns_moved(monkeypatch):
    """The largest index, how many moved beyond chance, and those whose name a metric may have."""
    monkeypatch.setattr(all_findings, "LOGGED_COLUMNS", 2)
    drift = (*map(column, ("b", "c?", "a", "d")), column("still", BEFORE))
    found = found_of(RowScores.of(*answers(9)), drift=drift)
    logged = found.logged()
    assert logged["max_psi"] == drift[0].psi > 0.1
    assert logged["shifted_columns"] == 4
    assert {name: value for name, value in logged.items() if name.startswith("psi.")} == {
        "psi.b": drift[0].psi,
        "psi.a": drift[2].psi,
    }
    assert found.profiled
    assert [each.name for each in found.shifted] == ["b", "c?", "a", "d"]
    unknown = column_drift("x", "boolean", 0 * BEFORE, MOVED, binned=False)
    foreign = found_of(RowScores.of(*answers(9)), drift=(unknown,))
    assert not foreign.profiled
    assert not any("psi" in name or "shifted" in name for name in foreign.logged())


def test_a_run_logs_the_comparison_with_another_model():
    """Agreement, and where there are labels accuracy, p value and both gains with their bounds."""
    probabilities, labels = answers(300)
    other = RowScores.of(np.full_like(probabilities, 0.5), labels)
    pair = paired(scores := RowScores.of(probabilities, labels), other)
    logged = found_of(scores, pair=pair).logged()
    assert logged["agreement"] == pair.agreement < 1
    assert (logged["against_accuracy"], logged["mcnemar_p"]) == (pair.accuracy, pair.mcnemar_p)
    balanced = balanced_accuracy_score(labels, np.zeros(300))  # of equal ones the first class
    assert logged["against_balanced_accuracy"] == pair.balanced_accuracy == balanced
    for name, gain in (("accuracy_gain", pair.accuracy_gain), ("log_loss_gain", pair.loss_gain)):
        assert logged[name] == gain.value
        assert (logged[f"{name}_low"], logged[f"{name}_high"]) == (gain.low, gain.high)
    blind = RowScores.of(probabilities, np.full(300, NO_LABEL))
    logged = found_of(blind, pair=paired(blind, blind)).logged()
    assert logged["agreement"] == 1
    assert not {"against_accuracy", "mcnemar_p", "accuracy_gain", "log_loss_gain"} & logged.keys()


def test_documents_say_all_that_was_found():
    """Both are JSON: metrics, classes, comparison, limits; each column's shares and its counts."""
    kept, broken = (
        Check(name=name, passed=passed, reason=reason)
        for name, passed, reason in (
            ("max_psi", True, "far below"),
            ("min_accuracy", False, "too low"),
        )
    )
    scores = RowScores.of(*answers(50))
    found = found_of(
        scores,
        drift=(column("a"), column_drift("b", "boolean", 0 * BEFORE, MOVED, binned=False)),
        histograms={"a": Histogram(["gaps", "false", "true"], BEFORE, MOVED)},
        pair=paired(scores, scores),
        limits=(kept, broken),
    )
    document, drift = json.loads(json.dumps([found.document(), found.drift_document()]))
    assert document["metrics"]["accuracy"] == asdict(found.metrics["accuracy"])
    assert [each["name"] for each in document["classes"]] == ["n", "y"]
    assert document["pair"]["agreement"] == 1
    assert document["limits"] == [
        {"name": "max_psi", "kept": True, "reason": "far below"},
        {"name": "min_accuracy", "kept": False, "reason": "too low"},
    ]
    assert (document["rows"], document["notes"]) == (50, ["read this"])
    assert found_of(scores).document()["pair"] is None
    first, second = drift
    assert (first["before"], first["now"]) == (BEFORE.tolist(), MOVED.tolist())
    assert (first["bins"], first["shifted"]) == (["gaps", "false", "true"], True)
    assert first["move"] == {"place": 1, "before": 0.5, "now": 0.1}
    assert (second["move"], second["shifted"], "bins" in second) == (None, False, False)
    assert [found_of(scores, limits=some).kept for some in ((), (kept,), (kept, broken))] == [
        *(True, True, False)
    ]


def test_predicted_shares_are_of_all_rows():
    """Each class's share of the answers, labelled or not, also of one that is never given."""
    scores = RowScores.of(np.eye(3)[[0, 0, 1, 0]], np.array([NO_LABEL, 0, 1, 2]))
    assert predicted_shares(scores) == [0.75, 0.25, 0]
