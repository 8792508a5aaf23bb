"""What a caller must send is what the model takes: kinds, ranges, categories, empty values."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_drift import ENCODING, PROFILE, TRAIN

from kd_mlflow.report.review import gaps_text, range_text, sent_table
from kd_mlflow.table.encoding import fit_encoding
from kd_mlflow.table.forms import Form
from kd_mlflow.table.profile import DATES, caller_schema, fit_profile

SCHEMA = caller_schema(ENCODING, PROFILE)
COLUMNS = {sent.column.name: sent for sent in SCHEMA.columns}


def of(frame):
    """The first column of a table of its own."""
    encoding = fit_encoding(frame, target="y", classes=["a", "b"], max_categories=3)
    profile = fit_profile(frame, np.zeros(len(frame), dtype=np.int64), encoding)
    return caller_schema(encoding, profile).columns[0]


def test_ranges_are_those_of_the_training_rows():
    """Least and largest number are exact; a date's are its days; shares of gaps are counted."""
    number, day = COLUMNS["number"], COLUMNS["day"]
    assert number.ends == [TRAIN["number"].min(), TRAIN["number"].max()]
    assert number.gaps == TRAIN["number"].isna().mean()
    assert day.texts == [str(TRAIN["day"].min().date()), str(TRAIN["day"].max().date())]
    assert COLUMNS["constant"].gaps == 0


def test_numbers_in_clothes_are_shown_with_them():
    """Who sends such a column reads how training wrote it; plain ones need no word."""
    number = COLUMNS["number"]
    dressed = replace(number.column, form=Form(unit="EUR", decimal=","))
    said = range_text(replace(number, column=dressed))
    assert said == f"{range_text(number)}; also as numbers with 'EUR' and decimal commas"
    assert "also as" not in range_text(COLUMNS["day"])


def test_the_document_says_what_each_kind_takes():
    """Every column is required and has its kind's own part; the document is JSON."""
    document = json.loads(json.dumps(SCHEMA.to_dict(), allow_nan=False))
    assert document["predicts"] == "y"
    assert document["classes"] == ["no", "yes"]
    by_name = {column["name"]: column for column in document["columns"]}
    assert [column["name"] for column in document["columns"]] == list(TRAIN)
    assert all(column["required"] for column in document["columns"])
    assert by_name["city"]["categories"] == ["Bern", "Oslo", "Rome"]
    assert by_name["flag"]["values"] == [False, True]
    assert by_name["day"]["format"] == DATES
    assert by_name["tied"]["range_in_training"] == [0, TRAIN["tied"].max()]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1.0, 5.0, np.nan], "3, and known to be empty"),
        ([1.0, 5.0, 3.0], "3"),
        ([True, True, False], "true"),
        (["a", None, "b"], "a category of its own"),
        (["a", "a", "b"], "no category"),
        (pd.to_datetime(["2024-01-01", "2024-01-03", "2024-01-09"]), "2024-01-03"),
    ],
)
def test_an_empty_value_is_what_the_model_takes_it_for(values, said):
    """Gaps of numbers, truth values and dates are the median; of categories one, if seen."""
    assert of(pd.DataFrame({"x": values})).filled == said


def test_a_column_of_gaps_has_no_range():
    """Nothing is invented where no training row had a value."""
    column = of(pd.DataFrame({"x": [np.nan] * 4}))
    assert (column.ends, range_text(column), gaps_text(column)) == ([], "no value", "100.00 %")


def test_many_categories_are_counted():
    """A few are named, cut where they are long; the rest is a number."""
    column = of(pd.DataFrame({"x": [f"{'long' * 9}{i}" for i in range(3)] + ["", "", ""]}))
    shown = range_text(column, 2, 10)
    assert shown.endswith("and 1 more")
    assert max(map(len, shown.split(", "))) <= 10


@pytest.mark.slow
def test_the_cards_table_is_bounded():
    """However many columns there are and whatever they are called, the table fits its part."""
    frame = pd.DataFrame({"|<b>`" * 40 + str(i): ["|" * 99, "<i>" * 33, "x"] for i in range(300)})
    encoding = fit_encoding(frame, target="y", classes=["a", "b"], max_categories=9)
    table = sent_table(caller_schema(encoding, fit_profile(frame, np.array([0, 1, 0]), encoding)))
    assert len(table) < 1000
    assert {line.count("|") for line in table.splitlines()} == {5}
    assert "more of 300" in table
