"""Example rows: of the table's columns and types, scorable, and none of the table's own rows."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import MainConfig
from kd_mlflow.serving import scoring
from kd_mlflow.table.encoding import fit_encoding
from kd_mlflow.table.example_rows import made_rows

RNG = np.random.default_rng(0)
ROWS = 61
DAYS = pd.Timestamp("2021-03-01") + pd.to_timedelta(RNG.integers(0, 900, ROWS), "D")
COLUMNS = {
    "float": RNG.normal(size=ROWS),
    "narrow": RNG.normal(size=ROWS).astype(np.float16),
    "whole float": RNG.integers(0, 99, ROWS).astype(float),
    "int": RNG.integers(10**6, 10**7, ROWS),
    "byte": RNG.integers(0, 256, ROWS).astype(np.uint8),
    "large int": np.full(ROWS, 2**63 - 1) - np.arange(ROWS),
    "nullable int": pd.array([None if i % 7 == 0 else i for i in range(ROWS)], dtype="Int64"),
    "arrow": pd.array(RNG.normal(size=ROWS), dtype="float64[pyarrow]"),
    "nothing": [None] * ROWS,
    "bool": RNG.random(ROWS) < 0.5,
    "bool with gaps": [None if i % 5 == 0 else i % 2 == 0 for i in range(ROWS)],
    "text": RNG.choice(["a", "b", "c"], ROWS),
    "text with gaps": [None if i % 6 == 0 else "xyz"[i % 3] for i in range(ROWS)],
    "mixed": [1, "one", True] * 20 + [2],
    "category": pd.Categorical(RNG.choice([10, 20, 30], ROWS), categories=[10, 20, 30, 40]),
    "day": DAYS,
    "second": DAYS.as_unit("s"),
    "zone": DAYS.tz_localize("Europe/Rome"),
    "text day": DAYS.strftime("%Y-%m-%d"),
    "text time": DAYS.strftime("%Y-%m-%dT%H:%M:%S"),
    "date": [day.date() for day in DAYS],
    "day with gaps": DAYS.where(RNG.random(ROWS) < 0.8),
}


def made(**columns):
    """A table of these columns with its encoding, and the example rows made of it."""
    frame = pd.DataFrame(columns)
    encoding = fit_encoding(frame, target="y", classes=("a", "b"), max_categories=9)
    return frame, encoding, made_rows(frame, encoding.columns)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_made_column_is_one_of_the_tables_own(name):
    """Each kind of column keeps its type, lies in its range, and is scored as the table is."""
    frame, encoding, rows = made(**{name: COLUMNS[name]})
    assert rows.dtypes.equals(frame.dtypes)
    code = encoding.encode(rows)
    assert code.shape == (2, 1)
    column, known = asdict(encoding.columns[0]), encoding.encode(frame)
    if column["kind"] == "category":
        assert set(code[:, 0]) <= set(known[:, 0]) - {scoring.OTHER}
    elif not np.isnan(known).all():
        assert np.nanmin(known) <= code[0, 0] <= np.nanmax(known)
        types = {type(value) for value in frame[name].dropna()}
        assert {type(value) for value in rows[name].dropna()} <= types


def test_whole_numbers_stay_whole():
    """The median of a column of whole numbers is rounded, whatever the column's type."""
    _, _, rows = made(x=[1.0, 2.0, 3.0, 4.0], y=[0.25, 0.5, 1.0, 3.0])
    assert (rows["x"] % 1 == 0).all()
    assert rows["y"][0] == 0.75


def test_the_second_row_shows_a_gap():
    """Where a table has gaps the second row has one of them, and the first has none."""
    _, _, rows = made(**COLUMNS)
    present = [name for name in COLUMNS if name != "nothing"]
    assert rows.loc[0, present].notna().all()
    assert rows.loc[1, present].isna().sum() == 1


@pytest.mark.parametrize("seed", range(8))
def test_made_rows_are_no_rows_of_the_table(seed):
    """Of a table with few combinations of values, rows are made that it does not hold."""
    rng = np.random.default_rng(seed)
    frame, _, rows = made(
        a=rng.choice(["p", "q", "r"], 99, p=[0.8, 0.1, 0.1]),
        b=rng.integers(0, 4, 99),
        c=rng.random(99) < 0.9,
    )
    assert len(rows) == 2
    assert not set(rows.itertuples(index=False)) & set(frame.itertuples(index=False))


def test_a_table_of_every_combination_has_examples_too():
    """Where the table holds whatever could be made, two of its combinations are shown."""
    frame, encoding, rows = made(a=[True, False] * 8, b=[True, True, False, False] * 4)
    assert len(rows) == 2
    assert encoding.encode(rows).shape == (2, 2)
    assert set(rows.itertuples(index=False)) <= set(frame.itertuples(index=False))


def recognisable(rows=300):
    """A table whose values tell which row they are from.

    No row is in the middle, or at an end, of two columns.
    """
    numbers = np.arange(rows)
    return pd.DataFrame(
        {
            "account": 7_000_001 + 104_729 * numbers,
            "paid": 100_003.25 + 1_299.5 * ((7 * numbers + 50) % rows),
            "town": np.array(["Bern", "Rome", "Oslo"])[numbers % 3],
            "since": pd.Timestamp("1990-01-01") + pd.to_timedelta(numbers, "D"),
            "kind": np.where(numbers % 2, "odd", "even"),
        }
    )


def rows_shown(content, frame):
    """Numbers of the rows whose account and payment, which no other row has, both stand there."""
    return [
        row.Index
        for row in frame.itertuples()
        if str(row.account).encode() in content and str(row.paid).encode() in content
    ]


SMALL = {
    "n_teachers": 2,
    "teacher_epochs": 1,
    "teacher_hidden": (8,),
    "n_students": 1,
    "student_epochs": 1,
    "student_hidden": (4,),
    "student_bins": 0,
    "temperature": 3.0,
    "augment_factor": 1,
}


@pytest.fixture
def ledger(store, tmp_path):
    """A function that runs ``main`` on a recognisable table; its rows and all files it leaves."""
    frame = recognisable()

    def run(**options):
        config = MainConfig(data=frame, target="kind", **SMALL, **options)
        pipeline.run_main(config)
        files = [path for path in (tmp_path / "mlruns").rglob("*") if path.is_file()]
        return frame, {path: path.read_bytes() for path in files}

    return run


@pytest.mark.slow
def test_no_artifact_of_a_run_holds_a_training_row(ledger):
    """Report, input example, encoding, graph: no file of main has all values of any row."""
    frame, contents = ledger()
    assert {"report.html", "input_example.json", "encoding.json", "class_recall.json"} <= {
        path.name for path in contents
    }
    for path, content in contents.items():
        assert rows_shown(content, frame) == [], path


@pytest.mark.slow
def test_real_rows_are_shown_where_they_are_asked_for(ledger):
    """With example_rows real student and report have the first training rows, no other file."""
    frame, contents = ledger(example_rows="real")
    shown = {path: len(rows_shown(content, frame)) for path, content in contents.items()}
    assert sorted((path.name, count) for path, count in shown.items() if count) == [
        ("input_example.json", 2),
        ("report.html", 1),
        ("serving_input_example.json", 2),
    ]


def test_a_category_without_a_value_in_training_is_shown_as_a_gap():
    """A column of text that only test rows fill has no category to show."""
    frame = pd.DataFrame({"a": np.arange(9.0), "town": [None] * 9}).astype({"town": object})
    encoding = fit_encoding(
        frame,
        target="y",
        classes=(0, 1),
        max_categories=4,
        kinds={"a": "numeric", "town": "category"},
    )
    assert made_rows(frame, encoding.columns)["town"].isna().all()
