"""Where a student is weakest: planted weak rows are found, chance is not taken for weakness."""

import json

import numpy as np
import pytest
import torch
from test_drift import ENCODING, PROFILE, table

from kd_mlflow.distillation.logits import Logits
from kd_mlflow.distillation.segments import LEAST_ROWS, PER_COLUMN, weakest_segments

ROWS = 1500
FEATURES = table(3, ROWS)
COLUMNS = list(FEATURES)


def scored(losses):
    """Logits of two classes that cost rows of the first one such losses."""
    return torch.from_numpy(np.stack([-losses, np.log(-np.expm1(-losses))], axis=1))


def weakest(losses, columns=COLUMNS, rows=slice(None)):
    """The weakest segments of a student with such losses, half as large ones of its ensemble."""
    own = losses[rows]
    logits = Logits(
        labels=np.zeros(len(own), dtype=np.int64),
        ensemble=scored(own / 2),
        students={"distilled": scored(own)[None]},
    )
    return weakest_segments(logits, FEATURES.iloc[rows], ENCODING, PROFILE, columns)


def test_planted_weak_rows_are_found():
    """The city on whose rows the loss was raised comes first, with its count and beyond chance."""
    losses = np.random.default_rng(0).exponential(0.3, ROWS)
    there = (FEATURES["city"] == "Rome").to_numpy()
    losses[there] += 0.5
    found = weakest(losses)
    first = found.segments[0]
    assert (first.column, first.values, first.rows) == ("city", "Rome", there.sum())
    assert first.beyond_chance
    assert first.loss.value == pytest.approx(losses[there].mean())
    assert first.loss.low < first.loss.value < first.loss.high
    assert first.ensemble_loss == pytest.approx(losses[there].mean() / 2)
    assert first.accuracy == (losses[there] < np.log(2)).mean()
    assert found.loss == pytest.approx(losses.mean())
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.slow
def test_chance_is_not_taken_for_weakness():
    """Of 80 models without a weak spot few are said to have one, though all have a worst one.

    Losses are as skewed as log losses are: of labels drawn with the probabilities that are said.
    """
    rng, said = np.random.default_rng(1), []
    for _ in range(80):
        share = rng.beta(3, 0.6, ROWS)
        losses = -np.log(np.where(rng.random(ROWS) < share, share, 1 - share))
        said.append(any(each.beyond_chance for each in weakest(losses).segments))
    assert 0 < np.mean(said) < 0.1


def test_a_segment_has_rows_enough():
    """None has fewer than the least, none has most of the rows; no column is named too often."""
    losses = np.random.default_rng(2).exponential(0.3, ROWS)
    found = weakest(losses)
    assert found.least_rows >= LEAST_ROWS
    named = [each.column for each in found.segments]
    assert max(map(named.count, named)) <= PER_COLUMN
    for each in found.segments:
        assert found.least_rows <= each.rows <= ROWS / 2
    few = weakest(losses, rows=slice(LEAST_ROWS))
    assert (few.segments, few.looked_at) == ((), 0)


def test_a_segment_is_named_by_what_its_rows_have():
    """Numbers from the least to the largest of its rows, gaps as gaps."""
    losses = np.where(FEATURES["tied"] == 2, 2.0, 0.1)
    assert weakest(losses, ["tied"]).segments[0].values == "2"
    empty = np.where(FEATURES["number"].isna(), 2.0, 0.1)
    first = weakest(empty, ["number"]).segments[0]
    assert (first.values, first.rows) == ("gaps", FEATURES["number"].isna().sum())
