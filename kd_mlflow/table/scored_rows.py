"""A table to be scored: every row and column as it is, nothing left out, nothing split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kd_mlflow.config.groups import TableOptions
from kd_mlflow.errors import DataError
from kd_mlflow.serving.scoring import GAP_TEXTS, reads_texts, text_of
from kd_mlflow.table.encoding import Column, Encoding
from kd_mlflow.table.forms import PLAIN, read_by
from kd_mlflow.table.hashing import table_digest
from kd_mlflow.table.kinds import Typed, readings, typed
from kd_mlflow.table.labels import numbered_labels
from kd_mlflow.table.sources import open_source


@dataclass(frozen=True, kw_only=True)
class ScoredRows:
    """Raw columns, and the labels that they are compared with, where the table has any.

    ``labels`` are as they stand in the table, gaps included.  Shape: (n,). ``known`` is what a
    model was taught of columns.
    """

    name: str
    source: str
    target: str
    features: pd.DataFrame
    labels: pd.Series | None
    known: Mapping[str, Column] = field(default_factory=dict)

    def label_texts(self) -> NDArray[np.object_]:
        """Labels as models name classes, 1 and 1.0 and "1" alike; None for a gap.  Shape: (n,)."""
        if self.labels is None:
            return np.full(len(self.features), None, dtype=object)
        codes, uniques = pd.factorize(self.labels.astype(object))
        texts = np.array([*(text_of(value) for value in uniques), None], dtype=object)
        return texts[codes]

    def digest(self, columns: Sequence[str]) -> str:
        """SHA-256 of some columns and the labels.

        Of the columns that training kept of a table it is that table's digest. Raises DataError
        where a cell is no value.
        """
        kept = {name: self._typed(name) for name in columns}
        values = pd.DataFrame({name: column.values for name, column in kept.items()}, copy=False)
        kinds = {name: column.kind for name, column in kept.items()}
        read = readings(kinds, {name: column.form for name, column in kept.items()})
        if self.labels is None:
            return table_digest(values, read, np.empty(0, dtype=np.int64), (), "")
        try:
            labels, classes = numbered_labels(self.labels)
        except DataError:  # labels that no training would take
            labels, uniques = pd.factorize(self.label_texts())
            classes = tuple(map(str, uniques))
        return table_digest(values, read, labels, classes, self.target)

    def _typed(self, name: str) -> Typed:
        """A column as the model reads it; as training would where the model says nothing of it."""
        column = self.known.get(name)
        if column is None or (column.form == PLAIN and column.kind != "category"):
            return typed(self.features[name])
        values = read_by(self.features[name], column.kind, column.form, column.gap_texts)
        return Typed(values, column.kind, form=column.form)


def read_rows(options: TableOptions, encoding: Encoding | None = None) -> ScoredRows:
    """Read the table that a configuration names.

    A built-in table has its own target; any other has labels where ``target`` names their column.
    ``encoding`` says which columns of a CSV file stay as they are written, and how.
    Raises DataError for whatever is wrong with it.
    """
    columns = [asdict(column) for column in encoding.columns] if encoding else []
    literal = [column["name"] for column in columns if column["form"]["literal"]]
    if encoding and not GAP_TEXTS.isdisjoint(map(str, encoding.classes)):
        literal.append(options.target)
    texts = [column["name"] for column in columns if reads_texts(column)]
    origin, frame = open_source(options.data, options.separator, options.decimal, texts, literal)
    name, target = origin.name, options.target or origin.target
    names = ", ".join(map(repr, frame.columns))
    if frame.columns.has_duplicates:
        raise DataError(f"duplicate columns in {name}: {names}")
    if target and target not in frame.columns:
        raise DataError(f"target {target!r} is not a column of {name}; it has: {names}")
    if not len(frame):
        raise DataError(f"{name} has a header and no rows")
    return ScoredRows(
        name=name,
        source=origin.source,
        target=target,
        features=frame.drop(columns=target) if target else frame,
        labels=frame[target] if target else None,
        known={column.name: column for column in encoding.columns} if encoding else {},
    )
