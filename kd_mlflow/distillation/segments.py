"""Where a student is weakest: rows that one column sets apart, on which its log loss is worst."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import norm, skew

from kd_mlflow.distillation.logits import Logits, row_losses
from kd_mlflow.evaluation.grouped import mean_error
from kd_mlflow.evaluation.intervals import Interval, loss_difference, standard_error
from kd_mlflow.evaluation.metrics import Floats
from kd_mlflow.table.encoding import Encoding
from kd_mlflow.table.profile import GAP, Profile, bin_names, bin_places, column_values, value_text

LEAST_ROWS, LEAST_SHARE = 30, 0.02
"""A segment has so many rows and such a share of them, or its loss would be chance."""

MOST_SHARE = 0.5
"""What holds more of the rows is no segment."""

LISTED, PER_COLUMN = 6, 2
"""Segments that are named, and how many of them of one column."""

LEVEL = 0.05


class Segment(NamedTuple):
    """Rows of one bin of a column's profile: what the student makes of them.

    ``beyond_chance``: so bad a mean is unlikely for rows drawn at random, even for the worst of all
    segments that were looked at.
    """

    column: str
    values: str
    rows: int
    loss: Interval
    accuracy: float
    ensemble_loss: float
    beyond_chance: bool


class Weakest(NamedTuple):
    """The worst segments first, and of how many; the mean loss of all rows to compare with."""

    segments: tuple[Segment, ...]
    looked_at: int
    least_rows: int
    loss: float

    def to_dict(self) -> dict[str, Any]:
        """The JSON document."""
        segments = [each._asdict() | {"loss": asdict(each.loss)} for each in self.segments]
        return self._asdict() | {"segments": segments}


def _chance(losses: Floats, level: float) -> Callable[[float], float]:
    """What the mean of so many of some losses, drawn at random, exceeds with a probability.

    Log losses are skewed, and so are means of few of them: the normal bound is corrected by their
    skewness (Cornish & Fisher, 1938), drawing without replacement.  Shape: (n,).
    """
    n, mean, spread = len(losses), float(losses.mean()), float(losses.std())
    skewness, z = float(skew(losses)) if spread else 0.0, float(norm.isf(level))

    def bound(rows: float) -> float:
        share = rows / n
        error = spread * np.sqrt((1 - share) / rows)
        skewed = skewness * (1 - 2 * share) / np.sqrt(rows * (1 - share))
        return float(mean + error * (z + (z**2 - 1) * skewed / 6))

    return bound


def weakest_segments(
    logits: Logits,
    features: pd.DataFrame,
    encoding: Encoding,
    profile: Profile,
    columns: Sequence[str],
) -> Weakest:
    """Find the bins of some columns on which the registered student's log loss is worst.

    Rows of one of the logits' groups count for less, as far as their losses go together.
    Shape: n raw rows, those of the logits.
    """
    both = torch.stack([logits.students["distilled"][logits.registered], logits.ensemble])
    losses, ensemble_losses = row_losses(both, logits.labels)
    hits = logits.classes("distilled")[logits.registered] == logits.labels
    groups, n = logits.groups, len(losses)
    least = max(LEAST_ROWS, int(np.ceil(LEAST_SHARE * n)))
    bins = _bins(features, encoding, profile, columns)
    found = [each for each in bins if least <= len(each[2]) <= MOST_SHARE * n]
    chance = _chance(losses, LEVEL / max(1, len(found)))
    segments = []
    for column, values, rows in found:
        own = losses[rows]
        of = None if groups is None else groups[rows]
        interval = loss_difference(own[None], np.zeros((1, 1)), of)
        segments.append(
            Segment(
                column=column,
                values=values,
                rows=len(rows),
                loss=replace(interval, low=max(0.0, interval.low)),
                accuracy=float(hits[rows].mean()),
                ensemble_loss=float(ensemble_losses[rows].mean()),
                beyond_chance=interval.value > chance(_alone(own, of)),
            )
        )
    worst = sorted(segments, key=lambda each: -each.loss.value)
    return Weakest(tuple(islice(_few(worst), LISTED)), len(found), least, float(losses.mean()))


def _alone(losses: Floats, groups: NDArray[np.int64] | None) -> float:
    """How many rows that are alone say as much of a mean loss as these do.  Shape: (n,) each."""
    n, error = len(losses), standard_error(losses)
    if groups is None or not error:
        return n
    return n * min(1.0, (error / mean_error(losses, groups)) ** 2)


def _bins(
    features: pd.DataFrame, encoding: Encoding, profile: Profile, names: Sequence[str]
) -> Iterator[tuple[str, str, NDArray[np.int64]]]:
    """Each bin of each column that holds rows: the column, what they have there, which rows."""
    wanted = set(names)
    for column, seen in zip(encoding.columns, profile.columns, strict=True):
        if column.name not in wanted:
            continue
        places = bin_places(features[column.name], column, seen.edges)
        shown = bin_names(column, seen.edges)
        values = column_values(features[column.name], column) if seen.edges else None
        for place in np.unique(places):
            rows = np.flatnonzero(places == place)
            said = shown[place]
            if values is not None and place != GAP:
                ends = float(values[rows].min()), float(values[rows].max())
                said = " to ".join(dict.fromkeys(value_text(end, column) for end in ends))
            yield column.name, said, rows


def _few(worst: Sequence[Segment]) -> Iterator[Segment]:
    """The first segments, at most a few of one column."""
    of_column = Counter[str]()
    for segment in worst:
        of_column[segment.column] += 1
        if of_column[segment.column] <= PER_COLUMN:
            yield segment
