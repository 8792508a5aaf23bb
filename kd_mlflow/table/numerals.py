"""Numbers that pandas leaves as text or rounds: 1.234,56 and 1,234 and large whole ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

THOUSANDS = {",": ".", ".": ","}
"""The mark between thousands by the decimal mark: 1.234,56 and 1,234.56."""

NEARLY_ALL = 0.95
"""Share of numbers from which a column that stays text is worth a warning."""

EXACT = 2**53
"""float64 holds each whole number below."""

NULLABLE = {pa.int64(): pd.Int64Dtype(), pa.uint64(): pd.UInt64Dtype()}
"""Types of whole numbers that float64 would round beside gaps."""


def _number(decimal: str) -> str:
    """The pattern of a number; thousands never begin with a zero: 0,125. India writes 12,34,567.

    A number with an exponent has no thousands: 3,251E+03 has a decimal comma.
    """
    mark, thousands = re.escape(decimal), re.escape(THOUSANDS[decimal])
    pairs = rf"[1-9]\d?({thousands}\d{{2}})+{thousands}\d{{3}}"
    separated = rf"([1-9]\d{{0,2}}({thousands}\d{{3}})+|{pairs})({mark}\d*)?"
    finite = rf"({separated}|(\d+({mark}\d*)?|{mark}\d+)([eE][+-]?\d+)?)"
    return rf"^\s*[+-]?({finite}|(?i:inf|infinity))\s*$"


TEXT = {
    pa.string(): pd.StringDtype(na_value=np.nan),
    pa.large_string(): pd.StringDtype(na_value=np.nan),
}.get

NUMBERS = {decimal: _number(decimal) for decimal in THOUSANDS}
WHOLE = r"^\s*[+-]?\d+\s*$"


Kinds = dict[int, tuple[str, int]]
"""A column's texts by kind, see ``cells_by_kind``: the first one, and how many there are."""


@dataclass
class Marks:
    """Names of columns of text: those made numbers by the marks found in them, and the others."""

    decimal_comma: list[str] = field(default_factory=list)
    thousands: dict[str, list[str]] = field(default_factory=lambda: {",": [], ".": []})
    left: dict[str, str] = field(default_factory=dict)
    """The text that keeps a column of numbers from being one, by the column."""
    numbers: dict[str, str] = field(default_factory=dict)
    """The decimal mark of each column that is to be numbers."""
    pointed: list[str] = field(default_factory=list)
    """Columns that stay text, in which numbers get a decimal point."""


def decimal_commas(columns: Mapping[str, Kinds]) -> list[str]:
    """Columns of text whose commas can only be decimal marks.

    Nearly each cell is a number, and some have other than three digits behind the comma: 3,14.
    """
    numbers = {name: _numbers_among(kinds) for name, kinds in columns.items()}
    return [n for n, kinds in numbers.items() if _readings(kinds) == {","} and _hold(kinds, ",")]


def find_marks(columns: Mapping[str, Kinds], decimal: str, *, given: bool) -> Marks:
    """How each column of text of a table is read that was read with a decimal mark.

    Where that is not given but found in other columns, a column may have the other one.
    """
    marks = Marks()
    for name, kinds in columns.items():
        numbers = _numbers_among(kinds)
        others = [text for kind, (text, _) in kinds.items() if kind not in numbers]
        possible = _readings(kinds) & ({decimal} if given else {".", decimal})
        mark = decimal if decimal in possible else "."
        separated = _hold(kinds, THOUSANDS[mark])
        if possible and (separated or decimal == ","):
            marks.numbers[name] = mark
            if separated:
                marks.thousands[THOUSANDS[mark]].append(name)
            if mark == "," and not given and _hold(kinds, ","):
                marks.decimal_comma.append(name)
        elif decimal == "," and others:
            marks.pointed.append(name)
            marks.decimal_comma += [] if given else [name]
        elif not given and others and _hold(numbers, ","):
            marks.left[name] = others[0]
    return marks


def use_marks(
    frame: pd.DataFrame, numbers: Mapping[str, str], pointed: Sequence[str], decimal: str
) -> None:
    """Read columns of text by the marks that were found in the whole of them, in place."""
    for name in (*numbers, *pointed):
        mark, texts = numbers.get(name, decimal), pa.array(frame[name], from_pandas=True)
        plain = pc.replace_substring(pc.utf8_trim_whitespace(texts), THOUSANDS[mark], "")
        plain = pc.replace_substring(plain, mark, ".")
        if name in numbers:
            whole = whole_numbers(plain)
            read = exact(pc.cast(plain, pa.float64())) if whole is None else whole
        else:  # who reads on knows no other mark than a point
            number = pc.match_substring_regex(texts, NUMBERS[mark])
            read = pc.if_else(number, plain, texts).to_pandas(types_mapper=TEXT)
        frame[name] = read.set_axis(frame.index)


def cells_by_kind(texts: pa.Array) -> Kinds:
    """The first text of each kind that decides how its column is read, and how many there are.

    Kinds are by what a text can be, a number with either mark, and by the marks that it holds.
    """
    texts = texts.drop_null()
    says = [pc.match_substring_regex(texts, pattern) for pattern in NUMBERS.values()]
    says += [pc.match_substring(texts, mark) for mark in NUMBERS]
    kinds = sum(each.to_numpy(zero_copy_only=False) * 2**i for i, each in enumerate(says))
    found, first, counts = np.unique(kinds, return_index=True, return_counts=True)
    rows = zip(found.tolist(), first.tolist(), counts.tolist(), strict=True)
    return {kind: (texts[row].as_py(), count) for kind, row, count in rows}


def _readings(kinds: Kinds) -> set[str]:
    """Decimal marks with which texts of all kinds are numbers."""
    return {mark for i, mark in enumerate(NUMBERS) if all(kind >> i & 1 for kind in kinds)}


def _hold(kinds: Kinds, mark: str) -> bool:
    """Whether texts of one of the kinds hold a mark."""
    place = len(NUMBERS) + list(NUMBERS).index(mark)
    return any(kind >> place & 1 for kind in kinds)


def _numbers_among(kinds: Kinds) -> Kinds:
    """The kinds that are numbers where nearly all texts are, else all kinds."""
    numbers = {kind: texts for kind, texts in kinds.items() if kind % 2 ** len(NUMBERS)}
    count, of = (sum(n for _, n in some.values()) for some in (numbers, kinds))
    return numbers if count >= NEARLY_ALL * of else kinds


def _all_match(texts: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(texts, pattern), min_count=0).as_py())


def whole_numbers(texts: pa.Array) -> pd.Series | None:
    """Whole numbers from text, none rounded; None where a text is no such number of 64 bits."""
    if not _all_match(texts, WHOLE):
        return None
    plain = pc.replace_substring_regex(pc.utf8_trim_whitespace(texts), r"^\+", "")
    for kind in NULLABLE:
        try:
            return exact(pc.cast(plain, kind))
        except pa.ArrowInvalid:
            continue
    return None


def exact(values: Any) -> pd.Series:
    """A column of Arrow's as a Series, its whole numbers not rounded.

    With gaps they are float64 where that holds them, else Int64 or UInt64.
    """
    large = False
    if values.null_count and values.type in NULLABLE:
        span = pc.min_max(values).as_py()
        large = span["min"] is not None and max(span["max"], -span["min"]) >= EXACT
    series: pd.Series = values.to_pandas(types_mapper=NULLABLE.get if large else None)
    return series


def may_be_rounded(series: pd.Series) -> bool:
    """Whether a column with gaps may have had whole numbers that pandas could not keep.

    Those of 53 bits and more are rounded to float64; those of 64 become text.
    """
    if isinstance(series.dtype, pd.StringDtype):
        return _all_match(pa.array(series, from_pandas=True), WHOLE)
    return series.dtype == np.float64 and series.hasnans and bool((series.abs() >= EXACT).any())
