"""A table's columns as one float32 matrix, and the module that scales and one-hots it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kd_mlflow.errors import DataError
from kd_mlflow.evaluation.thresholds import Cutoff, cutoff_of
from kd_mlflow.serving import scoring
from kd_mlflow.table.fitting import Column, binned, fit_column
from kd_mlflow.table.forms import PLAIN, Form
from kd_mlflow.table.kinds import Label, kind_of


@contextmanager
def column_errors() -> Iterator[None]:
    """Raise what ``scoring`` finds wrong with a column, in the decorated function, as DataError."""
    try:
        yield
    except scoring.ColumnError as error:
        raise DataError(str(error)) from None


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Column descriptions in training order and the classes: one JSON document.

    ``threshold`` is the probability from which on a student predicts the second of two classes, or
    of more a weight per class, see ``scoring.decided``; None where it predicts the likeliest one.
    """

    target: str
    classes: tuple[Label, ...]
    columns: tuple[Column, ...]
    threshold: Cutoff | None = None

    @column_errors()
    def encode(self, features: pd.DataFrame) -> NDArray[np.float32]:
        """Encode a table.  Shape: (n, len(columns)).

        Raises DataError where a column is missing or holds what it cannot.
        """
        return scoring.encode(features, self._described)

    def inputs(self, features: pd.DataFrame) -> Tensor:
        """Encode and scale a table as a network receives it.

        Shape: (n, d_in). Raises DataError where a column is missing or holds what it cannot.
        """
        return Scaler(self).inputs(torch.from_numpy(self.encode(features)))

    @cached_property
    def _described(self) -> list[dict[str, Any]]:
        """The columns as ``scoring`` takes them, made once: of hundreds it takes milliseconds."""
        return [column.to_dict() for column in self.columns]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document."""
        return {
            "target": self.target,
            "classes": self.classes,
            "columns": [column.to_dict() for column in self.columns],
            "threshold": self.threshold,
        }

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Encoding:
        """Rebuild an encoding from its JSON document."""
        columns: list[dict[str, Any]] = [
            {k: tuple(v) if isinstance(v, list) else v for k, v in column.items()}
            | {"form": Form(**column.get("form", {}))}
            for column in document["columns"]
        ]
        return cls(
            target=document["target"],
            classes=tuple(document["classes"]),
            columns=tuple(Column(**column) for column in columns),
            threshold=cutoff_of(document.get("threshold")),
        )


SCALED_ROWS, SCALED_VALUES = 65_536, 2**25
"""Most rows scaled at once, and most inputs: bounds what lies between columns and inputs."""

COMMENSURABLE = 10.0
"""Numbers whose largest and smallest deviation differ by at most this factor share one scale."""

SOFT = 3.0
"""Scaled numbers of piecewise-linear columns stay within plus and minus this."""


@column_errors()
def fit_encoding(
    features: pd.DataFrame,
    *,
    target: str,
    classes: Sequence[Label],
    max_categories: int,
    scaling: str = "auto",
    kinds: Mapping[str, str] | None = None,
    gap_texts: Mapping[str, Sequence[str]] | None = None,
    forms: Mapping[str, Form] | None = None,
) -> Encoding:
    """Learn medians, scales and categories from the training rows.

    Numeric columns are divided each by its own deviation or all by one common scale, their
    deviations' root mean square, which keeps what their relative spread says; ``auto`` takes the
    common scale where the deviations are within a factor of ten of each other. ``kinds``,
    ``gap_texts`` and ``forms`` are what the whole table says of its columns; without them these
    rows decide.

    Raises DataError where a column has a type that no model takes.
    """
    columns = []
    for name, series in features.items():
        blank = Column(
            name=str(name),
            kind=kinds[str(name)] if kinds else kind_of(series),
            gap_texts=tuple((gap_texts or {}).get(str(name), ())),
            form=(forms or {}).get(str(name), PLAIN),
        )
        columns.append(fit_column(series, blank, max_categories))
    varied = [column.scale for column in columns if column.kind == "numeric" and column.scale]
    alike = bool(varied) and max(varied) <= COMMENSURABLE * min(varied)
    if varied and (scaling == "common" or (scaling == "auto" and alike)):
        common = float(np.sqrt(np.mean(np.square(varied))))
        columns = [replace(c, scale=common) if c.kind == "numeric" else c for c in columns]
    columns = [replace(column, scale=column.scale or 1.0) for column in columns]
    return Encoding(target=target, classes=tuple(classes), columns=tuple(columns))


def piecewise_linear(encoding: Encoding, encoded: NDArray[np.float32], bins: int) -> Encoding:
    """Cut numbers and dates of more than two values into at most so many bins each.

    These columns are scaled by median and interquartile range.  Shape: encoded (n, columns), of the
    training rows. No bins: the encoding as it is.
    """
    pairs = zip(encoding.columns, encoded.T, strict=True)
    return replace(encoding, columns=tuple(binned(*pair, bins) for pair in pairs))


class Scaler(nn.Module):
    """Fills gaps, cuts far outliers, scales numbers, bins them, one-hots codes; nothing is trained.

    A piecewise-linear column's scaled number z becomes z / sqrt(1 + (z / 3)^2), and each of its
    bins gives how far a value has come through it, from 0 to 1 (Gorishniy et al., 2022, "On
    Embeddings for Numerical Features in Tabular Deep Learning", arXiv 2203.05556, equation 1).

    Shape: encoded columns (n, columns) -> inputs (n, d_in): scaled numbers in column order, then
    gap indicators, then one-hot codes, then bins.
    """

    numbers: Tensor
    median: Tensor
    mean: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    soft: Tensor
    indicators: Tensor
    one_hot: Tensor
    codes: Tensor
    bin_number: Tensor
    bin_low: Tensor
    bin_width: Tensor

    def __init__(self, encoding: Encoding) -> None:
        super().__init__()
        self.encoding = encoding
        places = list(enumerate(encoding.columns))
        numbers = [(i, c) for i, c in places if c.kind != "category"]
        self._keep("numbers", [i for i, _ in numbers], torch.int64)
        for name in ("median", "mean", "scale", "low", "high"):
            self._keep(name, [getattr(c, name) for _, c in numbers])
        self._keep("soft", [1 / SOFT if c.edges else 0.0 for _, c in numbers])
        self.bent = any(c.edges for _, c in numbers)
        self._keep("indicators", [i for i, c in numbers if c.indicator], torch.int64)
        one_hot = [(i, code) for i, c in places for code in c.codes]
        self._keep("one_hot", [i for i, _ in one_hot], torch.int64)
        self._keep("codes", [code for _, code in one_hot])
        bins = [(i, *pair) for i, (_, c) in enumerate(numbers) for pair in pairwise(c.edges)]
        self._keep("bin_number", [i for i, _, _ in bins], torch.int64)
        self._keep("bin_low", [low for _, low, _ in bins])
        self._keep("bin_width", [high - low for _, low, high in bins])

    def _keep(self, name: str, values: Sequence[float], dtype: torch.dtype = torch.float32) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=dtype))

    def without_bins(self) -> Scaler:
        """The same scaler, its inputs without those of the bins."""
        flat = Scaler(self.encoding)
        for name in ("bin_number", "bin_low", "bin_width"):
            flat.register_buffer(name, getattr(self, name).new_empty(0))
        return flat

    @property
    def width(self) -> int:
        """Number of inputs of the network, d_in."""
        flat = self.mean.numel() + self.indicators.numel() + self.codes.numel()
        return flat + self.bin_number.numel()

    def inputs(self, encoded: Tensor) -> Tensor:
        """The inputs of many rows, some at a time.  Shape: (n, columns) -> (n, d_in)."""
        inputs = encoded.new_empty(len(encoded), self.width)
        at_once = min(SCALED_ROWS, max(1, SCALED_VALUES // max(1, self.width)))
        parts = (torch.split(rows, at_once) for rows in (inputs, encoded))
        for part, rows in zip(*parts, strict=True):
            part.copy_(self(rows))
        return inputs

    def forward(self, x: Tensor) -> Tensor:
        numbers = x.index_select(1, self.numbers)
        filled = torch.where(torch.isnan(numbers), self.median, numbers)
        z = (torch.clamp(filled, self.low, self.high) - self.mean) / self.scale
        if self.bent:
            z = z / (1 + (z * self.soft).square()).sqrt()
        parts = [z]
        if self.indicators.numel():
            parts.append(torch.isnan(x.index_select(1, self.indicators)).to(x.dtype))
        if self.codes.numel():
            parts.append((x.index_select(1, self.one_hot) == self.codes).to(x.dtype))
        if self.bin_number.numel():
            come = filled.index_select(1, self.bin_number) - self.bin_low
            parts.append((come / self.bin_width).clamp(0.0, 1.0))
        return torch.cat(parts, dim=1)
