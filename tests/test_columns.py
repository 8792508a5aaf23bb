"""How a table is read is said before anything is trained: one line a column, the worst first."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient, artifacts

import kd_mlflow as kd
from kd_mlflow.cli import cli
from kd_mlflow.table.columns import LINES, ColumnReport, column_report, left_out_text, worst_first
from kd_mlflow.table.kinds import Note, typed
from kd_mlflow.table.loading import load_table

ROWS = 300
RNG = np.random.default_rng(8)
TABLE = pd.DataFrame(
    {
        "paid": [f"€{x:,.2f}" for x in RNG.uniform(900, 9000, ROWS)],
        "shop": [f"s{i}" for i in RNG.integers(0, 200, ROWS)],
        "weight": [f"{x:.1f} lb" if i % 8 else f"no. {i}" for i, x in enumerate(RNG.random(ROWS))],
        "seen": pd.date_range("2021-01-01", periods=ROWS).strftime("%Y-%m-%d"),
        "age": [None if i % 4 == 0 else i % 50 for i in range(ROWS)],
        "row": range(ROWS),
        "same": "x",
        "y": ["no", "yes", "yes"] * (ROWS // 3),
    }
)


@pytest.fixture(scope="module")
def found():
    """The report of each column, by name."""
    return {column.name: column for column in kd.columns(data=TABLE, target="y").columns}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("paid", "numeric; numbers with '€' and commas between thousands; "),
        ("shop", "beyond the kept categories"),
        ("weight", "87% of its texts are numbers with 'lb'"),
        ("weight", "--column weight=number"),
        ("seen", "date; 2021-01-01 to 2021-10-27"),
        ("age", "numeric; gaps 25.0%; 0 to 49"),
        ("row", "left out: unique in nearly every row"),
        ("same", "left out: the same in every row"),
    ],
)
def test_a_line_says_what_a_column_is_and_what_becomes_of_it(found, name, words):
    """Kind, form, gaps, range, categories, and whether it is an input and why not."""
    assert words in found[name].line()


def test_a_column_most_of_whose_texts_are_beyond_the_kept_gets_its_line():
    """More than half beyond the categories kept is said, less is not."""
    told = {}
    for most in (30, 150):
        columns = kd.columns(data=TABLE, target="y", max_categories=most).columns
        told[most] = [line for line in worst_first(columns) if "'shop'" in line]
    assert "of its texts are beyond the 30 categories kept" in told[30][0]
    assert told[150] == []


def test_categories_that_differ_in_case_are_told():
    """They are as many inputs, each of which learns from its own rows alone."""
    texts = pd.Series(["gold", "Gold ", "silver", "SILVER x"] * 9)
    report = column_report("plan", typed(texts), max_categories=30)
    assert "in case or blanks alone: 'gold' and 'Gold '; make one of them" in report.line()
    assert "blanks alone" not in column_report("plan", typed(texts), max_categories=1).line()


def test_the_worst_is_said_first_and_few_lines_are_said():
    """Of forty columns with notes twelve lines are left, the last of which counts the others."""
    columns = [
        ColumnReport(name=f"c{i}", kind="category", notes=(Note(i, f"note {i}"),))
        for i in range(40)
    ]
    lines = worst_first(columns)
    assert len(lines) == LINES
    assert lines[0] == "column 'c39': note 39"
    assert lines[-1] == "29 more: kd-mlflow columns shows all"


def test_training_says_what_deserves_attention(caplog):
    """Loading a table logs these lines, and none of a column that is what it seems."""
    with caplog.at_level(logging.WARNING):
        load_table(TABLE, "y")
    assert "column 'paid': read as numbers with '€'" in caplog.text
    assert "'seen'" not in caplog.text
    assert "'age'" not in caplog.text


def test_the_command_prints_one_line_a_column(tmp_path):
    """``kd-mlflow columns`` needs no store; the options may come several times; long lines wrap."""
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    options = ["--column", "weight=number", "--column", "shop=leave_out"]
    asked = ["columns", "--data", str(tmp_path / "t.csv"), "--target", "y", *options]
    done = CliRunner().invoke(cli, asked)
    lines = [line for line in done.output.splitlines() if line and not line.startswith(" ")]
    out = " ".join(done.output.split())
    assert (done.exit_code, len(lines)) == (0, 1 + TABLE.shape[1])
    assert lines[0].split() == ["t.csv", "300", "rows"]
    assert lines[1].split()[:5] == ["y", "label;", "2", "classes:", "'no'"]
    assert "38 cells do not fit and are gaps: 'no. 0' (1)" in out
    assert "left out: as it was told" in out
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1, 2, None], "no label: target 'y' has 1 missing labels, the first in row 2"),
        ([0.5, 1.5, 1.5], "no label: target 'y' holds numbers that are no classes"),
        (["a", "a", "a"], "no label: target 'y' has one class only"),
        (["no", "No", "yes"], "'No' and 'no' differ in case or blanks alone"),
        (list("abcdefgh"), "'e' (1) and 3 more"),
        (list("aaab"), "; too few rows to train, validate and test on: 'b' (1)"),
    ],
)
def test_the_label_is_told_with_what_is_wrong_with_it(labels, said):
    """Whoever looks at the columns sees what training would refuse."""
    table = pd.DataFrame({"y": labels, "x": range(len(labels))})
    told = kd.columns(data=table, target="y")
    assert said in told.label
    assert said.split()[0] in repr(told)


def test_a_phrase_names_what_was_left_out(found):
    """Report and card say which columns are no inputs, and why."""
    assert left_out_text([*found.values()]) == (
        "left out: 'row' (unique in nearly every row); 'same' (the same in every row)"
    )


@pytest.mark.slow
def test_the_run_keeps_how_the_table_was_read(store, tmp_path):
    """``columns.json`` lies beside ensembles and comparisons; the card names what was left out."""
    small = {"target": "y", "teacher_epochs": 1, "teacher_hidden": (4,), "recipe": "reference"}
    few = {"n_teachers": 1, "n_boosted": 1, "boosting_rounds": 2}
    taught = kd.train_teachers(data=TABLE, **small, **few)
    student = {"n_students": 1, "student_epochs": 1, "student_hidden": (4,), "target": "y"}
    result = kd.distill(data=TABLE, teachers=taught.run_id, recipe="reference", **student)
    for run_id in (taught.run_id, result.run_id):
        uri = f"runs:/{run_id}/columns.json"
        document = json.loads(artifacts.load_text(uri))
        names = [column["name"] for column in document["columns"]]
        assert names == list(TABLE.columns.drop("y"))
        assert document["columns"][0]["form"].startswith("numbers with '€'")
    card = MlflowClient().get_model_version(result.model_name, result.version).description
    assert "left out: 'row'" in card.replace("&#39;", "'")
    twice = TABLE.assign(paid=[f"€{2 * float(x[1:].replace(',', '')):,.2f}" for x in TABLE["paid"]])
    uri = f"models:/{result.model_name}/{result.version}"
    drift = {c.name: c for c in kd.evaluate(data=twice, model=uri).findings.drift}
    assert drift["paid"].psi > 1
    assert kd.evaluate(data=TABLE, model=uri).findings.drift[0].psi < 0.2
