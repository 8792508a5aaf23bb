"""What a column holds is decided of all its cells, and never without a word where they disagree."""

import uuid

import numpy as np
import pandas as pd
import pytest

from kd_mlflow.table.kinds import typed


def column(cells):
    """A column named a, of any cells."""
    return pd.Series(cells, name="a", dtype=object)


def test_a_few_texts_among_numbers_are_gaps_and_said_so():
    """One "?" in a column of numbers is a gap; a note names it and how often it stands there."""
    found = typed(column([*map(str, range(99)), "?"]))
    assert (found.kind, found.gap_texts) == ("numeric", ("?",))
    assert found.values.dtype == np.float64
    assert found.values.isna().tolist() == [False] * 99 + [True]
    assert found.notes[0].text == "taken as gaps, no number: '?' (1)"


def test_numbers_beside_many_texts_stay_a_category_and_said_so():
    """A tenth of texts among numbers makes categories, and a note says why."""
    found = typed(column([*map(str, range(90)), *"abcdefghij"]))
    assert found.kind == "category"
    assert "taken as categories: 10 of its cells are no numbers, such as" in found.notes[0].text


@pytest.mark.parametrize(
    "cells",
    [
        [f"{i:03d}" for i in range(99)] + ["?"],
        [f"{i}" for i in range(1000, 1100)],
        ["a", "b"] * 50,
    ],
    ids=["codes with zeros ahead", "numbers kept as text", "words"],
)
def test_texts_that_mean_codes_stay_categories(cells):
    """007 is no 7, and a column of texts alone was made so by somebody."""
    found = typed(column(cells))
    assert (found.kind, found.gap_texts) == ("category", ())
    assert found.values.tolist() == cells


def test_a_few_texts_among_dates_are_gaps_and_said_so():
    """One "unknown" in a column of dates is a gap wherever it stands."""
    days = pd.date_range("2024-01-01", periods=99).strftime("%Y-%m-%d")
    found = typed(column([*days, "unknown"]))
    assert (found.kind, found.gap_texts) == ("date", ("unknown",))
    assert found.values.isna().sum() == 1
    assert "no date: 'unknown' (1)" in found.notes[0].text


@pytest.mark.parametrize(
    ("cells", "texts"),
    [
        ([3, "a", 3.0, True, None] * 9, {"3", "a", "True"}),
        ([uuid.UUID(int=1), uuid.UUID(int=2)] * 9, {str(uuid.UUID(int=1)), str(uuid.UUID(int=2))}),
    ],
)
def test_categories_of_any_objects_are_texts(cells, texts):
    """Mixed cells and UUIDs are the texts that they are written as; gaps stay gaps."""
    found = typed(column(cells))
    assert found.kind == "category"
    assert set(found.values.dropna()) == texts
    assert found.values.isna().sum() == sum(cell is None for cell in cells)
