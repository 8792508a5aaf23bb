"""A table's columns -> codes -> probabilities, of numpy and pandas alone.

This file is copied into every registered model and runs there without the rest of the package.
Training encodes its tables with it too, and scores the test rows with its network: what a served
model does to a row is what training did.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

OTHER, MISSING, FIRST_CATEGORY = 0, 1, 2
"""Codes of a category column: any unlisted text, a gap, then the listed categories in order."""

DAY_US = 86_400_000_000

ROWS_AT_ONCE = 2048
"""Rows that the network scores at once."""

LOOKED_UP_BYTES = 2**22
"""Bound of what is looked up at once for piecewise-linear columns: it stays in a core's cache."""

FEW_ROWS = 32
"""Rows that are read value by value: up to so many that is faster than pandas' columns."""

PLAIN_TYPES, FAR = frozenset([str, int, float, bool, type(None)]), 1e30
"""Types and size of values that need no look at their whole column."""

ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
"""How a date starts in ISO 8601."""

NANOSECONDS = re.compile(r"(\.\d{6})\d+")

TRUTH = {
    **dict.fromkeys(("true", "1", "1.0", "yes", "y"), 1.0),
    **dict.fromkeys(("false", "0", "0.0", "no", "n"), 0.0),
}

GAP_TEXTS = frozenset(
    [
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND"),
        *("1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    ]
)
"""What pandas reads as a gap in a CSV file, and what is one wherever a table comes from."""

NO_DATE = re.compile(r"NaT|0[0:\s./T-]*0", re.ASCII)
"""A gap among dates: pandas' own, and the zeros of databases."""

BARE = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
"""A number with nothing about it, as programs write it."""

WHOLE_FLOAT = re.compile(r"([+-]?\d+)\.0+", re.ASCII)

SPACES, QUOTES = " \u00a0\u2007\u2009\u202f", "'\u2019"
"""What stands between thousands besides point and comma, by the first of each."""


class ColumnError(ValueError):
    """A column's values cannot be encoded; the message names the column and the first bad row."""


def encode(frame: pd.DataFrame, columns: list[dict[str, Any]]) -> NDArray[np.float32]:
    """Encode a table's columns, found by name in any order; others are ignored.

    Numbers and booleans stay numbers, dates become days since their origin, text becomes a code;
    a gap is NaN, in a category column its own code.  Shape: (n, len(columns)).

    Raises ColumnError for a missing or doubled column, text among numbers, or infinite values.
    """
    names, frame = [column["name"] for column in columns], _named_by_text(frame)
    if not frame.columns.is_unique:
        doubled = set(frame.columns[frame.columns.duplicated()])
        if bad := [str(name) for name in names if name in doubled]:
            raise ColumnError(f"column {bad[0]!r} stands twice in the table")
    if absent := [name for name in names if name not in frame.columns]:
        raise ColumnError(f"missing columns: {', '.join(map(repr, absent))}")
    matrix = np.empty((len(frame), len(columns)), dtype=np.float32)
    plain = [i for i, column in enumerate(columns) if column["kind"] == "numeric"]
    if len(plain) < len(columns) and len(frame) <= FEW_ROWS:
        read = _few(frame, columns, matrix)
    elif (block := _block(frame, [columns[i] for i in plain])) is not None:
        matrix[:, plain], read = block, set(plain)
    else:
        read = set()
    for i, column in enumerate(columns):
        if i not in read:
            matrix[:, i] = encode_column(frame[names[i]], column)
    return matrix


def decided(
    shares: NDArray[np.floating[Any]], threshold: float | Sequence[float] | None
) -> NDArray[np.intp]:
    """The class that is predicted for each row, by its number: the likeliest without a threshold.

    A number is the probability from which on the second of two classes is predicted; several are a
    weight per class, and the class of the greatest probability times weight is predicted.
    Shape: (..., n, classes) -> (..., n).
    """
    if isinstance(threshold, float):
        return (shares[..., 1] >= threshold).astype(np.intp)
    weighted = shares if threshold is None else shares * np.array(threshold)
    likeliest: NDArray[np.intp] = weighted.argmax(axis=-1)
    return likeliest


def _named_by_text(frame: pd.DataFrame) -> pd.DataFrame:
    if frame.columns.inferred_type == "string":
        return frame
    return frame.set_axis(frame.columns.map(str), axis=1)


def _block(frame: pd.DataFrame, columns: list[dict[str, Any]]) -> NDArray[np.float32] | None:
    """Encode all numeric columns at once; None where one of them needs a look of its own."""
    names = [column["name"] for column in columns]
    values = (frame if list(frame.columns) == names else frame[names]).to_numpy()
    if values.dtype.kind not in "iuf":
        return None
    if any(offsets := [column["offset"] for column in columns]):
        values = values - np.array(offsets)
    with np.errstate(over="ignore"):
        narrow: NDArray[np.float32] = values.astype(np.float32)
    return None if np.isinf(narrow).any() else narrow


def _few(
    frame: pd.DataFrame, columns: list[dict[str, Any]], matrix: NDArray[np.float32]
) -> set[int]:
    """Encode columns of plain values, value by value; return which columns these are."""
    values, place = frame.to_numpy(object), {name: i for i, name in enumerate(frame.columns)}
    of_kind = {"numeric": _plain_number, "boolean": _plain_truth, "category": _plain_code}
    read = set()
    for i, column in enumerate(columns):
        cells = values[:, place[column["name"]]]
        if column["kind"] in of_kind and {type(cell) for cell in cells} <= PLAIN_TYPES:
            found = [of_kind[column["kind"]](cell, column) for cell in cells]
            if None not in found:
                matrix[:, i] = found
                read.add(i)
    return read


def _plain_number(value: Any, column: dict[str, Any]) -> float | None:
    """What ``_numbers`` makes of a value, None where it is for ``_numbers`` to say."""
    if isinstance(value, (int, float)) and not abs(value) > FAR:
        return float(value) - float(column["offset"])
    return None


def _plain_truth(value: Any, column: dict[str, Any]) -> float | None:
    """What ``_truth_values`` makes of a value, None where it is for ``_truth_values`` to say."""
    return TRUTH.get(str(value).strip().lower())


def _plain_code(value: Any, column: dict[str, Any]) -> int | None:
    """What ``_codes`` makes of a value, None where it is for ``_codes`` to say."""
    if value is None or value != value:
        return MISSING
    places, text = column["categories"], text_of(value)
    return FIRST_CATEGORY + places.index(text) if text in places else None


def encode_column(series: pd.Series, column: dict[str, Any]) -> NDArray[np.float32]:
    """Encode one column as its description says.  Shape: (n,)."""
    encoders = {
        "numeric": _numbers,
        "boolean": _truth_values,
        "date": _days,
        "category": _codes,
    }
    return encoders[column["kind"]](series, column)


def text_of(value: Any) -> str:
    """Write a category's value the same way wherever it comes from: 3, 3.0 and "3" are one."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _numbers(series: pd.Series, column: dict[str, Any]) -> NDArray[np.float32]:
    values = numbers(series, column) - column["offset"]
    with np.errstate(over="ignore"):
        narrow: NDArray[np.float32] = values.astype(np.float32)
    _refuse(series, np.isinf(narrow), "takes finite numbers up to 3.4e38")
    return narrow


def numbers(series: pd.Series, column: dict[str, Any]) -> NDArray[np.float64]:
    """Read a column of numbers; gaps and the texts that stand for one are NaN.  Shape: (n,).

    Texts are read by the column's form. Raises ColumnError for any other text and for dates.
    """
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(object)
    if series.dtype.kind in "Mmc":
        raise ColumnError(f"column {series.name!r} holds numbers; received {series.dtype}")
    if has_clothes(column["form"]) and series.dtype.kind not in "iufb":
        values = _undressed(series, column["form"])
    else:
        try:
            values = pd.to_numeric(series, errors="coerce").to_numpy(np.float64, na_value=np.nan)
        except (TypeError, ValueError, OverflowError):
            values = np.array([_number(value) for value in series], dtype=np.float64)
    _refuse(series, np.isnan(values) & series.notna().to_numpy(), "holds numbers", column)
    return values


def reads_texts(column: Mapping[str, Any]) -> bool:
    """Whether a column is read as it is written, so that a CSV reader is to leave it as it is."""
    form = column["form"]
    return column["kind"] == "category" or has_clothes(form) or bool(form["layout"])


def has_clothes(form: Mapping[str, Any]) -> bool:
    """Whether texts of a column are numbers with something about them."""
    return bool(form["unit"] or form["thousands"])


def _undressed(series: pd.Series, form: Mapping[str, Any]) -> NDArray[np.float64]:
    """Numbers without their clothes, or bare ones; what is neither is NaN.  Shape: (n,)."""
    codes, uniques = _factorize(series)
    pattern, marks = number_pattern(**{n: form[n] for n in ("unit", "thousands", "decimal")})

    def number(value: Any) -> float:
        if not isinstance(value, str):
            return _number(value)
        read = undressed(value, pattern, marks)
        return float(value) if np.isnan(read) and BARE.fullmatch(value) else read

    return np.array([*map(number, uniques), np.nan], dtype=np.float64)[codes]


@cache
def number_pattern(*, unit: str, thousands: str, decimal: str) -> tuple[re.Pattern[str], Any]:
    """The pattern of a number in its clothes, and what makes its digits Python's own.

    A unit stands before or behind, once or not at all; a number in parentheses is below zero. India
    writes 12,34,567. A number with an exponent has no thousands.
    """
    between = {" ": SPACES, "'": QUOTES}.get(thousands, thousands)
    mark, about = re.escape(decimal), rf"(?:{re.escape(unit)})?" if unit else ""
    digits = rf"(?:[0-9]+(?:{mark}[0-9]*)?|{mark}[0-9]+)(?:[eE][+-]?[0-9]+)?"
    if between:
        by = f"[{re.escape(between)}]"
        pairs = rf"[1-9][0-9]?(?:{by}[0-9]{{2}})+{by}[0-9]{{3}}"
        digits += rf"|(?:[1-9][0-9]{{0,2}}(?:{by}[0-9]{{3}})+|{pairs})(?:{mark}[0-9]*)?"
    parts = (
        r"(?P<open>\()?",
        r"(?P<first>[+\-\u2212]?)",
        about,
        r"(?P<second>[+\-\u2212]?)",
        rf"(?P<digits>{digits})",
        about,
        r"(?(open)\))",
    )
    marks = str.maketrans({**dict.fromkeys(between), decimal: "."})
    return re.compile(r"\s*".join(("", *parts, ""))), marks


def undressed(text: str, pattern: re.Pattern[str], marks: Any) -> float:
    """The number that a text says; NaN where it is none."""
    if (found := pattern.fullmatch(text)) is None:
        return float("nan")
    value = float(found["digits"].translate(marks))
    signs = found["first"] + found["second"]
    below = signs.count("-") + signs.count("\u2212") + bool(found["open"])
    return -value if below % 2 else value


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _truth_values(series: pd.Series, column: dict[str, Any]) -> NDArray[np.float32]:
    codes, uniques = _factorize(series)
    known = [TRUTH.get(str(value).strip().lower(), np.nan) for value in uniques]
    values = np.array([*known, np.nan])[codes]
    _refuse(series, np.isnan(values) & (codes >= 0), "holds true and false", column)
    return values.astype(np.float32)


def _days(series: pd.Series, column: dict[str, Any]) -> NDArray[np.float32]:
    origin = np.datetime64(column["origin"], "us").astype(np.int64)
    stamps = timestamps(series, column["form"]["layout"])
    bad = (stamps.isna() & series.notna()).to_numpy()
    _refuse(series, bad, "holds dates such as 2024-03-31", column)
    days = (stamps.astype("int64").to_numpy() - origin) / DAY_US
    return np.where(stamps.isna(), np.nan, days).astype(np.float32)


def timestamps(series: pd.Series, layout: str = "") -> pd.Series:
    """Read dates, by their layout or as ISO 8601 where they are text; what is none becomes a gap.

    In UTC, in microseconds.
    """
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(object)
    if layout and series.dtype.kind not in "OM":
        series = series.astype(object)
    if series.dtype.kind not in "OMUT" and not isinstance(
        series.dtype, (pd.StringDtype, pd.DatetimeTZDtype)
    ):
        return pd.Series(pd.NaT, index=series.index, dtype="datetime64[us]")
    if series.dtype.kind == "O":
        if layout:  # 20240331 may come as a number
            series = series.map(lambda v: text_of(v) if np.isscalar(v) else v, na_action="ignore")
        series = series.where(series.map(lambda v: isinstance(v, str) or not np.isscalar(v)))
    stamps = _dates(series, layout or "ISO8601")
    unread = np.flatnonzero(stamps.isna() & series.notna())
    if layout:
        iso = series.iloc[unread].astype(str).str.match(ISO_DATE)
        unread = unread[iso.to_numpy(np.bool_)]
    if len(unread):  # nanoseconds beside far years have no common unit: cut them
        texts = series.iloc[unread].astype(str).str.replace(NANOSECONDS, r"\1", regex=True)
        stamps.iloc[unread] = _dates(texts, "ISO8601").to_numpy()
    return stamps


def _dates(series: pd.Series, layout: str) -> pd.Series:
    stamps = pd.to_datetime(series, format=layout, errors="coerce", utc=True)
    return stamps.dt.tz_localize(None).dt.as_unit("us")


def _codes(series: pd.Series, column: dict[str, Any]) -> NDArray[np.float32]:
    codes, uniques = _factorize(series)
    places = {text: i for i, text in enumerate(column["categories"], FIRST_CATEGORY)}
    texts = [text_of(value) for value in uniques]
    known = [places.get(text) for text in texts]
    if None in known:
        alike = {_plain_text(text): place for text, place in reversed(places.items())}
        gaps = dict.fromkeys(() if column["form"]["literal"] else GAP_TEXTS, MISSING)
        others = gaps | alike
        known = [
            others.get(text, alike.get(_plain_text(text), OTHER)) if place is None else place
            for text, place in zip(texts, known, strict=True)
        ]
    return np.array([*known, MISSING], dtype=np.float32)[codes]


def _plain_text(text: str) -> str:
    """Write a whole number as text alike whether it came as 3 or as 3.0."""
    return WHOLE_FLOAT.sub(r"\1", text) if text.endswith("0") else text


def _factorize(series: pd.Series) -> tuple[NDArray[np.intp], Any]:
    """Return each row's place among the distinct values; a gap has place -1, the last."""
    try:
        return pd.factorize(series)
    except TypeError:
        raise ColumnError(f"column {series.name!r} holds lists or objects, not values") from None


def _refuse(
    series: pd.Series, bad: NDArray[np.bool_], rule: str, column: Mapping[str, Any] | None = None
) -> None:
    """Raise ColumnError for the first bad row; none is what a column takes for a gap."""
    if not bad.any() or (column is not None and column["form"]["lenient"]):
        return
    rows = np.flatnonzero(bad)
    if column is not None:
        values = series.astype(object).to_numpy()
        rows = rows[[not _says_gap(values[row], column) for row in rows]]
    if len(rows):
        row = int(rows[0])
        value = series.astype(object).iloc[row]
        raise ColumnError(f"column {series.name!r} {rule}; row {series.index[row]} has {value!r}")


def _says_gap(value: Any, column: Mapping[str, Any]) -> bool:
    """Whether a text says that there is no value."""
    return isinstance(value, str) and (
        value in GAP_TEXTS
        or value in column["gap_texts"]
        or (column["kind"] == "date" and NO_DATE.fullmatch(value.strip()) is not None)
    )


class Network:
    """A student with its scaler in numpy: what the exported module computes, step by step.

    ``arrays`` are the module's own, by its own names; all arithmetic is in float32, so that a row's
    answer is known within rounding alone: its last digits depend on the rows beside it.

    Shape: encoded columns (n, columns) -> logits (n, classes).
    """

    rows_at_once: int = ROWS_AT_ONCE

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        parts: dict[str, dict[str, NDArray[Any]]] = {"scaler": {}, "lookup": {}, "network": {}}
        for name, values in arrays.items():
            part, _, own = name.partition(".")
            parts[part][own] = values
        self.scaler, self.lookup, network = parts["scaler"], parts["lookup"], parts["network"]
        self.bent = bool(self.scaler["soft"].any())
        places = sorted({int(name.split(".")[0]) for name in network})
        self.layers = [
            (np.ascontiguousarray(network[f"{i}.weight"].T), network[f"{i}.bias"]) for i in places
        ]
        if self.lookup:
            row_bytes = 2 * len(self.lookup["edges"]) * self.lookup["at_edges"][0].nbytes
            self.rows_at_once = min(ROWS_AT_ONCE, max(1, LOOKED_UP_BYTES // row_bytes))

    def __call__(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score encoded rows, some at a time: bounds memory and keeps them in the caches."""
        starts = range(0, len(encoded), self.rows_at_once)
        parts = [self._logits(encoded[start : start + self.rows_at_once]) for start in starts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-2)

    def probabilities(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shape: encoded columns (n, columns) -> (n, classes), rows that sum to 1."""
        logits = self(encoded)
        shares: NDArray[np.float32] = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return shares

    def _logits(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        (weight, bias), *others = self.layers
        h: NDArray[np.float32] = self._inputs(x) @ weight
        h += bias
        if self.lookup:
            h += self._interpolated(x)
        for weight, bias in others:
            np.maximum(h, 0, out=h)
            h = h @ weight
            h += bias
        return h

    def _inputs(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scaled numbers, then gap indicators, then one-hot codes.  Shape: (n, d_in)."""
        own = self.scaler
        z = np.maximum(filled(x, own["numbers"], own["median"]), own["low"])
        np.minimum(z, own["high"], out=z)
        z -= own["mean"]
        z /= own["scale"]
        if self.bent:
            z /= np.sqrt(1 + np.square(z * own["soft"]))
        parts = [z]
        if own["indicators"].size:
            parts.append(np.isnan(x.take(own["indicators"], axis=1)).astype(np.float32))
        if own["codes"].size:
            parts.append((x.take(own["one_hot"], axis=1) == own["codes"]).astype(np.float32))
        return z if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _interpolated(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the first layer makes of piecewise-linear columns.  Shape: (n, d_hidden).

        It is linear between two edges, so its values at the edges are all that is kept of it.
        """
        own = self.lookup
        edges, last, start = own["edges"], own["last"][:, 0], own["start"][:, 0]
        values = filled(x, own["numbers"], own["median"])
        places = [row.searchsorted(values[:, i], side="right") for i, row in enumerate(edges)]
        place = np.minimum(np.maximum(np.stack(places, axis=1) - 1, 0), last)
        column = np.arange(len(edges))
        low, high = edges[column, place], edges[column, place + 1]
        come = np.minimum(np.maximum((values - low) / (high - low), 0), 1)
        upper = start + place
        rows = np.concatenate([upper, np.maximum(upper - 1, 0)], axis=1)
        shares = np.concatenate([come, (1 - come) * (place > 0)], axis=1)
        found: NDArray[np.float32] = shares[:, None] @ own["at_edges"].take(rows, axis=0)
        return found[:, 0]


def filled(
    x: NDArray[np.float32], columns: NDArray[np.int64], median: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Columns of numbers, gaps filled.  Shape: (n, columns) -> (n, numbers)."""
    numbers = x.take(columns, axis=1)
    return np.where(np.isnan(numbers), median, numbers)
