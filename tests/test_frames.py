"""Tables in memory and pandas' indexes in files: columns, or a word that says what is left out."""

import datetime as dt
import logging
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from kd_mlflow.errors import DataError
from kd_mlflow.table.loading import load_table
from kd_mlflow.table.sources import as_frame

ROWS = 60
DAYS = [dt.date(2021, 3, 1) + dt.timedelta(i) for i in range(ROWS)]
SPREAD = [i * i % 37 for i in range(ROWS)]
PRICES = [Decimal(i * 7 % 41).scaleb(-1) for i in range(ROWS)]


def gappy(values):
    """Every ninth value is none."""
    return [None if i % 9 == 0 else value for i, value in enumerate(values)]


COLUMNS = {
    "days": pa.array(DAYS),
    "times": pa.array(gappy(pd.date_range("2021-01-01", periods=ROWS, tz="Asia/Tokyo"))),
    "decimals": pa.array(PRICES, pa.decimal128(9, 1)),
    "decimals with gaps": pa.array(gappy(PRICES), pa.decimal128(9, 1)),
    "whole with gaps": pa.array(gappy(SPREAD)),
    "truth with gaps": pa.array(gappy([i % 3 == 0 for i in range(ROWS)])),
    "texts with gaps": pa.array(gappy([f"t{i % 5}" for i in range(ROWS)])),
    "views": pa.array([f"t{i % 5}" for i in range(ROWS)], pa.string_view()),
    "categories": pa.array([f"t{i % 5}" for i in range(ROWS)]).dictionary_encode(),
}


def arrow_table(**columns):
    """A table of Arrow: given columns, one of numbers, and a label."""
    return pa.table({**columns, "x": SPREAD, "y": ["ab"[i % 2] for i in range(ROWS)]})


class Stream:
    """A table of another library, which hands out nothing but Arrow's columns."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_table_is_the_same_however_it_comes(tmp_path, name):
    """File, Arrow table, another library's and frames of any backend: one digest, one split."""
    table, path = arrow_table(c=COLUMNS[name]), tmp_path / "t.parquet"
    plain = as_frame(table)
    plain.to_parquet(path)
    sources = [table, Stream(table), path, table.to_pandas(types_mapper=pd.ArrowDtype)]
    if name != "views":  # which pandas cannot read with its own nullable types
        sources.append(table.to_pandas().convert_dtypes())
    found = [load_table(source, "y") for source in sources]
    assert len({each.digest for each in found}) == 1
    assert len({each.row_hashes.tobytes() for each in found}) == 1


def test_decimals_train_as_the_floats_that_they_are():
    """Decimals are numbers, in a file as in a frame of objects."""
    frame = pd.DataFrame({"p": PRICES, "x": SPREAD, "y": [0, 1] * (ROWS // 2)})
    table = load_table(frame, "y")
    assert table.features["p"].dtype == np.float64
    assert table.digest == load_table(frame.assign(p=frame["p"].astype(float)), "y").digest


def test_large_whole_numbers_beside_gaps_are_not_rounded():
    """2**60 + 1 has no float."""
    assert as_frame(pa.table({"n": [2**60 + 1, None]}))["n"][0] == 2**60 + 1


@pytest.mark.parametrize(
    "data", [{"x": [1, 2]}, np.eye(2), None, 7, [1, 2], pa.array([1, 2]), pd.Series([1, 2])]
)
def test_what_is_no_table_is_refused(data):
    """One line says what data takes and what was received."""
    with pytest.raises(DataError, match=f"received {type(data).__name__}") as refused:
        load_table(data, "y")
    assert "\n" not in str(refused.value)


def test_named_levels_of_an_index_in_parquet_are_columns(tmp_path, caplog):
    """What lies in the file is in the table; only a level without a name is left out, and said."""
    frame = as_frame(arrow_table(city=["ulm", "bonn"] * (ROWS // 2)))
    frame.set_index(["city", frame.index * 3]).to_parquet(tmp_path / "t.parquet")
    with caplog.at_level(logging.WARNING):
        table = load_table(tmp_path / "t.parquet", "y")
    assert sorted(table.features) == ["city", "x"]
    assert "t.parquet: left out, an index without a name" in caplog.text


def test_a_label_may_be_the_index_of_a_parquet_file(tmp_path):
    """The index's name is a target like any other column's."""
    as_frame(arrow_table(z=SPREAD[::-1])).set_index("y").to_parquet(tmp_path / "t.parquet")
    assert load_table(tmp_path / "t.parquet", "y").classes == ("a", "b")


def test_doubled_labels_of_an_index_do_not_count(tmp_path):
    """Rows are rows, whatever they are called, beside dates that need a second look too."""
    far = [f"{1300 + i}-01-01" for i in range(ROWS // 2)]
    near = [f"2024-01-01T00:00:00.{i:09d}" for i in range(ROWS // 2)]
    frame = as_frame(arrow_table(d=[*far, *near])).set_axis([0, 1] * (ROWS // 2))
    frame.to_parquet(tmp_path / "t.parquet")
    digests = {load_table(each, "y").digest for each in (tmp_path / "t.parquet", frame)}
    assert len(digests) == 1


def test_a_named_index_of_a_frame_is_left_out_and_said(caplog):
    """A DataFrame's index is not looked at; where it has a name, a line says how to change that."""
    with caplog.at_level(logging.WARNING):
        frame = as_frame(pd.DataFrame({"a": [1, 2]}, index=pd.Index([3, 4], name="customer")))
    assert list(frame) == ["a"]
    assert "index is left out: customer; reset_index()" in caplog.text


def test_a_saved_index_is_left_out_and_said(tmp_path, caplog):
    """What ``to_csv`` writes of an index is no input, even where its numbers repeat."""
    frame = as_frame(arrow_table()).assign(z=SPREAD[::-1])
    frame.set_axis([i % 20 for i in range(ROWS)]).to_csv(tmp_path / "t.csv")
    with caplog.at_level(logging.WARNING):
        table = load_table(tmp_path / "t.csv", "y")
    assert sorted(table.features) == ["x", "z"]
    assert "left out, a saved index: Unnamed: 0" in caplog.text


def test_texts_without_a_name_stay(tmp_path):
    """A column without a name that holds texts may say something."""
    frame = as_frame(arrow_table()).set_axis(["ulm", "bonn"] * (ROWS // 2))
    frame.to_csv(tmp_path / "t.csv")
    assert "Unnamed: 0" in load_table(tmp_path / "t.csv", "y").features


def labelled(labels):
    """A frame with such labels in turn."""
    return pd.DataFrame({"x": SPREAD, "y": [labels[i % len(labels)] for i in range(ROWS)]})


def test_labels_that_differ_in_case_or_blanks_are_warned_of(caplog):
    """Two classes that a reader takes for one are named."""
    with caplog.at_level(logging.WARNING):
        load_table(labelled(["Yes", "yes ", "no"]), "y")
    assert "differ in case or blanks alone: 'Yes' and 'yes '" in caplog.text


@pytest.mark.parametrize(
    ("labels", "words"),
    [([b"a", b"b"], "holds bytes"), ([["a"], ["b"]], "holds lists or objects")],
)
def test_labels_of_bytes_and_lists_are_refused(labels, words):
    """What no class can be is refused by name, before anything is trained."""
    with pytest.raises(DataError, match=f"target 'y' {words}"):
        load_table(labelled(labels), "y")


def test_whole_decimals_are_classes():
    """A label column of a database's decimals has whole numbers as classes."""
    assert load_table(labelled([Decimal(3), Decimal("4.0")]), "y").classes == (3, 4)
