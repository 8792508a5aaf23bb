"""New rows: between two rows of the table, in the table's own types, gaps respected."""

import numpy as np
import pandas as pd
import pytest

from kd_mlflow.table import new_rows
from kd_mlflow.table.kinds import kind_of
from kd_mlflow.table.new_rows import Pairs, any_pairs, near_pairs, rows_between

N = 60


@pytest.fixture
def features():
    """A table with one column of each kind and gaps."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "share": rng.normal(size=N),
            "count": rng.integers(0, 100, N),
            "small": rng.integers(0, 200, N).astype("uint8"),
            "gaps": pd.array(rng.integers(0, 9, N), dtype="Int64"),
            "holes": rng.normal(size=N).astype("float32"),
            "flag": rng.random(N) < 0.5,
            "town": rng.choice(["Rome", "Oslo", "Kyiv"], N),
            "day": pd.date_range("2020-01-01", periods=N).strftime("%Y-%m-%d"),
        }
    )
    frame.loc[::7, ["gaps", "holes", "town"]] = None
    return frame


def made(features, pairs, seed=1):
    """All new rows in one table."""
    return pd.concat(chunks(features, pairs, seed))


def chunks(features, pairs, seed):
    """New rows as they come."""
    kinds = {name: kind_of(features[name]) for name in features}
    return rows_between(features, pairs, np.random.default_rng(seed), kinds)


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_a_whole_share_is_one_of_the_rows(features, share):
    """A row with all of the share of one side is that row, in values, gaps and types."""
    first, second = np.arange(N), np.arange(N)[::-1]
    pairs = Pairs(first=first, second=second, share=np.full(N, share))
    expected = features if share else features.iloc[second]
    present = features.notna().to_numpy() & features.iloc[second].notna().to_numpy()
    rows = made(features, pairs)
    pd.testing.assert_frame_equal(
        rows.where(present), expected.reset_index(drop=True).where(present)
    )
    assert list(rows.dtypes) == list(features.dtypes)


def test_numbers_lie_between_their_rows_and_whole_ones_stay_whole(features):
    """A number is the weighted mean of both, rounded where the column holds whole numbers."""
    pairs = any_pairs(N, 500, np.random.default_rng(2))
    rows = made(features, pairs)
    for name in ("share", "count", "small"):
        values = features[name].to_numpy(float)
        exact = pairs.share * values[pairs.first] + (1 - pairs.share) * values[pairs.second]
        expected = exact if name == "share" else exact.round()
        np.testing.assert_allclose(rows[name].to_numpy(float), expected)


def test_other_values_come_from_one_of_the_rows(features):
    """Categories, booleans and dates are never mixed, and both sides occur."""
    pairs = any_pairs(N, 500, np.random.default_rng(3))
    rows = made(features, pairs)
    for name in ("flag", "town", "day"):
        values = features[name].astype(object).where(features[name].notna(), None).to_numpy()
        got = rows[name].astype(object).where(rows[name].notna(), None).to_numpy()
        from_first, from_second = got == values[pairs.first], got == values[pairs.second]
        assert (from_first | from_second).all()
        assert 0 < (from_first & ~from_second).mean() < 1


def test_a_gap_on_one_side_gives_the_gap_or_the_value(features):
    """Where one side has a gap the new row has the gap or the other side's value, both at times."""
    pairs = any_pairs(N, 2000, np.random.default_rng(4))
    rows = made(features, pairs)
    values = features["holes"].to_numpy(float)
    a, b = values[pairs.first], values[pairs.second]
    got = rows["holes"].to_numpy(float)
    one = np.isnan(a) != np.isnan(b)
    present = np.where(np.isnan(a), b, a)
    assert 0.3 < np.isnan(got[one]).mean() < 0.7
    kept = one & ~np.isnan(got)
    np.testing.assert_array_equal(got[kept], present[kept])
    assert np.isnan(got[np.isnan(a) & np.isnan(b)]).all()


def test_every_row_is_used_equally_often():
    """Twenty new rows a row means that each is the first side twenty times."""
    pairs = any_pairs(N, 20 * N, np.random.default_rng(5))
    assert set(np.bincount(pairs.first, minlength=N)) == {20}


def test_near_pairs_are_near(monkeypatch):
    """The second row is one of the nearest: among 3 of them here, itself included."""
    monkeypatch.setattr(new_rows, "NEIGHBOURS", 3)
    inputs = np.arange(N, dtype=np.float32)[:, None]
    pairs = near_pairs(inputs, 10 * N, np.random.default_rng(6))
    assert np.abs(pairs.first - pairs.second).max() <= 3
    assert (pairs.first != pairs.second).any()


def test_near_pairs_of_many_rows_use_a_sample(monkeypatch):
    """With more rows than are searched, partners come from the sample and firsts from all."""
    monkeypatch.setattr(new_rows, "REFERENCE_ROWS", 10)
    inputs = np.random.default_rng(7).normal(size=(N, 3)).astype(np.float32)
    pairs = near_pairs(inputs, 5 * N, np.random.default_rng(8))
    assert len(set(pairs.second)) <= 10
    assert len(set(pairs.first)) == N


def test_chunks_do_not_change_how_many_rows_there_are(features, monkeypatch):
    """Rows come in chunks of bounded size that together are all rows."""
    monkeypatch.setattr(new_rows, "CHUNK_ROWS", 64)
    pairs = any_pairs(N, 150, np.random.default_rng(9))
    sizes = [len(rows) for rows in chunks(features, pairs, seed=0)]
    assert sizes == [64, 64, 22]


def test_numbers_in_an_object_column_are_interpolated():
    """Decimals and other numbers kept as objects become plain floats."""
    frame = pd.DataFrame({"x": pd.Series([1, 2.5], dtype=object)})
    pairs = Pairs(first=np.array([0]), second=np.array([1]), share=np.array([0.5]))
    assert made(frame, pairs)["x"].tolist() == [1.75]


@pytest.mark.parametrize("dtype", ["int64", "Int64"])
def test_no_new_row_leaves_the_range_of_its_whole_numbers(dtype):
    """Between a sentinel of 64 bits and a small number lie one of them, never its negative."""
    largest = 2**63 - 1
    frame = pd.DataFrame({"x": pd.array([largest, largest, 7], dtype=dtype)})
    pairs = Pairs(
        first=np.array([0, 0, 2]), second=np.array([1, 2, 2]), share=np.array([0.5, 0.9, 0.3])
    )
    values = made(frame, pairs)["x"].tolist()
    assert values[0] == largest
    assert values[1] in (largest, 7)
    assert values[2] == 7
