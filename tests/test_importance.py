"""Columns that count: what shuffling one costs, with the interval that its rows allow."""

import numpy as np
import pandas as pd
import pytest
import torch

from kd_mlflow.config.entry_points import DistillConfig
from kd_mlflow.distillation import review
from kd_mlflow.distillation.boosting import boosting_alone
from kd_mlflow.distillation.review import importances, measured_columns
from kd_mlflow.population.history import ignore_epoch
from kd_mlflow.population.workers import HERE
from kd_mlflow.table.dataset import read_dataset
from kd_mlflow.table.encoding import fit_encoding

ROWS = 600
RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "noise": RNG.normal(size=ROWS),
        "signal": RNG.normal(size=ROWS),
        "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(RNG.integers(0, 99, ROWS), "D"),
        "kind": pd.Categorical(RNG.choice(["a", "b"], ROWS)),
        "flag": RNG.random(ROWS) < 0.5,
    },
    index=RNG.permutation(ROWS) * 3,
)
LABELS = (FRAME["signal"].to_numpy() + 0.3 * RNG.normal(size=ROWS) > 0).astype(np.int64)


def by_signal(rows):
    """A model that reads one column."""
    odds = torch.tensor(rows["signal"].to_numpy() * 4)
    return torch.stack([torch.zeros_like(odds), odds], dim=1)


def by_noise(rows):
    """A model that reads a column that says nothing."""
    odds = torch.tensor(rows["noise"].to_numpy())
    return torch.stack([torch.zeros_like(odds), odds], dim=1)


def test_the_column_that_a_model_reads_counts():
    """Shuffling it costs beyond doubt; columns that it does not read cost nothing at all."""
    found = importances(FRAME, LABELS, {"first": by_signal, "second": by_noise}, list(FRAME))
    assert found[0].column == "signal"
    assert found[0].rise["first"].low > 0.5
    assert {each.column for each in found} == set(FRAME)
    for each in found[1:]:
        assert each.rise["first"].value == each.rise["first"].high == 0
    (noise,) = (each for each in found if each.column == "noise")
    assert not noise.rise["second"].decided


def test_columns_are_shuffled_in_their_own_type():
    """A model gets the same rows but for one column, whose values and type are the column's."""
    seen = []

    def watch(rows):
        seen.append(rows)
        return by_signal(rows)

    importances(FRAME, LABELS, {"first": watch}, ["day", "kind", "flag"])
    whole, shuffled = seen[0].reset_index(drop=True), seen[1:]
    for name, twice in zip(["day", "kind", "flag"], shuffled, strict=True):
        assert (twice.dtypes == FRAME.dtypes).all()
        assert twice.index.is_unique
        for start in range(0, len(twice), ROWS):
            once = twice.iloc[start : start + ROWS].reset_index(drop=True)
            assert sorted(once[name]) == sorted(whole[name])
            assert not once[name].equals(whole[name])
            pd.testing.assert_frame_equal(once.drop(columns=name), whole.drop(columns=name))


def test_what_is_scored_is_bounded(monkeypatch):
    """Of many rows some are taken, the same ones each time."""
    monkeypatch.setattr(review, "MOST_ROWS", 50)
    scored = []

    def count(rows):
        scored.append(len(rows))
        return by_signal(rows)

    once = importances(FRAME, LABELS, {"first": count}, ["signal"])
    assert scored == [50, 50 * review.SHUFFLES]
    assert importances(FRAME, LABELS, {"first": count}, ["signal"]) == once


@pytest.mark.parametrize("most", [1, 5])
def test_of_many_columns_those_are_measured_that_trees_gain_by(monkeypatch, most):
    """The column that decides is among them however few there may be; order is the table's."""
    monkeypatch.setattr("kd_mlflow.distillation.review.MOST_COLUMNS", most)
    table = FRAME.assign(label=LABELS)
    dataset = read_dataset(DistillConfig(data=table, target="label"))
    encoding = fit_encoding(
        dataset.features("train"), target="label", classes=[0, 1], max_categories=9
    )
    trees = boosting_alone(dataset, encoding, 0).fit(HERE, ignore_epoch).family
    measured = measured_columns(encoding, trees)
    assert "signal" in measured
    assert len(measured) == most
    assert measured == [column.name for column in encoding.columns if column.name in measured]
