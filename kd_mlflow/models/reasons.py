"""Which columns moved an answer most: the student asked again with each at a usual value.

Every other column stays as the row has it. That is no share of the answer: what two columns say
together is counted for both, or for none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd_mlflow.errors import RunError
from kd_mlflow.models.any_model import AnyModel
from kd_mlflow.serving.scoring import FIRST_CATEGORY, MISSING
from kd_mlflow.table.encoding import Column
from kd_mlflow.table.profile import FIRST_BIN, GAP, ColumnProfile

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Shape: encoded columns (n, columns) -> logits (n, classes)."""

VALUES_AT_ONCE = 1 << 22
"""Most values of the matrix that the student is asked with at once."""


class Reasons(NamedTuple):
    """The columns that moved each answer most, the strongest first, by their places.

    ``moved`` is by how much: the log odds of the predicted class less those with the column at its
    usual value; 0 where the row has that value.  Shape: (n, reasons) each.
    """

    columns: NDArray[np.int64]
    moved: NDArray[np.float64]


def usual_values(model: AnyModel) -> NDArray[np.float32]:
    """Each column's usual value in training, encoded.  Shape: (columns,).

    Numbers and dates: the median; truth values and categories: the most frequent one.
    Raises RunError where the model does not know it, or is no student.
    """
    if not callable(network_of(model)):
        raise RunError(f"reasons are asked of students; {model.title} is none: leave reasons out")
    columns = model.encoding.columns if model.encoding else ()
    profiles = model.profile.columns if model.profile else [None] * len(columns)
    found = [_usual(*each) for each in zip(columns, profiles, strict=True)]
    if unknown := [c.name for c, value in zip(columns, found, strict=True) if value is None]:
        raise RunError(
            f"reasons need a profile of the training rows; {model.title} has none of column "
            f"{unknown[0]!r}: distil it again, or leave reasons out"
        )
    return np.array(found, dtype=np.float32)


def network_of(model: AnyModel) -> Network:
    """The network of a loaded student; what is no student's cannot be called."""
    network: Network = model.respondent.model.unwrap_python_model().network
    return network


def _usual(column: Column, profile: ColumnProfile | None) -> float | None:
    """A column's usual value, None where it is not known any more."""
    if column.kind in ("numeric", "date"):
        return column.median
    if profile is None or not profile.counts:
        return None
    if column.kind == "boolean":
        false, true = profile.counts[GAP + 1 :]
        return float(true > false)
    listed = profile.counts[FIRST_BIN + 1 :]
    return FIRST_CATEGORY + int(np.argmax(listed)) if listed else MISSING


def reasons(
    network: Network,
    encoded: NDArray[np.float32],
    usual: NDArray[np.float32],
    predicted: NDArray[np.int64],
    most: int,
) -> Reasons:
    """Ask again with each column at its usual value; keep the columns that moved most.

    Shape: encoded (n, columns), usual (columns,), predicted classes by number (n,).
    """
    moved = np.zeros(encoded.shape)
    before = log_odds(network(encoded), predicted)
    rows, columns = np.nonzero(encoded != usual)  # a gap is never equal
    step = max(1, VALUES_AT_ONCE // len(usual))
    for start in range(0, len(rows), step):
        row, column = rows[start : start + step], columns[start : start + step]
        asked = encoded[row]
        asked[np.arange(len(row)), column] = usual[column]
        moved[row, column] = before[row] - log_odds(network(asked), predicted[row])
    order = np.argsort(-np.abs(moved), axis=1, kind="stable")[:, :most]
    return Reasons(order, np.take_along_axis(moved, order, axis=1))


def log_odds(logits: NDArray[np.float32], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """The log odds of one class against all others.  Shape: (n, classes), (n,) -> (n,)."""
    values = logits.astype(np.float64)
    own = np.take_along_axis(values, chosen[:, None], axis=1)[:, 0]
    np.put_along_axis(values, chosen[:, None], -np.inf, axis=1)
    highest = values.max(axis=1)
    others = highest + np.log(np.exp(values - highest[:, None]).sum(axis=1))
    odds: NDArray[np.float64] = own - others
    return odds
