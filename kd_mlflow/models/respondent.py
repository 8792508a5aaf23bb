"""Asking a model that is none of ours for probabilities, and holding its answer to the rule."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kd_mlflow.errors import RunError, listed
from kd_mlflow.models.pulled import PROBABILITY, classes_of
from kd_mlflow.serving.scoring import text_of

RULE = (
    "answers raw rows with probabilities: by predict_proba, or by predict with a column "
    f"{PROBABILITY}<class> per class or one number per class in the classes' sorted order"
)
SUM_TOLERANCE = 1e-3
FLOOR = 1e-6
"""Least probability: the 0 of a forest has no logarithm."""

Answer = tuple[Any, Sequence[str] | None]
"""Numbers, (n, classes), and their columns' classes where the model names them."""


class Role(NamedTuple):
    """How messages speak of a model that is asked: what it is, and beside what else.

    ``columns``, ``values`` and ``classes`` are the advice where these do not fit.
    """

    noun: str
    other: str
    columns: str
    values: str
    classes: str


TEACHER = Role(
    "teacher",
    "this table",
    columns=" (columns that are the same or unique in nearly every row are left out): train it on "
    "these",
    values="train it on the table's raw columns",
    classes="train it on this table's labels",
)
SCORED = Role(
    "model",
    "the other model",
    columns=": give a table with the columns that it was trained on",
    values="give a table of the raw values that it was trained on",
    classes="compare models of the same classes",
)


@dataclass(frozen=True, kw_only=True)
class Respondent:
    """A model with ``predict_proba`` or ``predict``, and what to ask it with.

    ``columns`` are those it takes, in its order; whole numbers in ``wide`` ones become float64.
    With a ``matrix`` type it gets one matrix instead of a table.
    """

    name: str
    model: Any
    columns: tuple[str, ...]
    wide: frozenset[str] = frozenset()
    matrix: np.dtype[Any] | None = None
    role: Role = TEACHER

    def probabilities(self, features: pd.DataFrame, classes: Sequence[str]) -> NDArray[np.float64]:
        """Score raw rows.  Shape: n rows -> (n, classes), each above 0, each row summing to 1.

        Raises RunError where the model cannot score them or its answer is no probabilities.
        """
        shares = self.shares(features, classes).clip(FLOOR, 1)
        shares /= shares.sum(axis=1, keepdims=True)
        return shares

    def shares(self, features: pd.DataFrame, classes: Sequence[str]) -> NDArray[np.float64]:
        """What the model itself says of raw rows, in the order of ``classes``.

        Shape: n rows -> (n, classes). Raises RunError as ``probabilities`` does.
        """
        values, names = self.answer(features)
        if names is not None and sorted(names) != sorted(classes):
            raise RunError(
                f"{self.role.noun} {self.name} knows the classes {listed(names)}, "
                f"{self.role.other} has {listed(classes)}; {self.role.classes}"
            )
        if received := fault(values, (len(features), len(classes))):
            raise RunError(
                f"{self.role.noun} {self.name}: a {self.role.noun} {RULE}, each row summing to 1; "
                f"received {received}; log a classifier that has predict_proba, or a pyfunc model "
                "that answers so"
            )
        if names is not None:
            values = values[:, [list(names).index(name) for name in classes]]
        return values.astype(np.float64).clip(0, 1)

    def answer(self, features: pd.DataFrame) -> tuple[NDArray[Any], Sequence[str] | None]:
        """Ask about raw rows; an array, and the classes of its columns where the model names them.

        Raises RunError where the model cannot be asked or raises anything.
        """
        if absent := [name for name in self.columns if name not in features.columns]:
            raise RunError(
                f"{self.role.noun} {self.name} needs the columns {listed(absent)}; this table's "
                f"features are {listed(list(features.columns))}{self.role.columns}"
            )
        frame = features[list(self.columns)]
        whole = [name for name in self.columns if frame[name].dtype.kind in "iub"]
        frame = frame.astype({name: "float64" for name in whole if name in self.wide})
        try:
            answer, names = self._ask(frame)
            return np.asarray(answer), names
        except Exception as error:  # foreign code may raise anything
            raise RunError(
                f"{self.role.noun} {self.name} cannot score this table's rows: "
                f"{error_text(error)}; {self.role.values}"
            ) from None

    def _ask(self, table: pd.DataFrame) -> Answer:
        frame = table if self.matrix is None else table.to_numpy(self.matrix)
        with_shares = hasattr(self.model, "predict_proba")
        with warnings.catch_warnings():  # fitted on a matrix, it takes columns in their order
            warnings.filterwarnings("ignore", message="X has feature names")
            answer = (self.model.predict_proba if with_shares else self.model.predict)(frame)
        if with_shares:
            classes = self.model.classes_
            labels = classes.ravel() if isinstance(classes, np.ndarray) else classes
            return answer, [text_of(label) for label in labels]
        if isinstance(answer, pd.DataFrame):
            own = [str(name).startswith(PROBABILITY) for name in answer.columns]
            if any(own):
                return answer.loc[:, own], classes_of(answer.columns)
        return answer, None


def fault(values: NDArray[Any], shape: tuple[int, int]) -> str | None:
    """Say what is wrong with an answer that should be probabilities of a shape; None if nothing."""
    if values.shape != shape or values.dtype.kind not in "fiu":
        return f"{values.dtype} of shape {values.shape} where {shape} was needed"
    if not np.isfinite(values).all():
        return "numbers that are not finite"
    if values.min() < -SUM_TOLERANCE or values.max() > 1 + SUM_TOLERANCE:
        return f"numbers from {values.min():.4g} to {values.max():.4g}"
    off = np.abs(values.sum(axis=1) - 1)
    if off.max() > SUM_TOLERANCE:
        return f"a row that sums to {values[off.argmax()].sum():.4g}"
    return None


def error_text(error: Exception) -> str:
    """The first line of an error of foreign code, and the last one, which often has the cause."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ... ".join(line.strip()[:200] for line in dict.fromkeys((lines[0], lines[-1])))
