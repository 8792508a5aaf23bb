"""Which side a row is on: nothing that comes later moves it, and every class is on each side."""

import datetime
import logging
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import DistillConfig, TeachersConfig
from kd_mlflow.config.groups import DataOptions
from kd_mlflow.errors import DataError, RunError
from kd_mlflow.table.dataset import read_dataset, split_rows
from kd_mlflow.table.hashing import row_hashes, split_hashes, table_digest
from kd_mlflow.table.loading import load_table

QUICK = {
    "n_teachers": 2,
    "teacher_epochs": 1,
    "teacher_hidden": (4,),
    "teacher_families": "mlp",
}
STUDENTS = {
    "n_students": 1,
    "student_epochs": 1,
    "student_hidden": (4,),
    "student_bins": 0,
    "temperature": 3.0,
    "augment": "none",
}


def customers(n, seed=0):
    """A table with a column of each kind, a constant, an identifier and a key of each row."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "number": rng.normal(size=n).round(3),
            "whole": rng.integers(0, 50, n),
            "flag": rng.random(n) < 0.5,
            "city": rng.choice(["Ulm", "Bern", "Graz"], n),
            "since": pd.date_range("2020-01-01", periods=n).strftime("%Y-%m-%d"),
            "gaps": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n).round(2)),
            "same": "eu",
            "customer_id": [f"c{seed}-{i}" for i in range(n)],
            "y": rng.integers(0, 2, n),
        }
    )


def sides(data):
    """The side of each row, in the order of the table."""
    table = load_table(data, "y")
    split = split_rows(table, 0.2)
    found = np.empty(len(table.labels), dtype=object)
    for name in ("train", "val", "test"):
        found[getattr(split, name)] = name
    return found


def arrivals():
    """Later rows, each of which changes what a column is taken for."""
    more = customers(60, seed=1)
    return {
        "a constant that begins to vary": more.assign(same="us"),
        "a text among whole numbers": more.astype({"whole": object}).assign(whole="n/k"),
        "a text among numbers": more.astype({"number": object}).assign(number="?"),
        "a text among truth values": more.astype({"flag": object}).assign(flag="maybe"),
        "a text among dates": more.assign(since="unknown"),
        "a gap in each column": more.assign(whole=np.nan, flag=None, since=None, city=None),
        "an identifier that repeats": more.assign(customer_id="c0-1"),
        "fractions among whole numbers": more.assign(whole=0.5),
        "far numbers": more.assign(number=1e12, whole=2**53 + 1),
        "a column of gaps": more.assign(gaps=np.nan),
    }


@pytest.mark.slow_cases
@pytest.mark.parametrize("kind", arrivals())
@pytest.mark.parametrize("form", ["frame", "csv", "parquet"])
def test_later_rows_of_any_kind_move_no_earlier_row(kind, form, tmp_path):
    """Whatever later rows make of a column, old rows stay on their side, in each kind of file."""
    old = customers(300)
    new = pd.concat([old, arrivals()[kind]], ignore_index=True)

    def stored(frame, name):
        if form == "frame":
            return frame
        path = tmp_path / f"{name}.{form}"
        if form == "csv":
            frame.to_csv(path, index=False)
        else:
            mixed = [c for c in frame if frame[c].map(type).nunique() > 1]
            frame.astype({c: "str" for c in mixed if frame[c].dtype == object}).to_parquet(path)
        return str(path)

    assert (sides(stored(new, "new"))[:300] == sides(stored(old, "old"))).all()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_splits_as_the_frame_that_it_was_made_of(suffix, tmp_path):
    """CSV, Parquet and DataFrame of the same rows have the same sides."""
    frame = customers(300).assign(since=lambda f: pd.to_datetime(f["since"]))
    path = tmp_path / f"t.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    assert (sides(str(path)) == sides(frame)).all()


def test_order_of_rows_and_columns_does_not_count():
    """A shuffled table has each row on the side it was on."""
    frame = customers(300)
    order = np.random.default_rng(3).permutation(300)
    shuffled = frame.iloc[order][frame.columns[::-1]]
    assert (sides(shuffled) == sides(frame)[order]).all()


def test_equal_rows_stay_together_whatever_names_them():
    """Rows equal in all but an identifier are on one side, even with other labels."""
    frame = customers(200)
    others = {"customer_id": [f"x{i}" for i in range(200)], "y": 1 - frame["y"]}
    found = sides(pd.concat([frame, frame.assign(**others)]))
    assert (found[:200] == found[200:]).all()


CELLS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.text(max_size=8),
    st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 1, 1)),
    st.none(),
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(CELLS, min_size=1, max_size=30), st.lists(CELLS, max_size=30))
def test_a_cell_is_hashed_for_what_it_says_alone(first, later):
    """A cell's hash is the same in a column of any cells and as text."""
    alone = np.concatenate([row_hashes(pd.DataFrame({"a": [cell]})) for cell in first])
    together = row_hashes(pd.DataFrame({"a": pd.Series(first + later, dtype=object)}))
    np.testing.assert_array_equal(together[: len(first)], alone)


def test_the_hash_is_fixed():
    """Golden values: neither a release of pandas nor a change here may move splits unseen."""
    frame = pd.DataFrame(
        {
            "number": [0.1, -2.5, 3.0, np.nan],
            "text": ["Köln", "3", "None", "true"],
            "date": pd.to_datetime(["2024-03-31", "1969-12-31", None, "9999-12-31"]),
        }
    )
    golden = [4047348926876511615, 3086681681117998879, 3727270661942049964, 14859347440187307820]
    assert split_hashes(frame).tolist() == golden


@pytest.mark.parametrize("hashed", [row_hashes, split_hashes])
def test_a_value_counts_by_the_column_that_it_stands_in(hashed):
    """Two values in each other's columns are another row; so is a column of another name."""
    frame = pd.DataFrame({"a": [1, "x", None, 0.5], "b": ["y", 2, 3, None]}, dtype=object)
    for other in ({"a": "b", "b": "a"}, {"a": "c"}, {"a": "A"}):
        assert (hashed(frame.rename(columns=other)) != hashed(frame)).all()


ZONED = pd.to_datetime(["2024-03-31 02:00", None]).tz_localize("UTC").tz_convert("Asia/Tokyo")


@pytest.mark.parametrize(
    ("typed", "cells"),
    [
        (np.array([0, 5, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1], dtype=np.uint64), None),
        (np.array([-(2**63), -1, 2**62, 2**63 - 1]), None),
        (np.array([0.5, -3.0, 1e15, 2.0**62, 2.0**63, 1e300, np.nan]), None),
        (np.array([3.0, 2.0**62, 2.0**63]), [3, 2**62, 2**63]),
        (np.array([2**63, 2**64 - 2048], dtype=np.uint64), [2.0**63, "18446744073709549568"]),
        (pd.array([7, None, 2**53 + 1], dtype="Int64"), ["7", None, str(2**53 + 1)]),
        (pd.array([True, None, False], dtype="boolean"), ["true", None, 0]),
        (np.array([True, False]), [np.True_, "FALSE"]),
        (pd.to_datetime(["2024-03-31 02:00", None]), ["2024-03-31T02:00", None]),
        (ZONED, ["2024-03-31 02:00", None]),
        (ZONED, None),
    ],
)
def test_the_type_of_a_column_does_not_count(typed, cells):
    """Cells are hashed alike in a column of their type, as objects, and written otherwise."""
    series = pd.Series(typed)
    mixed = pd.Series(series.tolist() if cells is None else cells, dtype=object)
    found, same = (row_hashes(pd.DataFrame({"a": each})) for each in (series, mixed))
    assert len(set(found)) == len(found)
    np.testing.assert_array_equal(found, same)


def test_a_table_of_identifiers_alone_is_split_by_them():
    """Where every column names rows, rows differ by what names them."""
    frame = pd.DataFrame({"id": [1, 2, 3], "customer_id": ["a", "a", "b"]})
    assert len(set(split_hashes(frame))) == 3
    assert len(set(split_hashes(frame.assign(value=5)))) == 1


def test_the_digest_is_of_all_that_a_table_is():
    """Values, kinds, labels, classes and target: another one of them is another table."""
    frame, labels = pd.DataFrame({"a": [1, 2]}), np.array([0, 1])
    given = {"readings": {"a": "number"}, "labels": labels, "classes": ("n", "y"), "target": "t"}
    others = {"readings": {"a": "text"}, "labels": 1 - labels, "classes": ("y", "n"), "target": "u"}
    found = [table_digest(frame, **given), table_digest(frame + 1, **given)]
    found += [table_digest(frame, **given | {name: other}) for name, other in others.items()]
    assert len(set(found)) == 6
    assert table_digest(frame.copy(), **given) == found[0]


@pytest.mark.parametrize(
    ("first", "second"),
    [(None, "none"), (2**53, 2**53 + 1), (0.1, math.nextafter(0.1, 1)), ("a", "A"), ("3", "3.5")],
)
def test_the_digest_tells_near_values_apart(first, second):
    """A gap is not the text none, and whole numbers beyond 2**53 are not their neighbours."""
    digests = {
        load_table(pd.DataFrame({"a": [value, "b", "c"], "y": [0, 1, 0]}), "y").digest
        for value in (first, second)
    }
    assert len(digests) == 2


def test_every_class_is_on_every_side():
    """Classes of 20 and of 3 rows have rows to train, validate and test on."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.repeat(np.arange(300), 20), np.repeat(np.arange(300, 330), 3)])
    frame = pd.DataFrame({"a": rng.normal(size=len(labels)), "b": rng.normal(size=len(labels))})
    dataset = read_dataset(DataOptions(data=frame.assign(y=labels), target="y"))
    for counts in dataset.split.balance(dataset.table).values():
        assert min(counts.values()) >= 1
    assert len(dataset.split.test) / len(labels) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("fraction", [0.99, 0.99999])
def test_a_built_in_class_without_a_row_to_train_on_is_refused(fraction):
    """A validation side that takes all rows of a class is one line, not a training without it."""
    with pytest.raises(DataError, match=r"no row to train on at val_fraction .*lower val_frac"):
        read_dataset(DataOptions(data="wine", val_fraction=fraction))


def test_a_frequent_class_is_split_by_hash_alone():
    """Rows of classes that have enough of their own do not move for the sake of rare ones."""
    frame = customers(400)
    rare = customers(3, seed=5).assign(y=7)
    assert (sides(pd.concat([frame, rare]))[:400] == sides(frame)).all()


def test_rare_classes_are_named_together_and_can_be_left_out(caplog):
    """All classes with too few rows stand in one line; drop_rare_classes trains without them."""
    frame = pd.concat([customers(200), customers(3, seed=4).assign(y=[7, 8, 8])])
    options = DataOptions(data=frame, target="y")
    with pytest.raises(DataError, match=r"7 \(1\), 8 \(2\); .*drop_rare_classes=true"):
        read_dataset(options)
    with caplog.at_level(logging.WARNING):
        dataset = read_dataset(DataOptions(data=frame, target="y", drop_rare_classes=True))
    assert dataset.table.classes == (0, 1)
    assert len(dataset.table.labels) == 200
    assert "7 (1), 8 (2)" in caplog.text


def test_equal_rows_that_no_side_can_share_are_refused():
    """A class whose three rows are one row repeated cannot be on three sides."""
    frame = pd.concat([customers(200), *[customers(1, seed=4).assign(y=7)] * 3])
    with pytest.raises(DataError, match=r"fewer than 3 different rows.*7 \(1\)"):
        read_dataset(DataOptions(data=frame, target="y"))


@pytest.mark.slow
def test_teachers_of_another_split_teach_nothing_here(store):
    """An ensemble trained on a built-in table's split is not taken for a frame of the same rows."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer(as_frame=True)
    frame = bunch.data.assign(target=bunch.target)
    run_id = pipeline.run_teachers(TeachersConfig(data="breast_cancer", **QUICK)).run_id
    for teachers, words in (("latest", "no finished ensemble"), (run_id, "another split|other")):
        config = DistillConfig(data=frame, target="target", teachers=teachers, **STUDENTS)
        with pytest.raises(RunError, match=words):
            pipeline.run_distill(config)


@pytest.mark.slow
def test_teachers_that_trained_on_validation_rows_are_not_taken(store):
    """Teachers of val_fraction 0.1 do not serve a distillation of 0.5, whose rows they saw."""
    run_id = pipeline.run_teachers(TeachersConfig(data="wine", **QUICK)).run_id
    config = DistillConfig(data="wine", val_fraction=0.5, teachers=run_id, **STUDENTS)
    with pytest.raises(RunError, match="another split of this data"):
        pipeline.run_distill(config)


def test_the_digest_tells_what_the_split_does_not():
    """A text that says a gap and a gap are one to the split, two to whoever asks what was read."""
    said, left = (
        pd.DataFrame({"a": pd.Series([cell, "x"], dtype=object)}) for cell in ("NA", None)
    )
    assert list(row_hashes(said)) == list(row_hashes(left))
    given = {"readings": {}, "labels": np.arange(2), "classes": (0, 1), "target": "y"}
    assert table_digest(said, **given) != table_digest(left, **given)
