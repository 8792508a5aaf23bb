"""Counts of training rows by bin, and how far later rows have moved from them."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from kd_mlflow.errors import DataError
from kd_mlflow.evaluation import drift as drifts
from kd_mlflow.evaluation.drift import (
    chance_bound,
    column_drift,
    most_moved_first,
    population_stability_index,
)
from kd_mlflow.table.encoding import fit_encoding
from kd_mlflow.table.profile import Profile, bin_names, column_shifts, fit_profile

ROWS = 2000


def table(seed, rows=ROWS):
    """A column of each kind, with gaps, ties and few categories."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "number": rng.normal(100, 15, rows),
            "tied": rng.poisson(1.0, rows),
            "constant": 7,
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 365, rows), "D"),
            "flag": rng.random(rows) < 0.3,
            "city": rng.choice(["Bern", "Oslo", "Rome"], rows, p=[0.6, 0.3, 0.1]),
        }
    )
    frame.loc[rng.random(rows) < 0.1, "number"] = np.nan
    return frame


TRAIN = table(0)
ENCODING = fit_encoding(TRAIN, target="y", classes=["no", "yes"], max_categories=64)
PROFILE = fit_profile(TRAIN, np.arange(ROWS) % 2, ENCODING)
COLUMNS = {
    column.name: (column, trained)
    for column, trained in zip(ENCODING.columns, PROFILE.columns, strict=True)
}


def drift_of(name, series):
    """How one column has moved from the training rows."""
    column, trained = COLUMNS[name]
    alone, profile = replace(ENCODING, columns=(column,)), replace(PROFILE, columns=(trained,))
    (drift,), _ = column_shifts(series.to_frame(name), alone, profile, None)
    return drift


@pytest.mark.parametrize("name", COLUMNS)
def test_each_row_is_in_one_bin(name):
    """A column's counts sum to the rows, of training and of later rows; each bin has a name."""
    column, trained = COLUMNS[name]
    _, histograms = column_shifts(table(1), ENCODING, PROFILE, None)
    names, before, later = histograms[name]
    assert sum(trained.counts) == later.sum() == ROWS
    assert tuple(before) == trained.counts
    assert len(later) == len(trained.counts) == len(names)
    assert names == bin_names(column, trained.edges)


@pytest.mark.parametrize("name", COLUMNS)
def test_no_training_row_is_out_of_range_or_unseen(name):
    """The training rows themselves have moved nowhere."""
    drift = drift_of(name, TRAIN[name])
    assert drift.psi == 0
    assert not drift.outside
    assert not drift.unseen
    assert drift.gaps == drift.gaps_before == TRAIN[name].isna().mean()


def test_a_profile_survives_json():
    """What is written beside a model is read back equal."""
    assert Profile.from_dict(json.loads(json.dumps(PROFILE.to_dict()))) == PROFILE
    assert PROFILE.classes == (ROWS // 2, ROWS // 2)


@pytest.mark.parametrize(
    ("name", "change", "measure", "share"),
    [
        ("number", lambda s: s.where(s.index % 4 > 0), "gaps", 0.325),
        ("number", lambda s: s.mask(s.index % 5 == 0, 1e6), "outside", 0.2),
        ("tied", lambda s: s.mask(s.index % 5 == 0, -1), "outside", 0.2),
        ("constant", lambda s: s.mask(s.index % 2 == 0, 6), "outside", 0.5),
        ("day", lambda s: s + pd.Timedelta(days=1000), "outside", 1.0),
        ("city", lambda s: s.mask(s.index % 4 == 0, "Paris"), "unseen", 0.25),
    ],
)
def test_each_shift_is_measured_by_its_share(name, change, measure, share):
    """Gaps, values out of the training range and unseen categories are shares of the rows."""
    drift = drift_of(name, change(TRAIN[name]))
    assert getattr(drift, measure) == pytest.approx(share, abs=0.01)
    assert drift.shifted


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("number", lambda s: s * 1.1),
        ("tied", lambda s: s.clip(1)),
        ("flag", lambda s: ~s),
        ("city", lambda s: s.replace("Bern", "Oslo")),
    ],
)
def test_a_shift_within_the_range_is_seen(name, change):
    """Values that all occurred in training shift a column by how often they occur."""
    assert drift_of(name, change(TRAIN[name])).shifted
    assert not drift_of(name, TRAIN[name]).shifted


@pytest.mark.parametrize("rows", [30, 100, 1000])
def test_chance_alone_shifts_no_column(rows):
    """Of 300 tables of the training rows' distribution hardly one has an index above the bound."""
    above = [
        drift.psi > drift.chance
        for seed in range(50)
        for name, series in table(seed + 100, rows).items()
        for drift in [drift_of(name, series)]
    ]
    assert np.mean(above) <= 0.01


@pytest.mark.parametrize("bins", [2, 3, 10])
def test_the_bound_is_exceeded_as_often_as_it_says(monkeypatch, bins):
    """Of 2,000 pairs of tables of one distribution 5 % are above a bound of 95 %."""
    monkeypatch.setattr(drifts, "CHANCE", 0.95)
    rng = np.random.default_rng(0)
    shares = np.full(bins, 1 / bins)
    pairs = zip(
        rng.multinomial(1000, shares, 2000), rng.multinomial(500, shares, 2000), strict=True
    )
    above = [
        population_stability_index(before, now) > chance_bound(before, now) for before, now in pairs
    ]
    assert np.mean(above) == pytest.approx(0.05, abs=0.012)


def test_the_bound_is_that_of_999_tables_in_a_thousand():
    """Of two bins it is a normal deviate's, squared, that one in a thousand exceeds."""
    assert chance_bound(np.array([50, 50]), np.array([20, 80])) == pytest.approx(
        norm.isf(0.0005) ** 2 * (1 / 100 + 1 / 100)
    )


@pytest.mark.parametrize(("moved", "shifted"), [(155, False), (156, True)])
def test_a_column_has_moved_from_an_index_of_a_tenth(moved, shifted):
    """By convention 0.1 is a moderate shift, whatever chance allows for so many rows."""
    before, now = np.array([0, 500, 500]) * 100, np.array([0, 500 + moved, 500 - moved]) * 100
    drift = column_drift("x", "boolean", before, now, binned=False)
    assert drift.chance < 0.001
    assert drift.shifted is shifted
    assert drift.above(0.099)
    assert not drift.above(0.101)


def test_groups_widen_what_chance_explains():
    """Where shares vary three times as much, the bound is three times as far; if there is one."""
    drift = column_drift("x", "boolean", np.array([0, 50, 50]), np.array([0, 20, 30]), binned=False)
    assert drift.inflated(3).chance == pytest.approx(3 * drift.chance)
    assert replace(drift, chance=None).inflated(3).chance is None


def test_few_rows_have_a_large_index_and_no_shift():
    """Five rows reach 0.1 by chance, which is no shift; 2,000 such rows are one."""
    few = drift_of("number", TRAIN["number"].head(5))
    assert few.psi > 0.1
    assert not few.shifted
    assert drift_of("number", pd.concat([TRAIN["number"].head(5)] * 400)).shifted


def test_the_index_is_symmetric_and_grows_with_the_shift():
    """Equal shares give 0, exchanging tables of equal size changes nothing, more shift is more."""
    same, near, far = (np.array(counts) for counts in ([50, 50], [60, 40], [90, 10]))
    assert population_stability_index(same, same) == 0
    moved = population_stability_index(same, near)
    assert population_stability_index(near, same) == pytest.approx(moved)
    assert moved < population_stability_index(same, far)
    assert chance_bound(same, 100 * same) < chance_bound(same, same)


def test_the_most_shifted_column_comes_first():
    """Columns are sorted by their index, those that shifted before those that chance moved."""
    shifted = drift_of("number", TRAIN["number"] * 2)
    small = drift_of("city", TRAIN["city"].head(3))
    unknown = column_drift("x", "category", np.zeros(3), np.array([0, 2, 2]), binned=False)
    assert most_moved_first([unknown, small, shifted])[0] is shifted
    assert unknown.psi is None
    assert (unknown.unseen, unknown.unseen_before) == (0.5, None)


def test_what_a_column_cannot_hold_is_said():
    """Text among numbers is a DataError that names the column."""
    with pytest.raises(DataError, match="'number' holds numbers"):
        drift_of("number", pd.Series(["tall"], name="number"))
