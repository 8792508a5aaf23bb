"""A table to be scored: every row and column as it is, nothing left out, nothing split."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kd_mlflow.config.groups import Source, TableOptions
from kd_mlflow.errors import DataError
from kd_mlflow.serving.scoring import text_of
from kd_mlflow.table.files import existing_file, read_columns, refuse_csv_options
from kd_mlflow.table.frames import as_frame
from kd_mlflow.table.hashing import table_digest
from kd_mlflow.table.kinds import typed
from kd_mlflow.table.loading import BUILT_IN, FRAME, numbered_labels


@dataclass(frozen=True, kw_only=True)
class ScoredRows:
    """Raw columns, and the labels that they are compared with, where the table has any.

    ``labels`` are as they stand in the table, gaps included.  Shape: (n,).
    """

    name: str
    source: str
    target: str
    features: pd.DataFrame
    labels: pd.Series | None

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
        kept = {name: typed(self.features[name]) for name in columns}
        values = pd.DataFrame({name: column.values for name, column in kept.items()}, copy=False)
        kinds = {name: column.kind for name, column in kept.items()}
        if self.labels is None:
            return table_digest(values, kinds, np.empty(0, dtype=np.int64), (), "")
        try:
            labels, classes = numbered_labels(self.labels)
        except DataError:  # labels that no training would take
            labels, uniques = pd.factorize(self.label_texts())
            classes = tuple(map(str, uniques))
        return table_digest(values, kinds, labels, classes, self.target)


def read_rows(options: TableOptions, texts: Collection[str] = ()) -> ScoredRows:
    """Read the table that a configuration names.

    A built-in table has its own target; any other has labels where ``target`` names their column.
    ``texts`` are columns of a CSV file that stay as they are written.
    Raises DataError for whatever is wrong with it.
    """
    name, source, frame = _frame(options, texts)
    target = options.target or (str(frame.columns[-1]) if source in BUILT_IN else "")
    columns = ", ".join(map(repr, frame.columns))
    if frame.columns.has_duplicates:
        raise DataError(f"duplicate columns in {name}: {columns}")
    if target and target not in frame.columns:
        raise DataError(f"target {target!r} is not a column of {name}; it has: {columns}")
    if not len(frame):
        raise DataError(f"{name} has a header and no rows")
    return ScoredRows(
        name=name,
        source=source,
        target=target,
        features=frame.drop(columns=target) if target else frame,
        labels=frame[target] if target else None,
    )


def _frame(options: TableOptions, texts: Collection[str]) -> tuple[str, str, pd.DataFrame]:
    """What a table is called, where it lies, and all its columns."""
    data: Source = options.data
    separator, decimal = options.separator, options.decimal
    if not isinstance(data, str | Path):
        frame = as_frame(data)
        refuse_csv_options("a DataFrame", separator, decimal)
        return FRAME, FRAME, frame
    if data in BUILT_IN:
        refuse_csv_options(f"the built-in table {data}", separator, decimal)
        features, labels = BUILT_IN[str(data)]()
        return str(data), str(data), features.assign(**{str(labels.name): labels})
    path = existing_file(str(data), built_in=tuple(BUILT_IN))
    frame = read_columns(path, separator=separator, decimal=decimal, texts=texts)
    return path.name, str(path.resolve()), frame
