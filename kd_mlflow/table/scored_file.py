"""A file of scored rows, written in parts: it is there when all are, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, parquet

from kd_mlflow.errors import DataError, first_line
from kd_mlflow.table.files import PARQUET


@contextmanager
def scored_file(path: Path) -> Iterator[Callable[[pa.Table], None]]:
    """Write parts of a table, all of the first one's columns; the suffix says in which format.

    They go to a file beside it, which takes its place at the end: a process that is killed leaves
    what was there before. Raises DataError where it cannot be written.
    """
    half = path.with_name(f".{path.name}.{os.getpid()}.half")
    schemas: list[pa.Schema] = []
    writers: list[csv.CSVWriter | parquet.ParquetWriter] = []
    make = parquet.ParquetWriter if path.suffix.lower() in PARQUET else csv.CSVWriter

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
