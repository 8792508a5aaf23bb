"""A table to be scored: as it is, nothing left out, nothing split; whole, or in parts.

Each part is read as the whole table would be and answered into one file, which is there when all
are written, or not at all; none stays in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv, parquet

from kd_mlflow.config.groups import TableOptions
from kd_mlflow.errors import DataError, first_line
from kd_mlflow.serving.scoring import GAP_TEXTS, ROWS_AT_ONCE, reads_texts, text_of
from kd_mlflow.table import sources
from kd_mlflow.table.delimited import delimited_parts
from kd_mlflow.table.encoding import Encoding
from kd_mlflow.table.fitting import Column
from kd_mlflow.table.forms import PLAIN, read_by
from kd_mlflow.table.groups import check_named, column_names
from kd_mlflow.table.hashing import Codes, row_hashes, table_digest
from kd_mlflow.table.kinds import Typed, readings, typed
from kd_mlflow.table.labels import numbered_labels

PART_ROWS, PART_VALUES = 1 << 16, 1 << 23
"""Most rows of a part, and most values of one of many columns: bounds what it takes of memory."""

Part = tuple[pd.DataFrame, pa.Table]
"""The columns that a model takes, numbered by the table's rows, and those that are kept."""


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
        values, kept = self._kept(columns)
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

    def hashes(self, columns: Sequence[str]) -> Codes:
        """Each row's hash by some columns, as training has it of an equal row.  Shape: (n,)."""
        return row_hashes(self._kept(columns)[0])

    def _kept(self, columns: Sequence[str]) -> tuple[pd.DataFrame, dict[str, Typed]]:
        """Columns as training reads them, as a table and by name."""
        kept = {name: self._typed(name) for name in columns}
        values = {name: column.values for name, column in kept.items()}
        return pd.DataFrame(values, copy=False), kept

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
    texts = as_written(encoding.columns if encoding else ())
    if encoding and not GAP_TEXTS.isdisjoint(map(str, encoding.classes)):
        texts[options.target] = True
    origin, frame = sources.open_source(options.data, options.separator, options.decimal, texts)
    target = options.target or origin.target
    sources.check_columns(frame, origin.name, target)
    return ScoredRows(
        name=origin.name,
        source=origin.source,
        target=target,
        features=frame.drop(columns=target) if target else frame,
        labels=frame[target] if target else None,
        known={column.name: column for column in encoding.columns} if encoding else {},
    )


def as_written(columns: Sequence[Column]) -> dict[str, bool]:
    """Columns of a CSV file that stay as they are written, and whether NA is a text in each."""
    written = (c for c in columns if c.form.literal or reads_texts(c.to_dict()))
    return {column.name: column.form.literal for column in written}


@dataclass(frozen=True)
class TableParts:
    """A table to be scored, and what is kept of it.

    ``read`` starts a reading of its parts; ``kept`` are the names of the columns to keep.
    """

    name: str
    rows: int
    kept: tuple[str, ...]
    read: Callable[[], Iterator[Part]]


def part_rows(columns: int) -> int:
    """Rows of a part: as many as a model scores at once, several times.

    A model's last digits depend on the rows that it scores together: these are the same in parts.
    """
    rows = min(PART_ROWS, PART_VALUES // max(1, columns))
    return max(1, rows // ROWS_AT_ONCE) * ROWS_AT_ONCE


def table_parts(data: Any, encoding: Encoding, keep: str, **marks: str) -> TableParts:
    """Find a table; ``marks`` are separator and decimal mark of a CSV file, empty to be found.

    ``keep`` are the names of columns with commas. Raises DataError for whatever is wrong with it.
    """
    if not isinstance(data, str | Path) or data in sources.BUILT_IN:
        found = sources.open_source(data, marks["separator"], marks["decimal"])
        table = _of_frame(*found, encoding, keep)
    elif sources.is_csv(path := sources.existing_file(data)):
        table = _of_csv(path, encoding, keep, marks)
    else:
        sources.refuse_csv_options(path.name, **marks)
        table = _of_parquet(path, encoding, keep)
    if not table.rows:
        raise DataError(f"{table.name} has a header and no rows")
    return table


def _of_frame(
    origin: sources.Origin, frame: pd.DataFrame, encoding: Encoding, keep: str
) -> TableParts:
    needed, kept = _columns(origin.name, list(frame.columns), encoding, keep)
    step = part_rows(len(needed))

    def read() -> Iterator[Part]:
        held = _arrow(frame[kept])
        for start in range(0, len(frame), step):
            yield frame[needed].iloc[start : start + step], held.slice(start, step)

    return TableParts(origin.name, len(frame), tuple(kept), read)


def _of_csv(path: Path, encoding: Encoding, keep: str, marks: dict[str, str]) -> TableParts:
    step = part_rows(len(encoding.columns))
    parts = delimited_parts(path, step, **marks)
    needed, kept = _columns(path.name, parts.columns, encoding, keep)

    def read() -> Iterator[Part]:
        features = parts.read(needed, as_written(encoding.columns))
        if not kept:
            yield from ((frame, _arrow(frame[[]])) for frame in features)
            return
        for frame, held in zip(features, parts.as_written(kept), strict=True):
            yield frame, _arrow(held[kept])

    return TableParts(path.name, parts.rows, tuple(kept), read)


def _of_parquet(path: Path, encoding: Encoding, keep: str) -> TableParts:
    try:
        file = parquet.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"not a Parquet file: {path} ({first_line(error)})") from None
    needed, kept = _columns(path.name, file.schema_arrow.names, encoding, keep)
    step = part_rows(len(needed))

    def read() -> Iterator[Part]:
        start, names = 0, list(dict.fromkeys((*needed, *kept)))
        try:
            for table in _whole_parts(file.iter_batches(step, columns=names), step):
                frame = sources.with_named_index(table.select(needed).to_pandas(), path.name)
                frame.index = pd.RangeIndex(start, start + len(frame))
                start += len(frame)
                yield frame, table.select(kept).replace_schema_metadata()
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"not a readable Parquet file: {path} ({first_line(error)})") from None

    return TableParts(path.name, file.metadata.num_rows, tuple(kept), read)


def _whole_parts(batches: Iterator[pa.RecordBatch], step: int) -> Iterator[pa.Table]:
    """Parts of so many rows each, but for the last one, whatever the file's own groups are."""
    rest = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        rest = table if rest is None else pa.concat_tables([rest, table])
        while rest.num_rows >= step:
            yield rest.slice(0, step)
            rest = rest.slice(step)
    if rest is not None and rest.num_rows:
        yield rest


def _columns(
    table: str, columns: Sequence[str], encoding: Encoding, keep: str
) -> tuple[list[str], list[str]]:
    """The columns that a model takes, and those to be kept; DataError where one is missing."""
    columns = list(map(str, columns))
    if len(set(columns)) < len(columns):
        raise DataError(f"duplicate columns in {table}: {', '.join(map(repr, columns))}")
    needed = [column.name for column in encoding.columns]
    if absent := [name for name in needed if name not in columns]:
        raise DataError(
            f"{table} lacks columns that the model takes: {', '.join(map(repr, absent))}; it has: "
            f"{', '.join(map(repr, columns))}"
        )
    kept = column_names(keep, columns)
    check_named(kept, "keep", columns, "")
    return needed, kept


def _arrow(frame: pd.DataFrame) -> pa.Table:
    """Columns as Arrow keeps them; their types are those of the table's own."""
    try:
        return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata()
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(f"a column cannot be kept: {first_line(error)}") from None


@contextmanager
def scored_file(path: Path) -> Iterator[Callable[[pa.Table], None]]:
    """Write parts of a table, all of the first one's columns; the suffix says in which format.

    They go to a file beside it, which takes its place at the end: a process that is killed leaves
    what was there before. Raises DataError where it cannot be written.
    """
    half = path.with_name(f".{path.name}.{os.getpid()}.half")
    schemas: list[pa.Schema] = []
    writers: list[csv.CSVWriter | parquet.ParquetWriter] = []
    make = parquet.ParquetWriter if path.suffix.lower() in sources.PARQUET else csv.CSVWriter

    def write(part: pa.Table) -> None:
        with _written(path):
            if not writers:
                schemas.append(part.schema)
                writers.append(make(half, part.schema))
            writers[0].write_table(part.cast(schemas[0]))

    try:
        with _written(path):
            half.touch(exist_ok=False)
        yield write
        with _written(path):
            for writer in writers:
                writer.close()
            os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be written: {first_line(error)}") from None
