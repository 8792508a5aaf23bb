"""A CSV file in parts: looked through once, so that each is read as the whole file would be."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from kd_mlflow.serving.scoring import GAP_TEXTS
from kd_mlflow.table.delimited import ONLY_EMPTY, DelimitedFile, in_its_encoding, say_what_was_found
from kd_mlflow.table.numerals import (
    TEXT,
    Marks,
    cells_by_kind,
    column_in_small,
    decimal_commas,
    find_marks,
    use_marks,
)

KINDS = {"i": "number", "u": "number", "f": "number", "b": "truth", "O": "truth"}
"""What a part's column holds by its type, with gaps too; a column of several is text."""


class _Look(NamedTuple):
    """What a look through a file found: rows, columns of text, its decimal mark, other marks."""

    file: DelimitedFile
    rows: int
    texts: list[str]
    decimal: str
    marks: Marks


class DelimitedParts:
    """A CSV file, read some rows at a time; ``separator`` and ``decimal`` are found where empty.

    Raises DataError for a file that is no text, or that has rows longer than its header.
    """

    def __init__(self, path: Path, at_once: int, *, separator: str, decimal: str) -> None:
        self.at_once = at_once
        self.found = in_its_encoding(
            path, separator, lambda file: self._look(file, separator, decimal)
        )
        self.rows, self.columns = self.found.rows, self.found.file.layout.names

    def read(
        self, names: Sequence[str], *, texts: Collection[str], literal: Collection[str]
    ) -> Iterator[pd.DataFrame]:
        """Some columns, as ``read_delimited`` gives them.

        ``texts`` stay as they are written, in those that are ``literal`` NA is a text too.
        """
        found = self.found
        written = {*texts, *literal, *found.texts}
        options = {
            "usecols": names,
            "decimal": found.decimal,
            "dtype": {name: str for name in names if name in written},
            "keep_default_na": False,
            "na_values": {n: [""] if n in literal else sorted(GAP_TEXTS) for n in names},
        }
        marks = found.marks
        numbers = {n: m for n, m in marks.numbers.items() if n in names and n not in texts}
        pointed = [n for n in marks.pointed if n in names and n not in literal]
        for part in self._parts(found.file, **options):
            use_marks(part, Marks(numbers=numbers, pointed=pointed), found.decimal)
            yield part

    def as_written(self, names: Sequence[str]) -> Iterator[pd.DataFrame]:
        """Some columns as texts; only an empty cell is a gap."""
        return self._parts(self.found.file, usecols=names, dtype=str, **ONLY_EMPTY)

    def _parts(self, file: DelimitedFile, **options: Any) -> Iterator[pd.DataFrame]:
        with file.read(low_memory=False, chunksize=self.at_once, **options) as parts:
            while True:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", pd.errors.ParserWarning)
                    part = next(parts, None)
                if part is None:
                    return
                yield part

    def _look(self, file: DelimitedFile, separator: str, decimal: str) -> _Look:
        """Find what only the whole file says: which columns are text, and the marks in numbers."""
        mark = decimal or "."
        rows, kinds = 0, {name: set[str]() for name in file.layout.names}
        for part in self._parts(file, decimal=mark):
            rows += len(part)
            for name, held in kinds.items():
                if not part[name].isna().all():
                    dtype = part[name].dtype
                    held.add("text" if isinstance(dtype, pd.StringDtype) else KINDS[dtype.kind])
        texts = [name for name, held in kinds.items() if "text" in held or len(held) > 1]
        marks, alone = Marks(), not decimal and file.layout.separator == ","
        if texts and not alone:
            small = self._in_small(file, texts)
            if not decimal and decimal_commas(small):
                mark, texts = ",", [name for name, held in kinds.items() if held != {"truth"}]
                small = self._in_small(file, texts)
            marks = find_marks(small, mark, given=bool(decimal))
        name, shown = file.path.name, "," if separator else file.layout.separator
        say_what_was_found(name, shown, marks)
        return _Look(file, rows, texts, mark, marks)

    def _in_small(self, file: DelimitedFile, names: Sequence[str]) -> pd.DataFrame:
        """A few rows of texts, whose columns are read as those of the whole file are."""
        kinds: dict[str, dict[int, tuple[str, int]]] = {name: {} for name in names}
        for part in self._parts(file, usecols=names, dtype=str):
            for name in names:
                seen = kinds[name]
                cells = pa.array(part[name], pa.string(), from_pandas=True)
                for kind, (text, count) in cells_by_kind(cells).items():
                    first, before = seen.get(kind, (text, 0))
                    seen[kind] = first, before + count
        columns = {name: pa.array(column_in_small(kinds[name]), pa.string()) for name in names}
        series = {name: texts.to_pandas(types_mapper=TEXT) for name, texts in columns.items()}
        return pd.DataFrame(series, columns=list(names))
