"""A table's columns as one float32 matrix, and the module that scales and one-hots it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kd_mlflow import scoring
from kd_mlflow.errors import DataError
from kd_mlflow.table.kinds import Label, kind_of


@dataclass(frozen=True, kw_only=True)
class Column:
    """What was learnt of one column from the training rows.

    ``mean`` and ``scale`` are in the column's own unit (days for dates). ``codes`` are the category
    codes that occurred; each gets a one-hot input, any other code is all zeros.
    """

    name: str
    kind: str
    mean: float = 0.0
    scale: float = 1.0
    median: float = 0.0
    indicator: bool = False
    origin: str = ""
    categories: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Column descriptions in training order and the classes: one JSON document."""

    target: str
    classes: tuple[Label, ...]
    columns: tuple[Column, ...]

    def encode(self, features: pd.DataFrame) -> NDArray[np.float32]:
        """Encode a table.  Shape: (n, len(columns)).

        Raises DataError where a column is missing or holds what it cannot.
        """
        try:
            return scoring.encode(features, self.to_dict()["columns"])
        except scoring.ColumnError as error:
            raise DataError(str(error)) from None

    def inputs(self, features: pd.DataFrame, rows: NDArray[np.int64] | None = None) -> Tensor:
        """Encode and scale a table, or some of its rows, as a network receives it.

        Shape: (n, d_in). Raises DataError where a column is missing or holds what it cannot.
        """
        scaler, n = Scaler(self), len(features) if rows is None else len(rows)
        inputs = torch.empty(n, scaler.width)
        for start in range(0, n, ENCODED_ROWS):
            part = slice(start, start + ENCODED_ROWS)
            some = features.iloc[part if rows is None else rows[part]]
            inputs[part] = scaler(torch.from_numpy(self.encode(some)))
        return inputs

    def to_dict(self) -> dict[str, Any]:
        """The JSON document."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Encoding:
        """Rebuild an encoding from its JSON document."""
        columns = [
            Column(**{**c, "categories": tuple(c["categories"]), "codes": tuple(c["codes"])})
            for c in document["columns"]
        ]
        return cls(
            target=document["target"],
            classes=tuple(document["classes"]),
            columns=tuple(columns),
        )


ENCODED_ROWS = 65_536
"""Rows encoded at once: bounds what lies between a table and its inputs."""

COMMENSURABLE = 10.0
"""Numbers whose largest and smallest deviation differ by at most this factor share one scale."""


def fit_encoding(
    features: pd.DataFrame,
    *,
    target: str,
    classes: Sequence[Label],
    max_categories: int,
    scaling: str = "auto",
) -> Encoding:
    """Learn medians, scales, categories and types from the training rows.

    Numeric columns are divided each by its own deviation or all by one common scale, their
    deviations' root mean square, which keeps what their relative spread says; ``auto`` takes the
    common scale where the deviations are within a factor of ten of each other.

    Raises DataError where a column has a type that no model takes.
    """
    columns = [_fit_column(features[name], max_categories) for name in features.columns]
    scales = np.array([column.scale for column in columns if column.kind == "numeric"])
    alike = scales.size and scales.max() <= COMMENSURABLE * scales.min()
    if scales.size and (scaling == "common" or (scaling == "auto" and alike)):
        common = float(np.sqrt(np.mean(np.square(scales))))
        columns = [replace(c, scale=common) if c.kind == "numeric" else c for c in columns]
    return Encoding(target=target, classes=tuple(classes), columns=tuple(columns))


def _fit_column(series: pd.Series, max_categories: int) -> Column:
    name, kind = str(series.name), kind_of(series)
    if kind == "category":
        return _fit_category(series, max_categories)
    origin = ""
    if kind == "date":
        first = scoring.timestamps(series).min()
        origin = "1970-01-01" if pd.isna(first) else first.isoformat()
    values = _encoded(series, {"name": name, "kind": kind, "origin": origin}).astype(np.float64)
    present = values[~np.isnan(values)]
    if not len(present):
        return Column(name=name, kind=kind, origin=origin)
    return Column(
        name=name,
        kind=kind,
        mean=float(present.mean()),
        scale=float(present.std()) if present.max() > present.min() else 1.0,
        median=float(np.median(present)),
        indicator=len(present) < len(values),
        origin=origin,
    )


def _fit_category(series: pd.Series, max_categories: int) -> Column:
    """Keep the most frequent categories, ties in alphabetical order; the rest share one code."""
    _encoded(series, {"name": str(series.name), "kind": "category", "categories": ()})
    texts = pd.Series(series.dropna().astype(object).map(scoring.text_of), dtype=object)
    counts = texts.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    categories = tuple(sorted(counts.index[:max_categories]))
    column = Column(name=str(series.name), kind="category", categories=categories)
    codes = np.unique(_encoded(series, asdict(column)))
    return Column(
        name=column.name,
        kind="category",
        categories=categories,
        codes=tuple(int(code) for code in codes),
    )


def _encoded(series: pd.Series, column: dict[str, Any]) -> NDArray[np.float32]:
    try:
        return scoring.encode_column(series, column)
    except scoring.ColumnError as error:
        raise DataError(str(error)) from None


class Scaler(nn.Module):
    """Fills gaps, scales numbers and one-hots codes; nothing in it is trained.

    Shape: encoded columns (n, columns) -> inputs (n, d_in): scaled numbers in column order, then
    gap indicators, then one-hot codes.
    """

    numbers: Tensor
    median: Tensor
    mean: Tensor
    scale: Tensor
    indicators: Tensor
    one_hot: Tensor
    codes: Tensor

    def __init__(self, encoding: Encoding) -> None:
        super().__init__()
        self.encoding = encoding
        places = list(enumerate(encoding.columns))
        numbers = [(i, c) for i, c in places if c.kind != "category"]
        self._keep("numbers", [i for i, _ in numbers], torch.int64)
        self._keep("median", [c.median for _, c in numbers])
        self._keep("mean", [c.mean for _, c in numbers])
        self._keep("scale", [c.scale for _, c in numbers])
        self._keep("indicators", [i for i, c in numbers if c.indicator], torch.int64)
        one_hot = [(i, code) for i, c in places for code in c.codes]
        self._keep("one_hot", [i for i, _ in one_hot], torch.int64)
        self._keep("codes", [code for _, code in one_hot])

    def _keep(self, name: str, values: Sequence[float], dtype: torch.dtype = torch.float32) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=dtype))

    @property
    def width(self) -> int:
        """Number of inputs of the network, d_in."""
        return self.mean.numel() + self.indicators.numel() + self.codes.numel()

    def forward(self, x: Tensor) -> Tensor:
        numbers = x.index_select(1, self.numbers)
        filled = torch.where(torch.isnan(numbers), self.median, numbers)
        parts = [(filled - self.mean) / self.scale]
        if self.indicators.numel():
            parts.append(torch.isnan(x.index_select(1, self.indicators)).to(x.dtype))
        if self.codes.numel():
            parts.append((x.index_select(1, self.one_hot) == self.codes).to(x.dtype))
        return torch.cat(parts, dim=1)
