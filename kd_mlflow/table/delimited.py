"""CSV files as tables: read whole, then decimal commas, thousands and large numbers put right."""

from __future__ import annotations

import logging
import shlex
import warnings
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa

from kd_mlflow.config.rules import SEPARATORS
from kd_mlflow.errors import DataError, first_line
from kd_mlflow.table import numerals
from kd_mlflow.table.layout import (
    Layout,
    TextEncoding,
    find_layout,
    first_encoding,
    guessed_encoding,
)

_log = logging.getLogger(__name__)

FIRST_ROWS = 2000
"""Rows that mostly show a decimal comma, so that a file is read once."""

ROWS_AT_ONCE = 1 << 18
"""Columns that are read again come in such parts, or a large file would be in memory twice."""

MANY_GAPS = 0.1
"""Share of a column's cells; a word for a gap that stands in so many may be a category."""

ONLY_EMPTY: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}

GUESSES = {"cp1252": "Windows-1252 (cp1252)", "latin-1": "Latin-1"}

UNREADABLE = (
    pd.errors.ParserError,
    pd.errors.ParserWarning,
    pd.errors.EmptyDataError,
    OSError,
    EOFError,
    zlib.error,
)


T = TypeVar("T")


@dataclass(frozen=True)
class DelimitedFile:
    """A CSV file whose layout is known."""

    path: Path
    layout: Layout

    def read(self, **options: Any) -> Any:
        """Read with pandas: a DataFrame, or parts of one.

        pandas reads floats exactly from 3.1 on, a decimal comma or not.
        """
        return pd.read_csv(
            self.path,
            encoding=self.layout.encoding.name,
            encoding_errors=self.layout.encoding.errors,
            sep=self.layout.separator,
            names=self.layout.names,
            header=0,
            index_col=False,
            **options,
        )

    def frame(self, decimal: str, rows: int | None = None) -> pd.DataFrame:
        """Read all columns, every row before types are decided; never shift or cut a row.

        Empty columns without a name are left out: separators that end each line.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame: pd.DataFrame = self.read(low_memory=False, decimal=decimal, nrows=rows)
        empty = [name for name in self.layout.blank if frame[name].isna().all()]
        return frame.drop(columns=empty) if empty else frame

    def texts(self, names: list[str], **options: Any) -> pd.DataFrame:
        """Read some columns again, as they are written."""
        with self.read(usecols=names, dtype=str, chunksize=ROWS_AT_ONCE, **options) as parts:
            frame: pd.DataFrame = pd.concat(parts)
        return frame


def read_delimited(
    path: Path,
    separator: str = "",
    decimal: str = "",
    texts: Collection[str] = (),
    literal: Collection[str] = (),
) -> pd.DataFrame:
    """Read a CSV file; find its encoding, and separator and decimal mark where none is given.

    Columns named in ``texts`` stay text where all of it could be read as numbers or truth values;
    in those that are ``literal`` only an empty cell is a gap, not NA.
    A line in the log says what was found but commas between cells and points in numbers.
    Raises DataError for a file that is no text, or that has rows longer than its header.
    """

    def read(file: DelimitedFile) -> pd.DataFrame:
        return _with_texts(_read(file, separator, decimal), file, texts, literal)

    return in_its_encoding(path, separator, read)


def in_its_encoding(path: Path, separator: str, use: Callable[[DelimitedFile], T]) -> T:
    """Use a CSV file whose encoding is found, which takes a reading of all of it.

    A line in the log says which one where it is no UTF-8. Raises DataError for a file that is no
    text, or that has rows longer than its header.
    """

    def read(encoding: TextEncoding) -> T:
        return use(DelimitedFile(path, find_layout(path, encoding, separator)))

    try:
        encoding = first_encoding(path)
        try:
            return read(encoding)
        except UnicodeError:  # a half letter of UTF-16, or no UTF-8
            if encoding.name != "utf-8-sig":
                raise DataError(f"not a text file in UTF-8 or UTF-16: {path}") from None
        encoding, lost = guessed_encoding(path)
        found = read(encoding)
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    told = f"; {lost:,} of its characters are lost" if lost else ""
    if encoding.errors == "replace":
        _log.warning("%s: read as UTF-8 with mistakes in it%s", path.name, told)
    else:
        _log.warning(
            "%s: no UTF-8, its encoding was guessed: %s%s; save it as UTF-8 if texts look wrong",
            path.name,
            GUESSES[encoding.name],
            told,
        )
    return found


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = first_line(error).removeprefix("Error tokenizing data. C error: ")
    if isinstance(error, pd.errors.ParserWarning):
        reason = "its rows have more cells than the header names"
    if isinstance(error, pd.errors.ParserError | pd.errors.ParserWarning):
        reason += "; give separator=... if another character separates its cells"
    return DataError(f"not a readable CSV file: {path} ({reason})")


def _read(file: DelimitedFile, separator: str, decimal: str) -> pd.DataFrame:
    marks = numerals.Marks()
    if decimal:
        frame = file.frame(decimal)
        marks = numerals.read_texts(frame, decimal, given=True)
    elif file.layout.separator == ",":
        frame = file.frame(".")
    else:
        frame, certain = _with_mark_found(file)
        commas = numerals.with_fractions(frame, certain) if certain else []
        marks = numerals.read_texts(frame, "," if certain else ".", given=False)
        marks.decimal_comma += commas
    _read_large(frame, file)
    say_what_was_found(file.path.name, "," if separator else file.layout.separator, marks)
    return frame


def say_what_was_found(file: str, separator: str, marks: numerals.Marks) -> None:
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


def _with_texts(
    frame: pd.DataFrame, file: DelimitedFile, texts: Collection[str], literal: Collection[str]
) -> pd.DataFrame:
    """The table with some columns read again as they are written, if they became anything else."""
    others = [n for n in texts if n in frame and n not in literal]
    names = [n for n in others if not isinstance(frame[n].dtype, pd.StringDtype)]
    _tell_codes(frame, file, {*texts, *literal})
    frame = frame.assign(**file.texts(names)) if names else frame
    _tell_gap_words(frame, file, {*texts, *literal})
    names = [n for n in literal if n in frame]
    return frame.assign(**file.texts(names, **ONLY_EMPTY)) if names else frame


def _tell_gap_words(frame: pd.DataFrame, file: DelimitedFile, told: Collection[str]) -> None:
    """Warn of words such as NA that became so many gaps of a text column that they may be meant."""
    texts = frame.select_dtypes(["string", "object"]).columns.difference([*told])
    gaps = frame[texts].isna()
    names = [name for name in texts if gaps[name].mean() >= MANY_GAPS]
    written = file.texts(names, **ONLY_EMPTY) if names else frame[[]]
    for name in names:
        words = written[name][gaps[name]].value_counts()
        if words.sum() >= MANY_GAPS * len(frame):
            _log.warning(
                "column %r: %s of its cells say %r and are gaps; --column %s keeps such texts",
                name,
                f"{words.iloc[0]:,}",
                words.index[0],
                shlex.quote(f"{name}=category"),
            )


def _tell_codes(frame: pd.DataFrame, file: DelimitedFile, texts: Collection[str]) -> None:
    """Warn of numbers that are written as codes, with zeros ahead."""
    for name in file.layout.codes:
        if name in frame and name not in texts and pd.api.types.is_numeric_dtype(frame[name]):
            _log.warning(
                "column %r: written with zeros ahead, such as 007, and read as numbers; "
                "--column %s keeps the zeros",
                name,
                shlex.quote(f"{name}=text"),
            )


def _with_mark_found(file: DelimitedFile) -> tuple[pd.DataFrame, list[str]]:
    """Read a file with the decimal mark found in it, and name the columns that decided on a comma.

    These hold numbers such as 3,14, which no point explains. One is enough: then every column is
    read with a comma, and 1,234 is 1.234. Without such a column the mark is a point.
    """
    if certain := numerals.decimal_commas(file.frame(".", rows=FIRST_ROWS)):
        frame = file.frame(",")
        if any(numerals.is_number(frame[name], ",") for name in certain):
            return frame, certain
        del frame  # two of a large one are more than memory
    frame = file.frame(".")
    if certain := numerals.decimal_commas(frame):
        del frame
        frame = file.frame(",")
    return frame, certain


def _read_large(frame: pd.DataFrame, file: DelimitedFile) -> None:
    """Read large whole numbers beside gaps again, in place: pandas rounds them to float64."""
    names = [name for name in frame.columns if numerals.may_be_rounded(frame[name])]
    if not names:
        return
    texts = file.texts(names)
    for name in names:
        if (whole := numerals.whole_numbers(pa.array(texts[name], from_pandas=True))) is not None:
            frame[name] = whole
