"""CSV files as tables: looked through once, so that a part is read as the whole file would be.

Decimal commas, thousands and large numbers are put right.
"""

from __future__ import annotations

import logging
import sys
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pandas.errors import EmptyDataError, ParserError, ParserWarning

from kd_mlflow.config.rules import SEPARATORS
from kd_mlflow.errors import DataError, first_line
from kd_mlflow.serving.scoring import GAP_TEXTS
from kd_mlflow.table import layout, numerals
from kd_mlflow.table.kinds import option_of
from kd_mlflow.table.layout import Layout, TextEncoding

_log = logging.getLogger(__name__)

WHOLE = sys.maxsize
"""Rows of a part that is the whole file."""

FIRST_ROWS = 2000
"""Rows that mostly show a decimal comma, so that few are looked at twice."""

ROWS_AT_ONCE = 1 << 18
"""Columns that are read again come in such parts, or a large file would be in memory twice."""

MANY_GAPS = 0.1
"""Share of a column's cells; a word for a gap that stands in so many may be a category."""

ONLY_EMPTY: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}

KINDS = {"i": "number", "u": "number", "f": "number", "b": "truth", "O": "truth"}
"""What a part's column holds by its type, with gaps too; a column of several is text."""

GUESSED = "no UTF-8, its encoding was guessed: {}{{}}; save it as UTF-8 if texts look wrong"
GUESSES = {
    "utf-8-sig": "read as UTF-8 with mistakes in it{}",
    "cp1252": GUESSED.format("Windows-1252 (cp1252)"),
    "latin-1": GUESSED.format("Latin-1"),
}
"""What is said of each encoding that is guessed, and of the characters that are lost."""

UNREADABLE = (ParserError, ParserWarning, EmptyDataError, OSError, EOFError, zlib.error)


@dataclass(frozen=True)
class DelimitedParts:
    """A CSV file that was looked through, read some rows at a time.

    ``texts`` are its columns of text, ``decimal`` is its decimal mark, ``marks`` are others.
    """

    file: Layout
    at_once: int
    rows: int
    columns: list[str]
    texts: list[str]
    decimal: str
    marks: numerals.Marks

    def read(self, names: Sequence[str], texts: Mapping[str, bool]) -> Iterator[pd.DataFrame]:
        """Some columns, each of the type that the whole file says.

        ``texts`` stay as they are written; where it is true NA is a text too.
        """
        marks = self.marks
        options = {
            "usecols": names,
            "decimal": self.decimal,
            "dtype": {name: str for name in names if name in {*texts, *self.texts}},
            "keep_default_na": False,
            "na_values": {n: [""] if texts.get(n) else sorted(GAP_TEXTS) for n in names},
        }
        numbers = {n: m for n, m in marks.numbers.items() if n in names and n not in texts}
        pointed = [n for n in marks.pointed if n in names and not texts.get(n)]
        for part in self.file.parts(self.at_once, **options):
            numerals.use_marks(part, numbers, pointed, self.decimal)
            yield part

    def as_written(self, names: Sequence[str]) -> Iterator[pd.DataFrame]:
        """Some columns as texts; only an empty cell is a gap."""
        return self.file.parts(self.at_once, usecols=names, dtype=str, **ONLY_EMPTY)


def delimited_parts(path: Path, at_once: int, *, separator: str, decimal: str) -> DelimitedParts:
    """Look through a CSV file; ``separator`` and ``decimal`` are found where empty.

    So is its encoding. A line in the log says which one it is where it is no UTF-8, another what
    was found but commas between cells and points in numbers.
    Raises DataError for a file that is no text, or that has rows longer than its header.
    """

    def read(encoding: TextEncoding) -> DelimitedParts:
        return _look(layout.find_layout(path, encoding, separator), at_once, separator, decimal)

    try:
        encoding = layout.first_encoding(path)
        try:
            return read(encoding)
        except UnicodeError:  # a half letter of UTF-16, or no UTF-8
            if encoding.name != "utf-8-sig":
                raise DataError(f"not a text file in UTF-8 or UTF-16: {path}") from None
        encoding, lost = layout.guessed_encoding(path)
        found = read(encoding)
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    told = f"; {lost:,} of its characters are lost" if lost else ""
    _log.warning("%s: %s", path.name, GUESSES[encoding.name].format(told))
    return found


def read_delimited(
    path: Path, texts: Mapping[str, bool], separator: str = "", decimal: str = ""
) -> pd.DataFrame:
    """Read all of a CSV file, as ``delimited_parts`` says; large whole numbers stay exact.

    Columns named in ``texts`` stay text where all of it could be read as numbers or truth values;
    where it is true only an empty cell is a gap, not NA. A line in the log says which
    cells may have been misread.
    Raises DataError for a file that is no text, or that has rows longer than its header.
    """
    parts = delimited_parts(path, WHOLE, separator=separator, decimal=decimal)
    (frame,) = parts.read(parts.columns, texts)
    for look in (_read_large, _tell_codes, _tell_gap_words):
        look(frame, parts.file, texts)
    return frame


def _look(file: Layout, at_once: int, separator: str, decimal: str) -> DelimitedParts:
    """Find what only the whole file says: which columns are text, and the marks in numbers.

    Where a column of text can only be of decimal commas, all are read with a comma.
    """
    mark, marks = decimal or ".", numerals.Marks()
    rows, columns, texts = _columns(file, mark)
    if texts and (decimal or file.separator != ","):
        pointed = texts
        for most in (FIRST_ROWS, None):
            kinds = _kinds_of_text(file, pointed, most)
            if not decimal and (certain := numerals.decimal_commas(kinds)):
                *_, left = _columns(file, ",")
                if most is None or not set(certain) <= set(left):
                    mark, texts, kinds = ",", left, _kinds_of_text(file, left)
                    break
        marks = numerals.find_marks(kinds, mark, given=bool(decimal))
        marks.decimal_comma += [name for name in pointed if name not in texts]
    _say_what_was_found(file.path.name, "," if separator else file.separator, marks)
    return DelimitedParts(file, at_once, rows, columns, texts, mark, marks)


def _columns(file: Layout, decimal: str) -> tuple[int, list[str], list[str]]:
    """How many rows a file has, its columns, and those that are text with a decimal mark.

    Empty columns without a name are left out: separators that end each line.
    """
    rows, kinds = 0, {name: set[str]() for name in file.names}
    for part in file.parts(ROWS_AT_ONCE, decimal=decimal):
        rows += len(part)
        for name, held in kinds.items():
            if not part[name].isna().all():
                dtype = part[name].dtype
                held.add("text" if isinstance(dtype, pd.StringDtype) else KINDS[dtype.kind])
    columns = [name for name, held in kinds.items() if held or name not in file.blank]
    texts = [name for name, held in kinds.items() if "text" in held or len(held) > 1]
    return rows, columns, texts


def _kinds_of_text(
    file: Layout, names: Sequence[str], most: int | None = None
) -> dict[str, numerals.Kinds]:
    """What the texts of some columns can be, in so many rows or all."""
    kinds: dict[str, numerals.Kinds] = {name: {} for name in names}
    for part in file.parts(ROWS_AT_ONCE, usecols=names, dtype=str, nrows=most) if names else ():
        for name in names:
            cells = pa.array(part[name], pa.string(), from_pandas=True)
            for kind, (text, count) in numerals.cells_by_kind(cells).items():
                first, before = kinds[name].get(kind, (text, 0))
                kinds[name][kind] = first, before + count
    return kinds


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = first_line(error).removeprefix("Error tokenizing data. C error: ")
    if isinstance(error, ParserWarning):
        reason = "its rows have more cells than the header names"
    if isinstance(error, ParserError | ParserWarning):
        reason += "; give separator=... if another character separates its cells"
    return DataError(f"not a readable CSV file: {path} ({reason})")


def _say_what_was_found(file: str, separator: str, marks: numerals.Marks) -> None:
    """Log a line about a file that is not commas between cells and points in numbers.

    Another about each column of numbers that stays text.
    """
    words = {mark: word for word, mark in SEPARATORS.items()}
    found = [] if separator == "," else [f"separator {words[separator]}"]
    for mark, names in (
        ("decimal comma", marks.decimal_comma),
        ("thousands comma", marks.thousands[","]),
        ("thousands point", marks.thousands["."]),
    ):
        found += [f"{mark} in {', '.join(map(repr, names))}"] if names else []
    if found:
        _log.warning(
            "%s: found %s; the options separator and decimal overrule it", file, "; ".join(found)
        )
    for name, text in marks.left.items():
        _log.warning(
            "column %r stays text: nearly all of it are numbers with commas, %r is none", name, text
        )


def _texts(file: Layout, names: list[str], **options: Any) -> pd.DataFrame:
    """Read some columns again, as they are written."""
    if not names:
        return pd.DataFrame()
    return pd.concat(file.parts(ROWS_AT_ONCE, usecols=names, dtype=str, **options))


def _tell_gap_words(frame: pd.DataFrame, file: Layout, told: Collection[str]) -> None:
    """Warn of words such as NA that became so many gaps of a text column that they may be meant."""
    texts = frame.select_dtypes(["string", "object"]).columns.difference([*told])
    gaps = frame[texts].isna()
    names = [name for name in texts if gaps[name].mean() >= MANY_GAPS]
    written = _texts(file, names, **ONLY_EMPTY)
    for name in names:
        words = written[name][gaps[name]].value_counts()
        if words.sum() >= MANY_GAPS * len(frame):
            _log.warning(
                "column %r: %s of its cells say %r and are gaps; %s keeps such texts",
                name,
                f"{words.iloc[0]:,}",
                words.index[0],
                option_of(name, "category"),
            )


def _tell_codes(frame: pd.DataFrame, file: Layout, texts: Collection[str]) -> None:
    """Warn of numbers that are written as codes, with zeros ahead."""
    for name in file.codes:
        if name in frame and name not in texts and pd.api.types.is_numeric_dtype(frame[name]):
            _log.warning(
                "column %r: written with zeros ahead, such as 007, and read as numbers; "
                "%s keeps the zeros",
                name,
                option_of(name, "text"),
            )


def _read_large(frame: pd.DataFrame, file: Layout, told: Collection[str]) -> None:
    """Read large whole numbers beside gaps again, in place: pandas rounds them to float64."""
    others = [name for name in frame.columns if name not in told]
    names = [name for name in others if numerals.may_be_rounded(frame[name])]
    texts = _texts(file, names)
    for name in names:
        if (whole := numerals.whole_numbers(pa.array(texts[name], from_pandas=True))) is not None:
            frame[name] = whole
