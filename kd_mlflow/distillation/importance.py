"""Which columns count: how much worse a model gets when one column's values are shuffled.

Breiman (2001), "Random Forests", Machine Learning 45, on rows that nothing was trained on.
scikit-learn's ``permutation_importance`` gives the spread over shuffles alone; a reader needs the
interval that so few rows allow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow.distillation.logits import row_losses
from kd_mlflow.evaluation.intervals import Interval, loss_difference
from kd_mlflow.evaluation.metrics import Floats

Scorer = Callable[[pd.DataFrame], Tensor]
"""Scores raw rows.  Shape: n rows -> (n, classes), logits."""

SHUFFLES = 2
"""How often each column is shuffled; more would only narrow what rows leave wide."""

MOST_ROWS, MOST_COLUMNS = 1_000, 30
"""Rows that are scored for each column, and columns that are shuffled: bounds the time it takes."""


class Importance(NamedTuple):
    """How much the log loss of each model rises when one column's values are shuffled, in nats."""

    column: str
    rise: Mapping[str, Interval]


def importances(
    features: pd.DataFrame,
    labels: NDArray[np.int64],
    scorers: Mapping[str, Scorer],
    columns: Sequence[str],
    groups: NDArray[np.int64] | None = None,
) -> tuple[Importance, ...]:
    """The columns by what shuffling them costs the first model, the costliest first.

    All models see the same shuffles of the same rows, whose intervals are by ``groups`` where there
    are any.  Shape: n rows, labels and groups (n,).
    """
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(features))[:MOST_ROWS])
    rows, labels = features.iloc[chosen], labels[chosen]
    groups = None if groups is None else groups[chosen]
    before = {who: row_losses(score(rows)[None], labels) for who, score in scorers.items()}
    found = []
    for name in columns:
        each = [_shuffled(rows, name, rng) for _ in range(SHUFFLES)]
        shuffled = pd.concat(each, ignore_index=True)  # somebody's model may look rows up by it
        rise = {}
        for who, score in scorers.items():
            after = _losses(score(shuffled), labels)
            rise[who] = loss_difference(after, before[who], groups)
        found.append(Importance(name, rise))
    first = next(iter(scorers))
    return tuple(sorted(found, key=lambda each: -each.rise[first].value))


def _losses(logits: Tensor, labels: NDArray[np.int64]) -> Floats:
    """Log losses by shuffle and row.  Shape: (shuffles * n, classes), (n,) -> (shuffles, n)."""
    return row_losses(logits.reshape(SHUFFLES, len(labels), -1), labels)


def _shuffled(rows: pd.DataFrame, name: str, rng: np.random.Generator) -> pd.DataFrame:
    """The rows with one column's values in another order."""
    changed = rows.copy(deep=False)
    order = rng.permutation(len(rows))
    changed[name] = rows[name].iloc[order].set_axis(rows.index)
    return changed
