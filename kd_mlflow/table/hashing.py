"""Hashes of a table: of each row, for its place in the split; of all values, for its identity.

A cell is hashed by what it says, not by the type of its column: 3, 3.0 and "3" are one, so are true
and 1, and a date is the same as text and as a timestamp. What later rows make of a column's type
therefore moves no earlier row. The functions are our own down to the bit (SplitMix64's finalizer,
BLAKE2b): no release of pandas can move a split.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kd_mlflow.errors import DataError
from kd_mlflow.serving import scoring
from kd_mlflow.serving.scoring import GAP_TEXTS, ISO_DATE
from kd_mlflow.table.kinds import Ints, Label

SPLIT_SEED = 42
"""The split never follows the training seed: metrics of two trainings compare on the same rows."""

NAMES_ROWS = re.compile(
    r"(?i)unnamed: \d+|index|row[ _]?(names?|id|number)|(.*[\s_.-])?(id|uuid|guid)"
    r"|.*[a-z](?-i:ID|Id)"
)
"""Names of columns that name rows; by the name alone, since later rows may change the values."""

TRUTH = {"true": 1, "false": 0}

Codes = NDArray[np.uint64]

WHOLE, FRACTION, MOMENT, TEXT, GAP = (
    np.uint64(int.from_bytes(hashlib.sha256(word).digest()[:8], "little"))
    for word in (b"whole", b"fraction", b"moment", b"text", b"gap")
)
"""Keep cells of different sorts apart: the number 5, five microseconds after 1970, the text "5"."""


def row_hashes(features: pd.DataFrame, *, exact: bool = False) -> Codes:
    """Hash each row's cells: 64 bits, seeded by column name.  Shape: (n,).

    The order of columns does not count. Texts that a CSV file uses for gaps, such as NA and None,
    are gaps, as they are when the table comes from such a file; ``exact`` keeps them apart.
    Raises DataError where a cell is no value.

    >>> numbers, texts = pd.DataFrame({"a": [3, 4]}), pd.DataFrame({"a": ["3", "x"]})
    >>> (row_hashes(numbers) == row_hashes(texts)).tolist()
    [True, False]
    """
    total = np.zeros(len(features), dtype=np.uint64)
    for name in features.columns:
        seed = hashlib.sha256(f"{SPLIT_SEED}:{name}".encode()).digest()[:8]
        total += mix_bits(_cells(features[name], exact) ^ np.frombuffer(seed, "<u8"))
    return total


def split_hashes(features: pd.DataFrame) -> Codes:
    """Hash the rows of a file for its split: equal rows alike, whatever identifies them.

    All columns but those whose name says that they name rows (``id``, ``customer_id``, ``index``).
    Shape: (n,).
    """
    named = [name for name in features.columns if not NAMES_ROWS.fullmatch(str(name).strip())]
    return row_hashes(features[named] if named else features)


def mix_bits(bits: Codes) -> Codes:
    """Spread every input bit over all output bits (the finalizer of SplitMix64)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def distinct_rows(features: pd.DataFrame) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find a place of each distinct row, and which of them each row is.  Shape: (m,), (n,).

    Models are asked about each distinct row once, in an order that is not the table's: a matrix
    product rounds a row by where it stands, and equal rows have one answer. Cells of other types
    are different here, even where they say the same, since a stranger's model may tell them apart.
    """
    exact = features.apply(lambda cells: cells.map(repr) if cells.dtype == object else cells)
    hashes = pd.util.hash_pandas_object(exact, index=False).to_numpy()
    _, first, places = np.unique(hashes, return_index=True, return_inverse=True)
    return first, places


def table_digest(
    features: pd.DataFrame,
    readings: Mapping[str, str],
    labels: Ints,
    classes: tuple[Label, ...],
    target: str,
) -> str:
    """SHA-256 of every value, in row order, with how each column is read and the classes."""
    sha = hashlib.sha256()
    sha.update(repr((sorted(readings.items()), target, classes)).encode())
    sha.update(row_hashes(features, exact=True).tobytes())
    sha.update(labels.tobytes())
    return sha.hexdigest()


def _cells(series: pd.Series, exact: bool) -> Codes:
    """A code per cell.  Shape: (n,)."""
    kind = series.dtype.kind
    if kind in "iu":
        codes = _whole_codes(series.to_numpy(np.int64 if kind == "i" else np.uint64, na_value=0))
    elif kind in "fb":
        codes = _number_codes(series.to_numpy(np.float64, na_value=np.nan))
    elif kind == "M":
        codes = _moment_codes(series)
    else:
        return _object_codes(series, exact)
    return np.where(series.isna().to_numpy(), GAP, codes)


def _whole_codes(values: NDArray[Any]) -> Codes:
    """Codes of whole numbers; those of 2**63 and more are hashed as floats, wherever they stand."""
    large = values > np.iinfo(np.int64).max if values.dtype.kind == "u" else None
    codes: Codes = mix_bits(values.astype(np.int64).view(np.uint64) ^ WHOLE)
    return codes if large is None else np.where(large, _fraction_codes(values.astype(float)), codes)


def _number_codes(values: NDArray[np.float64]) -> Codes:
    whole = (np.abs(values) < 2.0**63) & (values == np.floor(values))
    codes = _whole_codes(np.where(whole, values, 0).astype(np.int64))
    return codes if whole.all() else np.where(whole, codes, _fraction_codes(values))


def _fraction_codes(values: NDArray[np.float64]) -> Codes:
    return mix_bits(values.view(np.uint64) ^ FRACTION)


def _moment_codes(series: pd.Series) -> Codes:
    """Codes of times: whole microseconds since 1970 in UTC."""
    stamps = series if series.dt.tz is None else series.dt.tz_convert("UTC").dt.tz_localize(None)
    return mix_bits(stamps.dt.as_unit("us").astype("int64").to_numpy().view(np.uint64) ^ MOMENT)


def _object_codes(series: pd.Series, exact: bool) -> Codes:
    """Codes of texts and of mixed cells, by distinct cell."""
    try:
        places, uniques = pd.factorize(series)
    except TypeError:
        raise DataError(
            f"column {series.name!r} holds lists or objects; make values of them"
        ) from None
    codes = np.full(len(uniques) + 1, GAP)
    moments: dict[int, str] = {}
    for i, value in enumerate(uniques):
        text = str(value).strip()
        if isinstance(value, str) and not exact and text in GAP_TEXTS:
            continue
        if (number := _number_of(text if isinstance(value, str) else value)) is not None:
            codes[i] = _number_code(number)
            continue
        codes[i] = _text_code(text)
        if hasattr(value, "isoformat"):
            moments[i] = value.isoformat()
        elif isinstance(value, str) and ISO_DATE.match(text):
            moments[i] = text
    if moments:
        stamps = scoring.timestamps(pd.Series(list(moments.values()), dtype=object))
        known = stamps.notna().to_numpy()
        codes[np.array(list(moments))[known]] = _moment_codes(stamps[known])
    return codes[places]


def _number_code(number: float | int) -> int:
    if isinstance(number, int) and -(2**63) <= number < 2**63:
        return int(_whole_codes(np.array([number], dtype=np.int64))[0])
    try:
        return int(_number_codes(np.array([number], dtype=np.float64))[0])
    except OverflowError:  # a whole number beyond any float
        return int(_text_code(str(number)))


def _text_code(text: str) -> np.uint64:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little")) ^ TEXT


def _number_of(value: Any) -> float | int | None:
    """The number that a cell says, if any: an int where it is whole and written so; 1 for true."""
    if isinstance(value, str):
        if not scoring.BARE.fullmatch(value):
            return TRUTH.get(value.lower())
        return int(value) if re.fullmatch(r"[+-]?\d+", value) else float(value)
    if isinstance(value, Integral | np.bool_):
        return int(value)
    return float(value) if isinstance(value, Real | Decimal) else None
