"""Numbers and dates in their clothes: 45 %, $1,200.50, 70 kg, (3), 31.05.2023, found in texts."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kd_mlflow.serving import scoring
from kd_mlflow.table.numerals import NEARLY_ALL

FIRST = 500
"""So many different texts tell a column of words, without a look at the others."""

LONGEST = 40
"""Characters of a number in its clothes, at most."""

SOME = 0.5
"""Share of a column's cells from which on it is worth a line that they are numbers or dates."""

CODE = re.compile(r"\D*0\d", re.ASCII)
"""A text whose zeros a number would not keep, such as 007."""

MARKS = (*((",", "."), (".", ","), (" ", "."), (" ", ",")), *(("'", "."), ("'", ","), ("", ",")))
"""Thousands and decimal marks; of two that fit alike the first: 1,234 is a thousand and more."""

ISO_4217 = (
    "AUD|BRL|CAD|CHF|CNY|CZK|DKK|EUR|GBP|HKD|HUF|ILS|INR|JPY|KRW|MXN|NOK|NZD|PLN|SEK|SGD|USD|ZAR"
)
CURRENCY = rf"(?:[A-Z]{{0,2}}[$€£¥₹₩₽₺₴₫฿¢₪₦₱]|{ISO_4217}|kr\.?|Rs\.?|zł|Fr\.?)"
UNIT = rf"(?:{CURRENCY}|[%‰]|°?[^\W\d_][^\W\d_/·.²³^]{{0,9}}(?:[/·][^\W\d_]{{1,5}})?[²³]?\.?|°)"
MARKED = rf"\d(?:[\d.,{scoring.SPACES}{scoring.QUOTES}]*\d)?"
BODY = rf"[+\-\u2212]?[{scoring.SPACES}]*(?:{MARKED}|[.,]\d+)"
"""A number's digits and marks: "2. Married" is the second of a list, and no number."""

DRESSED = re.compile(
    rf"\s*\(?\s*[+\-\u2212]?\s*(?P<before>{CURRENCY})?\s*{BODY}\s*(?P<after>{UNIT})?\s*\)?\s*"
)

DAYS = (
    *("%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%m-%d-%Y"),
    *("%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y", "%d.%m.%y", "%m/%d/%y"),
    *("%d/%m/%y",),
)
TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")


@dataclass(frozen=True, kw_only=True)
class Form:
    """How the texts of a column are read, in training and by the served model.

    A number has a ``unit`` before or behind and marks between ``thousands`` and before decimals; a
    date has a ``layout``, as strptime takes it, or is ISO 8601. Where ``lenient`` what does not fit
    is a gap, else an error. A ``literal`` category takes NA and None for texts.
    """

    unit: str = ""
    thousands: str = ""
    decimal: str = "."
    layout: str = ""
    lenient: bool = False
    literal: bool = False

    def __str__(self) -> str:
        own = {name: value for name, value in asdict(self).items() if value != getattr(PLAIN, name)}
        return " ".join(f"{name}={value}" for name, value in own.items())


PLAIN = Form()


class Found(NamedTuple):
    """What most texts of a column are, and the share of its cells that fit."""

    kind: str
    form: Form
    share: float
    rivals: tuple[str, ...] = ()
    """Layouts of dates that fit as well as the form's own."""


def find_form(counts: pd.Series) -> Found | None:
    """Find what nearly all or many texts of a column are, beside words; None where few are.

    ``counts`` are the cells of each different text, the most frequent first. Texts that are bare
    numbers in each cell have no form.
    """
    if not len(counts) or not isinstance(counts.index[0], str):
        return None
    texts = counts[[scoring.NO_DATE.fullmatch(text.strip()) is None for text in counts.index]]
    first = texts.iloc[:FIRST]
    for find in (_dates, _numbers):
        found = find(first, first) if len(first) else None
        if found is not None and found.share >= SOME:
            return found if len(texts) <= FIRST else find(texts, first)
    return None


def _dates(counts: pd.Series, first: pd.Series) -> Found | None:
    """The layout of most dates; one where the column decides between day and month."""
    shares: dict[str, float] = {}
    texts = counts.index.to_series().astype(object)
    for layout in _layouts(first.index):
        stamps = scoring.timestamps(texts, layout)
        shares[layout] = float(counts[stamps.notna().to_numpy()].sum() / counts.sum())
    if not shares or not max(shares.values()):
        return None
    best = max(shares, key=lambda layout: shares[layout])
    alike = 1.0 if shares[best] == 1 else NEARLY_ALL
    rivals = tuple(each for each in shares if each != best and shares[each] >= alike)
    return Found("date", Form(layout=best), shares[best], rivals)


def _layouts(texts: Iterable[str]) -> Iterator[str]:
    """Layouts that the first texts may have, by their marks: trying each of them takes long."""
    shapes = Counter(_shape(text) for text in list(texts)[:FIRST])
    common = shapes.most_common(1)[0][0]
    if common.startswith("9999-9-9"):
        yield "ISO8601"
    for day, time in product(DAYS, TIMES):
        if _shape(pd.Timestamp(2023, 10, 21, 11, 45, 10).strftime(day + time)) == common:
            yield day + time


def _shape(text: str) -> str:
    """A text with 9 for its numbers of one or two digits, 9999 for others, a for its words."""
    digits = re.sub(r"\d+", lambda m: "9" if len(m[0]) < 3 else "9" * len(m[0]), text.strip())
    return re.sub(r"[^\W\d_]+\.?", "a", digits)


def _numbers(counts: pd.Series, first: pd.Series) -> Found | None:
    """The unit and the marks of most numbers; none for bare numbers, nor for codes such as 007."""
    if any(map(CODE.match, first.index)) or (unit := _unit(first)) is None:
        return None
    candidates = [Form(unit=unit, thousands=t, decimal=d) for t, d in MARKS]
    for some in (first, counts):
        read = {form: _read(some.index, form) for form in candidates}
        fits = {form: int(some[~np.isnan(values)].sum()) for form, values in read.items()}
        candidates = [form for form in candidates if fits[form] == max(fits.values())]
    whole = [form for form in candidates if not (np.nan_to_num(read[form]) % 1).any()]
    symbol = any(unicodedata.category(mark) == "Sc" for mark in unit)
    currency = symbol or (len(unit) == 3 and unit.isupper())
    form = (whole if whole and currency else candidates)[0]
    bare = [scoring.BARE.fullmatch(text) is not None for text in counts.index]
    if form.decimal == "." and all(np.array(bare) | np.isnan(read[form])):
        return None
    fitting = fits[form] - (int(counts[bare].sum()) if unit == "%" else 0)  # 0.45 beside 45 %
    share = float(fitting / counts.sum())
    simple = replace(form, thousands="")  # where no number has marks between thousands
    if form.unit and np.array_equal(_read(counts.index, simple), read[form], equal_nan=True):
        form = simple
    return Found("numeric", form, share)


def _unit(counts: pd.Series) -> str | None:
    """What most numbers with a unit have as one, if any; None where most texts are no numbers."""
    units: Counter[str] = Counter()
    for text, count in counts.items():
        found = DRESSED.fullmatch(str(text)) if len(str(text)) <= LONGEST else None
        about = [each for each in found.groups() if each] if found else ["", ""]
        if len(set(about)) <= 1:
            units["".join(about[:1])] += count
    if units.total() < SOME * counts.sum():
        return None
    return max((unit for unit in units if unit), key=lambda unit: units[unit], default="")


def _read(texts: Any, form: Form) -> np.ndarray[Any, np.dtype[np.float64]]:
    parts = {name: getattr(form, name) for name in ("unit", "thousands", "decimal")}
    pattern, marks = scoring.number_pattern(**parts)
    return np.array([scoring.undressed(str(text), pattern, marks) for text in texts])


def words(kind: str, form: Form) -> str:
    """What a form is, for people: numbers with 'EUR', dates as %d.%m.%Y."""
    if kind in ("category", "boolean"):
        return "NA and None are texts" if form.literal else "what is no truth value is a gap"
    if kind == "date":
        return f"dates as {form.layout or 'ISO 8601'}"
    marks = {",": "commas", ".": "points", " ": "spaces", "'": "quotes"}
    parts = [repr(form.unit)] if form.unit else []
    parts += [f"{marks[form.thousands]} between thousands"] if form.thousands else []
    parts += ["decimal commas"] if form.decimal == "," else []
    return "numbers" + (f" with {' and '.join(parts)}" if parts else "")


def read_by(series: pd.Series, kind: str, form: Form, gap_texts: tuple[str, ...] = ()) -> pd.Series:
    """A column's values as its kind and form say: floats, timestamps, truth values or texts.

    Raises ColumnError for what does not fit where the form is not lenient.
    """
    column = {"kind": kind, "form": asdict(form), "gap_texts": gap_texts, "origin": "1970-01-01"}
    if kind == "numeric":
        return pd.Series(scoring.numbers(series, column), index=series.index, name=series.name)
    if kind == "boolean":
        truth = scoring.encode_column(series, column)
        return pd.Series(truth, index=series.index, name=series.name).astype("boolean")
    if kind == "date":
        scoring.encode_column(series, column)
        return scoring.timestamps(series, form.layout)
    texts = series.astype(object).map(scoring.text_of, na_action="ignore").astype(object)
    return texts.where(~texts.isin([""] if form.literal else scoring.GAP_TEXTS))
