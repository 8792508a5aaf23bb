"""What a column holds: numeric, boolean, date or category; decided of the whole column."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kd_mlflow.errors import DataError, first_line
from kd_mlflow.serving import scoring
from kd_mlflow.serving.scoring import GAP_TEXTS, ISO_DATE
from kd_mlflow.table.forms import PLAIN, Form, Found, find_form, read_by, words
from kd_mlflow.table.numerals import NEARLY_ALL

Label = str | int | bool
"""A class as it stands in the table."""

Ints = NDArray[np.int64]
"""Numbers of rows, classes, sides or groups."""

STRAY_SHARE, STRAY_TEXTS = 0.05, 5
"""Most cells, and most different texts, of a column of numbers or dates that are neither."""

WORDS = {"numeric": "number", "date": "date"}


class Note(NamedTuple):
    """What a reader must know of a column.

    Fields:
        weight: the worst has the largest
        text: what it is, and what to do
    """

    weight: float
    text: str


class Typed(NamedTuple):
    """A column as training takes it: its values, its kind, texts that became gaps, its form."""

    values: pd.Series
    kind: str
    gap_texts: tuple[str, ...] = ()
    form: Form = PLAIN
    notes: tuple[Note, ...] = ()


def typed(series: pd.Series, told: str = "") -> Typed:
    """Decide what a whole column holds, unless it is told: number, category, date:%d.%m.%Y ...

    Texts that a CSV file uses for gaps are gaps. A few texts among numbers or dates are gaps; with
    more, or with numbers that have leading zeros, the column is a category, unless nearly all are
    numbers or dates of one form. Categories of mixed cells, such as 3 beside "a", become texts.
    Raises DataError as ``kind_of`` does.
    """
    if told and told != "leave_out":
        return _as_told(series, told)
    series = _without_gap_texts(series)
    kind = kind_of(series)
    if kind == "numeric" and series.dtype == object:  # decimals
        return Typed(series.map(float, na_action="ignore").astype("float64"), kind)
    if kind != "category" or isinstance(series.dtype, pd.CategoricalDtype):
        return Typed(series, kind)
    texts = _as_texts(series)
    counts = texts.value_counts()
    for name, says in (("numeric", _is_number), ("date", _is_date)):
        strays = _strays(counts, says)
        if strays:
            shown = ", ".join(f"{text!r} ({counts[text]})" for text in strays)
            note = Note(1, f"taken as gaps, no {WORDS[name]}: {shown}")
            values = texts.where(~texts.isin(strays))
            if name == "numeric":
                values = values.map(float, na_action="ignore").astype("float64")
            return Typed(values, name, tuple(strays), notes=(note,))
    found = find_form(counts)
    if found and found.share >= NEARLY_ALL and not found.rivals:
        form = replace(found.form, lenient=found.share < 1)
        values = read_by(texts, found.kind, form)
        shown = texts[values.notna()].value_counts().index[0]
        note = Note(0.5, f"read as {words(found.kind, form)}, such as {shown!r}")
        return Typed(values, found.kind, (), form, (note, *_unfit(series, values)))
    return Typed(texts, kind, notes=_doubts(counts, found))


def alike(names: Iterable[Label]) -> list[str]:
    """Names that differ in case or blanks alone, in words.

    >>> alike(["gold", "Gold", "silver"])
    ["'gold' and 'Gold'"]
    """
    found: dict[str, list[Label]] = {}
    for name in names:
        found.setdefault(" ".join(str(name).casefold().split()), []).append(name)
    return [" and ".join(map(repr, each)) for each in found.values() if len(each) > 1]


def readings(kinds: Mapping[str, str], forms: Mapping[str, Form]) -> dict[str, str]:
    """Each column's kind, and its form where it has one: read otherwise, a table is another."""
    return {name: f"{kind} {forms.get(name, PLAIN)}".rstrip() for name, kind in kinds.items()}


def _strays(counts: pd.Series, says: Callable[[str], bool]) -> list[str]:
    """The few texts of a column of numbers or dates that are neither; none where it is no such."""
    strays, cells = [], 0
    for text, count in counts.items():
        if _is_code(str(text)):
            return []
        if not says(str(text)):
            strays.append(str(text))
            cells += count
            if len(strays) > STRAY_TEXTS or cells > STRAY_SHARE * counts.sum():
                return []
    return strays


def _as_texts(series: pd.Series) -> pd.Series:
    """Cells of any sort as the texts that name a category."""
    if series.dtype != object:
        return series
    return series.map(scoring.text_of, na_action="ignore").astype(object)


def _without_gap_texts(series: pd.Series) -> pd.Series:
    """A column with gaps for the texts that a CSV file uses for them, wherever it comes from."""
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        texts = [each for each in dtype.categories if isinstance(each, str) and each in GAP_TEXTS]
        return series.cat.remove_categories(texts) if texts else series
    if dtype.kind != "O":
        return series
    try:
        gaps = series.isin(GAP_TEXTS)
    except TypeError:  # lists or objects
        return series
    return series.mask(gaps) if gaps.any() else series


def _as_told(series: pd.Series, told: str) -> Typed:
    """A column as it is said to be; what does not fit is a gap, and counted."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(object)
    what, _, layout = told.partition(":")
    kind = {"number": "numeric", "truth": "boolean", "date": "date"}.get(what, "category")
    form = Form(layout=layout, lenient=kind != "category", literal=what == "category")
    if not layout and kind in WORDS and series.dtype.kind == "O":
        found = find_form(_as_texts(_without_gap_texts(series)).value_counts())
        if found and found.kind == kind:
            form = replace(found.form, lenient=True)
            if found.rivals:
                raise DataError(_undecided(series.name, found))
    try:
        values = read_by(series, kind, form)
    except (scoring.ColumnError, TypeError, ValueError) as error:
        raise DataError(
            f"column {series.name!r} cannot be read as it is told: {first_line(error)}"
        ) from None
    return Typed(values, kind, (), form, () if kind == "category" else _unfit(series, values))


def _unfit(series: pd.Series, values: pd.Series) -> tuple[Note, ...]:
    """How many cells became gaps because they did not fit, and some of them."""
    lost = series[(values.isna() & _without_gap_texts(series).notna()).to_numpy()]
    if lost.empty:
        return ()
    counts = lost.astype(str).value_counts()
    shown = ", ".join(f"{text!r} ({count})" for text, count in counts.iloc[:3].items())
    more = f" and {len(counts) - 3} more" if len(counts) > 3 else ""
    share = len(lost) / len(series)
    return (Note(2 + share, f"{len(lost):,} cells do not fit and are gaps: {shown}{more}"),)


def _doubts(counts: pd.Series, found: Found | None) -> tuple[Note, ...]:
    """What a column of categories may be instead, and the option that says so."""
    if found and found.rivals:
        return (Note(4, _undecided(counts.index.name, found)),)
    if found:
        what = words(found.kind, found.form)
        text = f"{int(100 * found.share)}% of its texts are {what}, and it is taken as categories"
        return (Note(4, f"{text}; {option_of(counts.index.name, WORDS[found.kind])}"),)
    numbers = counts[[_is_number(text) for text in counts.index]].sum()
    others = [text for text in counts.index if not _is_number(text)]
    if others and 2 * numbers > counts.sum():
        text = (
            f"taken as categories: {counts.sum() - numbers} of its cells are no numbers, such as "
            f"{', '.join(map(repr, others[:3]))}"
        )
        return (Note(3, f"{text}; {option_of(counts.index.name, 'number')}"),)
    if not others and len(counts) and not any(map(_is_code, counts.index)):
        text = "numbers kept as text are categories; a CSV file of them has numbers"
        return (Note(1, f"{text}; {option_of(counts.index.name, 'number')}"),)
    return ()


def _undecided(name: object, found: Found) -> str:
    return (
        f"dates whose layout is {found.form.layout} or {' or '.join(found.rivals)}: say which; "
        + option_of(name, f"date:{found.form.layout}")
    )


def option_of(name: object, told: str) -> str:
    """The option that says what a column holds, as a shell takes it."""
    return f"--column {shlex.quote(f'{name}={told}')}"


def kind_of(series: pd.Series) -> str:
    """Name what a column holds: numeric, boolean, date or category.

    Raises DataError for durations, complex or extended numbers and nested values.
    """
    dtype = series.dtype
    if dtype.kind in "mc" or (
        isinstance(dtype, np.dtype) and dtype.kind == "f" and dtype.itemsize > 8
    ):
        raise DataError(f"column {series.name!r} holds {dtype}; convert it to plain numbers")
    if isinstance(dtype, pd.CategoricalDtype):
        return "category"
    inferred = pd.api.types.infer_dtype(series, skipna=True)
    kinds = {
        **dict.fromkeys(("integer", "floating", "mixed-integer-float", "decimal"), "numeric"),
        **dict.fromkeys(("datetime64", "datetime", "date"), "date"),
        "boolean": "boolean",
        "empty": "numeric",
    }
    if inferred in kinds:
        return kinds[inferred]
    if inferred == "string":
        return "date" if _all_dates(series) else "category"
    if not series.dropna().map(pd.api.types.is_hashable).all():
        raise DataError(f"column {series.name!r} holds lists or objects; make values of them")
    if inferred in ("bytes", "timedelta", "timedelta64", "complex", "period", "interval", "time"):
        raise DataError(f"column {series.name!r} holds {inferred} values; convert them to text")
    return "category"


def _all_dates(series: pd.Series) -> bool:
    """Whether every text in a column is a date that starts with year-month-day."""
    present = series.dropna()
    if not present.iloc[:1000].str.match(ISO_DATE).all():
        return False
    return bool(scoring.timestamps(present).notna().all())


def _is_number(text: str) -> bool:
    return scoring.BARE.fullmatch(text.strip()) is not None


def _is_code(text: str) -> bool:
    """Whether a text is digits that a number would not keep, such as 007."""
    return re.match(r"\s*[+-]?0\d", text) is not None


def _is_date(text: str) -> bool:
    return _all_dates(pd.Series([text], dtype=object))
