"""The registered model's own code: a table's columns -> codes -> probabilities.

This file is copied into every registered model and runs there without the rest of the package, so
it imports numpy, pandas, torch and mlflow alone. Training encodes its tables with it too: what a
served model does to a row is what training did.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.types.schema import AnyType
from numpy.typing import NDArray

OTHER, MISSING, FIRST_CATEGORY = 0, 1, 2
"""Codes of a category column: any unlisted text, a gap, then the listed categories in order."""

SERVED_MODEL = "__pyfunc_model_path__"
"""Environment variable by which MLflow tells its scoring server which model to load."""

DAY_US = 86_400_000_000

NANOSECONDS = re.compile(r"(\.\d{6})\d+")

TRUTH = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}


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
    block = _block(frame, [columns[i] for i in plain])
    if block is not None and len(plain) == len(columns):
        return block
    for i, column in enumerate(columns):
        if block is None or column["kind"] != "numeric":
            matrix[:, i] = encode_column(frame[names[i]], column)
    if block is not None:
        matrix[:, plain] = block
    return matrix


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

    Raises ColumnError for any other text and for dates.
    """
    series = _without(series, column["gap_texts"])
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(object)
    if series.dtype.kind in "Mmc":
        raise ColumnError(f"column {series.name!r} holds numbers; received {series.dtype}")
    try:
        values = pd.to_numeric(series, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError, OverflowError):
        values = np.array([_number(value) for value in series], dtype=np.float64)
    _refuse(series, np.isnan(values) & series.notna().to_numpy(), "holds numbers")
    return values


def _without(series: pd.Series, gap_texts: list[str]) -> pd.Series:
    """A column with gaps for the texts that were taken for gaps in training."""
    if not gap_texts or series.dtype.kind in "iufbM":
        return series
    return series.astype(object).where(~series.isin(gap_texts))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _truth_values(series: pd.Series, column: dict[str, Any]) -> NDArray[np.float32]:
    codes, uniques = _factorize(series)
    known = [TRUTH.get(str(value).lower(), np.nan) for value in uniques]
    values = np.array([*known, np.nan])[codes]
    _refuse(series, np.isnan(values) & (codes >= 0), "holds true and false")
    return values.astype(np.float32)


def _days(series: pd.Series, column: dict[str, Any]) -> NDArray[np.float32]:
    series = _without(series, column["gap_texts"])
    origin = np.datetime64(column["origin"], "us").astype(np.int64)
    stamps = timestamps(series)
    _refuse(series, (stamps.isna() & series.notna()).to_numpy(), "holds dates such as 2024-03-31")
    days = (stamps.astype("int64").to_numpy() - origin) / DAY_US
    return np.where(stamps.isna(), np.nan, days).astype(np.float32)


def timestamps(series: pd.Series) -> pd.Series:
    """Read dates, ISO 8601 where they are text; what is none becomes a gap.  UTC, microseconds."""
    if series.dtype.kind not in "OMUT" and not isinstance(
        series.dtype, (pd.StringDtype, pd.DatetimeTZDtype, pd.CategoricalDtype)
    ):
        return pd.Series(pd.NaT, index=series.index, dtype="datetime64[us]")
    if series.dtype.kind == "O":
        series = series.where(series.map(lambda v: isinstance(v, str) or not np.isscalar(v)))
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(object)
    stamps = _iso_dates(series)
    unread = stamps.isna() & series.notna()
    if unread.any():  # nanoseconds beside far years have no common unit: cut them
        texts = series[unread].astype(str).str.replace(NANOSECONDS, r"\1", regex=True)
        stamps = stamps.fillna(_iso_dates(texts))
    return stamps


def _iso_dates(series: pd.Series) -> pd.Series:
    stamps = pd.to_datetime(series, format="ISO8601", errors="coerce", utc=True)
    return stamps.dt.tz_localize(None).dt.as_unit("us")


def _codes(series: pd.Series, column: dict[str, Any]) -> NDArray[np.float32]:
    codes, uniques = _factorize(series)
    places = {text: i for i, text in enumerate(column["categories"], FIRST_CATEGORY)}
    known = [places.get(text_of(value), OTHER) for value in uniques]
    return np.array([*known, MISSING], dtype=np.float32)[codes]


def _factorize(series: pd.Series) -> tuple[NDArray[np.intp], Any]:
    """Return each row's place among the distinct values; a gap has place -1, the last."""
    try:
        return pd.factorize(series)
    except TypeError:
        raise ColumnError(f"column {series.name!r} holds lists or objects, not values") from None


def _refuse(series: pd.Series, bad: NDArray[np.bool_], rule: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise ColumnError(
            f"column {series.name!r} {rule}; row {series.index[row]} has {series.iloc[row]!r}"
        )


class Student(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow's base is untyped
    """Answers a table's rows with ``prediction`` and one ``probability_<class>`` per class."""

    def load_context(self, context: Any) -> None:
        """Read the encoding and the exported module from the model's own folder."""
        description = Path(context.artifacts["encoding"])
        self.encoding = json.loads(description.read_text(encoding="utf-8"))
        self.module = mlflow.pytorch.load_model(str(description.parent), device="cpu")
        self.classes = np.array(self.encoding["classes"])
        self.names = pd.Index(["prediction", *(f"probability_{c}" for c in self.classes.tolist())])
        _leave_unchecked()
        server = sys.modules.get("mlflow.pyfunc.scoring_server")
        if server and SERVED_MODEL in os.environ:
            _guard(server, self.encoding["columns"])

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Shape: n rows of raw columns -> n rows of prediction and probabilities."""
        if not len(model_input):
            raise MlflowException.invalid_parameter_value("no rows to score")
        try:
            matrix = encode(model_input, self.encoding["columns"])
        except ColumnError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        with torch.inference_mode():
            # past the exported module's check of its input, which encode has just made
            logits = self.module.forward(torch.from_numpy(matrix))
            probabilities = torch.softmax(logits, dim=1).numpy()
        return self._answers(probabilities, model_input.index)

    def _answers(self, probabilities: NDArray[np.float32], index: pd.Index) -> pd.DataFrame:
        """Lay out probabilities, under names made once.  Shape: (n, classes) -> n rows."""
        threshold = self.encoding.get("threshold")
        predicted = (
            probabilities.argmax(axis=1)
            if threshold is None
            else (probabilities[:, 1] >= threshold).astype(np.intp)
        )
        columns = [self.classes[predicted], *probabilities.T]
        frame = pd.DataFrame(dict(enumerate(columns)), index=index, copy=False)
        frame.columns = self.names
        return frame


class _CsvTypes:
    """What MLflow asks of a schema to read CSV: category columns stay text, 007 too."""

    def __init__(self, columns: list[dict[str, Any]]) -> None:
        self._names = [c["name"] for c in columns if c["kind"] == "category"]

    def input_names(self) -> list[str]:
        """Columns with a type of their own."""
        return self._names

    def pandas_types(self) -> list[type]:
        """Their types."""
        return [str] * len(self._names)


def _guard(server: Any, columns: list[dict[str, Any]]) -> None:
    """Let MLflow's scoring server read CSV for this model and answer 4xx to any bad payload.

    Its CSV reader refuses columns of type ``any``, and what it does not foresee (no content type,
    nesting beyond Python's stack) it answers with 500.
    """
    invocations = server.invocations

    def guarded(data: Any, content_type: str | None, model: Any, input_schema: Any) -> Any:
        if not content_type:
            return server.InvocationsResponse("set the header Content-Type", 415, "text/plain")
        if content_type.split(";")[0].strip() == server.CONTENT_TYPE_CSV:
            input_schema = _CsvTypes(columns)
        try:
            return invocations(data, content_type, model, input_schema)
        except MlflowException as error:
            if error.get_http_status_code() < 500:
                raise
            message = error.message
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
        raise MlflowException.invalid_parameter_value(f"cannot score this payload: {message}")

    server.invocations = guarded


def _leave_unchecked() -> None:
    """Let MLflow pass on columns of type ``any`` as they are, for which it has no check to make.

    It would visit every value all the same, 1.8 s for 100,000 rows of 20 columns, and would not
    know the column 3 of a DataFrame by the name "3".
    """
    check = getattr(mlflow.pyfunc, "_enforce_schema", None)
    if check is None or hasattr(check, "leaves_any"):
        return

    def enforce(data: Any, schema: Any, flavor: str | None = None) -> Any:
        if isinstance(data, pd.DataFrame) and schema.has_input_names():
            names, frame = schema.input_names(), _named_by_text(data)
            given = list(frame.columns)
            known = names == given or set(names) <= set(given)
            if known and all(isinstance(column.type, AnyType) for column in schema.inputs):
                return frame if names == given else frame[names]
        return check(data, schema, flavor)

    enforce.leaves_any = True  # type: ignore[attr-defined]
    mlflow.pyfunc._enforce_schema = enforce


def _named_by_text(frame: pd.DataFrame) -> pd.DataFrame:
    if frame.columns.inferred_type == "string":
        return frame
    return frame.set_axis(frame.columns.map(str), axis=1)


if not __name__.startswith("kd_mlflow"):  # executed by MLflow as a model's code file
    mlflow.models.set_model(Student())
