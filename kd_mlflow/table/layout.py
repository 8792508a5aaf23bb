"""How a CSV file is written: its encoding, separator and header, found in its first records."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pandas as pd

from kd_mlflow.config.rules import SEPARATORS
from kd_mlflow.errors import DataError

FOUND = "\t;|,"
"""Separators that are looked for.  Of two that fit alike the first: texts hold commas."""

SAMPLE_CHARACTERS = 1 << 20
SAMPLE_RECORDS = 2000
"""A separator is found in so much of a file, whichever ends first."""

NEARLY_ALL = 0.9
"""Share of records that must have the header's cells: a few ragged ones do not hide a separator."""

NOT_IN_1252 = [0x81, 0x8D, 0x8F, 0x90, 0x9D]
"""Bytes that are no characters of Windows-1252."""

PARTS = 1 << 20
"""Bytes read at once where a whole file is looked at."""

CODE = re.compile(r"\s*0\d+\s*", re.ASCII)
"""A number that loses its zeros where it is read as one."""

ONE_COLUMN = (
    ": its first line must name two or more with comma, semicolon, tab or | between them; give "
    "separator=... for another character"
)
ONE_COLUMN_GIVEN = ", with the given separator {!r}; give the one it has, or none to have it found"

Record = list[str]


class TextEncoding(NamedTuple):
    """How a file's bytes are text, and what ``errors`` are to become: an error, or U+FFFD."""

    name: str
    errors: str = "strict"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Encoding, separator and names of a CSV file; ``blank`` are columns whose name is empty.

    ``codes`` are columns that have whole numbers with zeros ahead, such as 007, in the first rows.
    """

    path: Path
    encoding: TextEncoding
    separator: str
    names: list[str]
    blank: list[str]
    codes: list[str]

    def parts(self, at_once: int, **options: Any) -> Iterator[pd.DataFrame]:
        """Read the file, some rows at a time; never shift or cut a row.

        pandas reads floats exactly from 3.1 on, a decimal comma or not.
        """
        parts = pd.read_csv(
            self.path,
            encoding=self.encoding.name,
            encoding_errors=self.encoding.errors,
            sep=self.separator,
            names=self.names,
            header=0,
            index_col=False,
            low_memory=False,
            chunksize=at_once,
            **options,
        )
        with parts:
            while True:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", pd.errors.ParserWarning)
                    part = next(parts, None)
                if part is None:
                    return
                yield part
                del part  # or two large ones would be in memory


def first_encoding(path: Path) -> TextEncoding:
    """The encoding to try first: UTF-16 by its mark or its zeros, else UTF-8."""
    with _open(path, "rb") as file:
        head = file.read(4096)
    if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return TextEncoding("utf-16")
    for place, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros, others = (head[start::2].count(0) for start in (place, 1 - place))
        if zeros > len(head) // 4 and not others:
            return TextEncoding(name)
    return TextEncoding("utf-8-sig")


def guessed_encoding(path: Path) -> tuple[TextEncoding, int]:
    """The likeliest encoding of a file that is no UTF-8, and how many characters it loses.

    UTF-8 with mistakes where most of its other characters are whole; else Windows-1252, in which
    five bytes are no characters, or where it has one of these Latin-1, in which they are controls.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    characters = broken = 0
    counts = np.zeros(256, dtype=np.int64)
    with _open(path, "rb") as file:
        while part := file.read(PARTS):
            text = decoder.decode(part)
            characters, broken = characters + len(text), broken + text.count("\ufffd")
            counts += np.bincount(np.frombuffer(part, dtype=np.uint8), minlength=256)
    whole, controls = characters - broken - counts[:128].sum(), int(counts[NOT_IN_1252].sum())
    if whole > broken:
        return TextEncoding("utf-8-sig", "replace"), broken
    return (TextEncoding("latin-1"), controls) if controls else (TextEncoding("cp1252"), 0)


def find_layout(path: Path, encoding: TextEncoding, separator: str = "") -> Layout:
    """Find how a file is written; a separator that is given is taken.

    Raises DataError for a file of one column, of blank lines, of doubled names or of binary data.
    """
    best, records = _best(path, encoding, SEPARATORS.get(separator, separator) or FOUND)
    if len(_without_blank_end(records[0])) < 2:
        raise DataError(
            f"{path.name} has one column, {records[0][0][:80]!r}"
            + (ONE_COLUMN_GIVEN.format(separator) if separator else ONE_COLUMN)
        )
    if records[1:] and all(len(each) == 1 for each in records[1:]):
        raise DataError(
            f"the header of {path.name} names {len(records[0])} columns and its rows have one "
            f"cell with separator {best!r}, such as {records[1][0][:80]!r}; give separator=... "
            "for another, or mend the header"
        )
    names = [name or f"Unnamed: {i}" for i, name in enumerate(records[0])]
    if doubled := sorted(name for name, times in Counter(names).items() if times > 1):
        raise DataError(f"duplicate columns in {path.name}: {', '.join(map(repr, doubled))}")
    blank = [name for name, written in zip(names, records[0], strict=True) if not written]
    cells = zip(*(each for each in records[1:] if len(each) >= len(names)), strict=False)
    codes = [
        name for name, each in zip(names, cells, strict=False) if any(map(CODE.fullmatch, each))
    ]
    return Layout(
        path=path, encoding=encoding, separator=best, names=names, blank=blank, codes=codes
    )


def _best(path: Path, encoding: TextEncoding, separators: str) -> tuple[str, list[Record]]:
    """The separator that fits best, and the first records with it."""
    sample, whole = _sample(path, encoding)
    for strict in (True, False):
        read = {each: _records(sample, each, whole, strict=strict) for each in separators}
        if any(read.values()):
            best = max(read, key=lambda each: _fit(read[each]))
            return best, read[best]
    raise DataError(f"not a readable CSV file: {path} (it holds blank lines alone)")


def _open(path: Path, mode: str, **options: Any) -> IO[Any]:
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    file: IO[Any] = opener(path, mode, **options)
    return file


def _sample(path: Path, encoding: TextEncoding) -> tuple[str, bool]:
    """The first lines of a file, and whether they are all of it."""
    with _open(path, "rt", encoding=encoding.name, errors=encoding.errors, newline="") as file:
        head = file.read(SAMPLE_CHARACTERS)
        if "\0" in head:
            raise DataError(f"not a readable CSV file: {path} (it holds binary data)")
        head += file.readline()
        return head, not file.read(1)


def _records(sample: str, separator: str, whole: bool, *, strict: bool) -> list[Record]:
    """The first records of a sample, blank lines left out and the last one if it may be cut.

    Strictly they end where a quoted cell ends before its separator, as it does with a wrong one.
    """
    records: list[Record] = []
    lines = io.StringIO(sample, newline="")
    reader = csv.reader(lines, delimiter=separator, strict=strict)
    try:
        for record in islice(reader, SAMPLE_RECORDS):
            if len(record) > 1 or any(map(str.strip, record)):
                records.append(record)
        cut = not whole and next(reader, None) is None
    except csv.Error:  # or a cell is longer than the reader takes: what stands before it counts
        cut = False
    return records[:-1] if cut and len(records) > 1 else records


def _fit(records: list[Record]) -> tuple[bool, int, int]:
    """Whether nearly all records have the cells that the first one names; how many cells, records.

    Separators that end a line name no cell.

    Not ``csv.Sniffer``, which pandas asks too (``sep=None``): it takes the neighbour of a quote for
    the separator, a comma in ``['a', 'b'];1`` and a semicolon in ``"say ""a;b"";c",1``.
    """
    if not records:
        return False, 0, 0
    most = len(records[0])
    least = len(_without_blank_end(records[0]))
    agree = sum(len(each) >= least and not any(each[most:]) for each in records)
    return least > 1 and agree >= NEARLY_ALL * len(records), least, agree


def _without_blank_end(record: Record) -> Record:
    return record[: max((i for i, cell in enumerate(record, 1) if cell), default=0)]
