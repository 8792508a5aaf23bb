"""What commands end with: the answer in the last lines, on eighty columns, with nothing broken."""

import re
from dataclasses import replace

import click
import numpy as np
import pytest

from kd_mlflow.evaluation.checks import Check, failed, unasked
from kd_mlflow.evaluation.intervals import Interval
from kd_mlflow.evaluation.metrics import majority_metrics
from kd_mlflow.report.closing import WIDTH, Page, table_text
from kd_mlflow.report.command_results import Cell, SweepResult
from kd_mlflow.report.decision import Decision
from kd_mlflow.report.words import both_gaps_text, warning_text

SQLITE = "sqlite:////data/mlflow.db"


def decision(*checks, **given):
    """A decision of some checks."""
    passed = all(check.passed is not False for check in checks)
    known = {"passed": passed, "promoted": passed, "reason": "too slow by far", "replaced": None}
    given = {"model_name": "churn", "version": "3", "note": "", **known, **given}
    return Decision(checks=checks, **given)


PASSED = Check(name="accuracy", passed=True, reason="near enough " * 12, metrics={})


def test_closing_tables_fit_eighty_columns(finished):
    """No line is longer, but for what is pasted whole; no word and no number is broken."""
    result = finished.result
    for each in (result, result.taught, result.distill, result.decision):
        lines = repr(each).splitlines()
        assert [line for line in lines if len(line) > WIDTH and "://" not in line] == []
    rows = [("name", "0.1234 (95 % interval 0.1000 to 0.1500) " * 5), ("n" * 30, "x" * 200)]
    assert set(table_text(rows).split()) == {word for row in rows for word in " ".join(row).split()}


def test_the_last_lines_are_the_answer(finished):
    """Verdict, worth, every model, each check with its mark, where to look, how to use it."""
    lines = repr(finished.result).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("APPROVED"))
    answer, summary = "\n".join(lines[start:]), finished.result.distill.comparison.summary
    assert len(lines) - start <= 35
    assert lines[start] == "APPROVED  kd-student version 1 is in production"
    for name in ("ensemble", "student", "baseline", "boosted trees", "majority class"):
        (row,) = re.findall(rf"^{name} .*\d \%.*$", answer, re.M)
        assert len(re.findall(r"[\d.,]+", row)) >= 2
    assert f"{100 * summary['distilled_test_accuracy']:.2f} %" in answer
    assert f"{summary['distilled_test_log_loss']:.4f}" in answer
    checks = finished.result.decision.checks
    assert re.findall(r"  (ok|NO|--)  (\w+)", answer) == [
        ({True: "ok", False: "NO", None: "--"}[check.passed], check.name) for check in checks
    ]
    assert lines[-1] == 'use   mlflow.pyfunc.load_model("models:/kd-student@production")'


@pytest.mark.parametrize(
    ("given", "first"),
    [
        ({}, "APPROVED  churn version 3 is in production"),
        ({"replaced": "2"}, "APPROVED  churn version 3 is in production, replacing version 2"),
        (
            {"promoted": False, "replaced": "2"},
            "PASSED, a dry run  churn version 3 would go into production in place of version 2",
        ),
        ({"passed": False, "promoted": False}, "REJECTED  churn version 3 does not go into pro"),
    ],
)
def test_a_decision_begins_with_what_came_of_it(given, first):
    """One line says whether production moved, and in whose place."""
    said = repr(decision(PASSED, **given))
    assert said.startswith(first)
    assert ("because too slow by far" in said) is (given.get("passed") is False)
    assert ("models:/churn@production" in said) is given.get("promoted", True)


def test_each_check_has_its_mark():
    """ok, NO, and -- for what was not asked, whose reason does not name the check again."""
    said = repr(decision(PASSED, failed("speed", "too slow"), unasked("task", "nobody asked")))
    marks = [line.split()[-3:] for line in said.splitlines() if "--  task" in line]
    assert marks == [["task", "nobody", "asked"]]
    assert "NO  speed     too slow" in said
    assert "gate  ok  accuracy  near enough near" in said


def test_a_gap_is_told_as_gains_are():
    """A gap is the ensemble's: its reverse is how students are, and words say which way."""
    gap = Interval(value=0.01, low=0.004, high=0.02)
    assert both_gaps_text(gap, Interval(value=-0.01, low=-0.02, high=0.004)) == (
        "1.00 points worse (95 % interval 0.40 to 2.00); log loss not measurably different "
        "(95 % interval 0.0040 higher to 0.0200 lower)"
    )


def test_a_warning_names_what_shows_it(finished):
    """By which measures a baseline is better, and by no other."""
    comparison = finished.result.distill.comparison
    good = Interval(value=0.0, low=-0.01, high=0.01)
    gains = dict.fromkeys(comparison.gains, good)
    losses = gains | {"baseline": Interval(value=-0.02, low=-0.03, high=-0.01)}
    given = replace(comparison, gains=gains, loss_gains=losses, over_boosting=None)
    assert warning_text(given) == (
        "do not use this student: the baseline, trained without teachers, is measurably better: "
        "log loss 0.0200 lower (95 % interval 0.0100 to 0.0300)"
    )


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        (Page("http://host/#/runs/2"), ["see   http://host/#/runs/2"]),
        (
            Page("http://127.0.0.1:5000/#/runs/2", f"mlflow ui --backend-store-uri {SQLITE}"),
            [
                f"see   mlflow ui --backend-store-uri {SQLITE}",
                "      http://127.0.0.1:5000/#/runs/2",
            ],
        ),
    ],
)
def test_the_closing_lines_lead_to_the_store_in_use(finished, page, shown):
    """They have the run's page, and before it what starts the pages where no server does."""
    distilled = replace(finished.result.distill, page=page)
    for result in (distilled, replace(finished.result, distill=distilled)):
        lines = repr(result).splitlines()
        assert lines[-1 - len(shown) : -1] == shown


def test_the_majority_answers_as_the_training_rows_do():
    """Its log loss is that of the training rows' shares of the classes on test rows."""
    found = majority_metrics(np.array([0, 0, 0, 1]), np.array([0, 0, 1]))
    assert found["majority_test_accuracy"] == pytest.approx(2 / 3)
    expected = -(2 * np.log(0.75) + np.log(0.25)) / 3
    assert found["majority_test_log_loss"] == pytest.approx(expected)


def test_times_and_sizes_are_logged(finished):
    """What the answer says of the majority class, of times and sizes, the run has as metrics."""
    distill = finished.result.distill
    logged = finished.client.get_run(distill.run_id).data.metrics
    assert distill.beside.items() <= logged.items()
    assert {"majority_test_log_loss", "boosting_parameters", "ensemble_latency_ms"} <= logged.keys()


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        (
            {"data": "a b.csv", "val_fraction": 0.2},
            [
                "use   mlflow run . -e distill -P 'data=a b.csv' -P val_fraction=0.2 -P from_",
                "use   kd-mlflow distill --data 'a b.csv' --val-fraction 0.2 --from-sweep 7",
                "use   kd.distill(data='a b.csv', val_fraction=0.2, from_sweep='7')",
            ],
        ),
        ({"data": None}, ["", "", "use   kd.distill(data=table, from_sweep='7')"]),
    ],
)
def test_a_sweep_ends_with_the_line_for_the_way_it_was_called(monkeypatch, given, lines):
    """By ``mlflow run``, on the command line, from Python."""
    level = dict.fromkeys(
        ("ensemble_calibrated_val_loss", "ensemble_val_accuracy", "ensemble_test_accuracy"), 0.5
    )
    result = SweepResult(
        run_id="7",
        taught_by="run 1",
        ensemble=level,
        cells=(),
        chosen=Cell(temperature=1, alpha=1, hidden=(4,), metrics={}),
        sizes=(),
        smallest=None,
        table=given,
    )
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    said = [repr(result)]
    with click.Context(click.Command("sweep")):
        said.insert(0, repr(result))
    monkeypatch.setenv("MLFLOW_RUN_ID", "1")
    said.insert(0, repr(result))
    for text, line in zip(said, lines, strict=True):
        assert text.splitlines()[-1].startswith(line)
