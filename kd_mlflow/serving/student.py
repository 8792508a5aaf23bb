"""A pulled student's own code file: how MLflow loads, asks and serves it.

This file is copied into every registered model beside ``scoring.py``, which reads columns and
scores them, and ``bounds.py``, which the scoring server needs; it imports these, numpy, pandas and
mlflow.
"""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

if TYPE_CHECKING or __name__.startswith("kd_mlflow."):
    from kd_mlflow.serving import bounds, scoring
else:  # in a model's folder: the other files lie beside this one, importable nowhere

    def _beside(name: str) -> Any:
        spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    bounds, scoring = _beside("bounds"), _beside("scoring")

CSV, PARQUET = bounds.CSV, bounds.PARQUET

READERS_OF_JSON = ("mlflow.pyfunc.scoring_server", "mlflow.models.utils")
"""Modules of MLflow that read JSON by what the model's signature says of itself."""

CHECKS_ITSELF = "_is_signature_from_type_hint"
"""MLflow's mark of a signature whose model checks what it is given."""

TRIALS = (b"a\n007\n", CSV), (b'{"dataframe_records": [{"a": "007"}]}', "application/json")
"""Requests by which MLflow's handler is tried before it is replaced: text that must stay text."""


class Scorer(Protocol):
    """What a student asks: its network."""

    def probabilities(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shape: encoded columns (n, columns) -> (n, classes), rows that sum to 1."""


class Student(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow's base is untyped
    """Answers a table's rows with ``prediction`` and one ``probability_<class>`` per class."""

    def load_context(self, context: Any) -> None:
        """Read the encoding and the weights from the model's own folder."""
        encoding = json.loads(Path(context.artifacts["encoding"]).read_text(encoding="utf-8"))
        with np.load(context.artifacts["weights"], allow_pickle=False) as arrays:
            self.prepare(encoding, scoring.Network(arrays))

    def prepare(self, encoding: dict[str, Any], network: Scorer) -> None:
        """Get ready to answer, as whatever loads this model needs it."""
        self.encoding, self.network = encoding, network
        self.classes = np.array(encoding["classes"])
        self.names = pd.Index(["prediction", *(f"probability_{c}" for c in self.classes.tolist())])
        _adapt(self)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Shape: n rows of raw columns -> n rows of prediction and probabilities."""
        index, columns = self._answers(model_input)
        frame = pd.DataFrame(dict(enumerate(columns)), index=index, copy=False)
        frame.columns = self.names
        return frame

    def records(self, given: Any) -> list[dict[str, Any]]:
        """The same answers, ready for JSON: a dictionary per row."""
        _, columns = self._answers(given)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        names = self.names.tolist()
        return [dict(zip(names, row, strict=True)) for row in rows]

    def shares(self, table: pd.DataFrame) -> NDArray[np.float32]:
        """Each class's probability.  Shape: n raw rows -> (n, classes)."""
        return self.network.probabilities(scoring.encode(table, self.encoding["columns"]))

    def _answers(self, given: Any) -> tuple[pd.Index, list[NDArray[Any]]]:
        """Score a table: its index, then predictions, then each class's probabilities."""
        try:
            table = _table(given)
            if not len(table):
                raise scoring.ColumnError("no rows to score")
            shares = self.shares(table)
        except scoring.ColumnError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        predicted = scoring.decided(shares, self.encoding.get("threshold"))
        return table.index, [self.classes[predicted], *shares.T]


def _table(given: Any) -> pd.DataFrame:
    """A table of what a caller has: a DataFrame; records; columns by name; one record."""
    if isinstance(given, pd.DataFrame):
        return given
    if isinstance(given, dict) and all(np.ndim(value) == 0 for value in given.values()):
        given = [given]
    elif isinstance(given, np.ndarray) and given.dtype == object:
        given = given.tolist()
    if isinstance(given, list) and all(isinstance(row, dict) for row in given):
        given = [{name: _cell(value) for name, value in row.items()} for row in given]
    elif isinstance(given, dict):
        given = {name: _cells(values) for name, values in given.items()}
    try:
        return pd.DataFrame(given)
    except (TypeError, ValueError, AttributeError) as error:
        raise scoring.ColumnError(f"a table is rows or columns with their names: {error}") from None


def _cell(value: Any) -> Any:
    """A value that came as an array without a dimension, as MLflow makes of ``inputs``."""
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _cells(values: Any) -> Any:
    """A column of such values."""
    objects = isinstance(values, np.ndarray) and values.dtype == object
    return [_cell(value) for value in values] if objects else values


def _adapt(student: Student) -> None:
    """Make the best of how MLflow loads this student; an MLflow of other parts stays plain."""
    if "mlflow.pyfunc.scoring_server.app" not in sys.modules:
        _check_alone()
        return
    limits = bounds.Limits.read()
    bounds.bound_next(limits)
    if _handles_as_expected(server := sys.modules["mlflow.pyfunc.scoring_server"]):
        _guard(server, student, limits)
    else:
        warnings.warn(
            f"this model does not know the scoring server of MLflow {mlflow.__version__}: it takes "
            "JSON, not CSV, and its errors are MLflow's own",
            stacklevel=2,
        )


def _check_alone() -> None:
    """Spare a loaded student MLflow's visit of every value, for this checks them all itself.

    MLflow has a mark for signatures whose model does that. The model's files cannot carry it, since
    MLflow then reads no tables from JSON: it is set on what ``load_model`` holds, which it hands to
    no model, hence the look at its frame. Where that has changed MLflow visits: slower, as right.
    """
    frame, loader = sys._getframe().f_back, None
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(READERS_OF_JSON):
            return
        if module == "mlflow.pyfunc" and frame.f_code.co_name == "load_model":
            loader = loader or frame
        frame = frame.f_back
    if loader is None:
        return
    signature = getattr(loader.f_locals.get("model_meta"), "signature", None)
    if hasattr(signature, CHECKS_ITSELF):
        setattr(signature, CHECKS_ITSELF, True)
    else:
        warnings.warn(
            f"this model does not know how MLflow {mlflow.__version__} loads it: its answers are "
            "the same, and large tables take longer",
            stacklevel=2,
        )


class _Echo:
    """A model that answers with what it was given."""

    metadata = None

    def predict(self, data: pd.DataFrame, params: Any = None) -> list[dict[Any, Any]]:
        """A dictionary per row."""
        return data.to_dict("records")


def _handles_as_expected(server: Any) -> bool:
    """Whether MLflow's request handler reads by given types and hands answers on as they are."""
    types = _CsvTypes(["a"])
    expected = {"predictions": [{"a": "007"}]}
    try:
        for body, kind in TRIALS:
            schema = types if kind == CSV else None
            text, status, _ = server.invocations(body, kind, _Echo(), schema)
            if status != 200 or json.loads(text) != expected:
                return False
        server.InvocationsResponse("", 413, "text/plain")
    except Exception:  # whatever another handler makes of it
        return False
    return True


class _CsvTypes:
    """What MLflow asks of a schema to read CSV: some columns stay text, 007 too."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def input_names(self) -> list[str]:
        """Columns with a type of their own."""
        return self._names

    def pandas_types(self) -> list[type]:
        """Their types."""
        return [str] * len(self._names)


class Fault(Exception):  # noqa: N818  # a fault is not a caller's error
    """The model failed on a table that it had accepted: no fault of the caller's."""


FAULTS = (Fault, MemoryError, ImportError, SystemError)
"""What is the server's fault wherever it is raised; what else stops the reading is the caller's."""


class _Served:
    """A student as the scoring server asks it: past MLflow's visits, in answers ready for JSON.

    ``texts`` are columns of a CSV that say NA and mean it, read once more.
    """

    def __init__(self, student: Student, metadata: Any, texts: pd.DataFrame | None) -> None:
        self.student, self.metadata, self.texts = student, metadata, texts

    def predict(self, data: Any, params: Any = None) -> list[dict[str, Any]]:
        """Raise MlflowException for what a table lacks, Fault for all else."""
        try:
            if self.texts is not None:
                data = data.assign(**{str(name): self.texts[name] for name in self.texts})
            return self.student.records(data)
        except MlflowException:
            raise
        except Exception as error:
            raise Fault(f"the model failed: {type(error).__name__}: {error}") from error


def _guard(server: Any, student: Student, limits: bounds.Limits) -> None:
    """Let MLflow's scoring server read CSV for this model, and answer each failure by whose it is.

    Its CSV reader refuses columns of type ``any``; what it does not foresee (no content type,
    nesting beyond Python's stack) it answers with 500, and a model's own failure with 400.
    """
    invocations = server.invocations
    columns = student.encoding["columns"]
    types = _CsvTypes([column["name"] for column in columns if scoring.reads_texts(column)])
    literal = {column["name"] for column in columns if column["form"]["literal"]}

    def guarded(data: Any, content_type: str | None, model: Any, input_schema: Any) -> Any:
        if model.unwrap_python_model() is not student:
            return invocations(data, content_type, model, input_schema)
        if said := limits.too_large(len(data)):
            return server.InvocationsResponse(said, 413, "text/plain")
        if not content_type:
            return server.InvocationsResponse("set the header Content-Type", 415, "text/plain")
        kind = content_type.split(";")[0].strip()
        if kind == PARQUET and find_spec("pyarrow") is None:
            return server.InvocationsResponse("Parquet needs pyarrow here", 415, "text/plain")
        values, unpacked = bounds.values_of(data, kind)
        if said := limits.too_many(values, unpacked):
            return server.InvocationsResponse(said, 413, "text/plain")
        try:
            texts = _as_written(data, literal) if kind == CSV and literal else None
            served = _Served(student, model.metadata, texts)
            with limits.turn(values):
                return invocations(data, content_type, served, types if kind == CSV else None)
        except Exception as error:
            raise _as_answer(error) from error

    server.invocations = guarded


def _as_written(data: bytes | str, names: set[str]) -> pd.DataFrame:
    """Some columns of a CSV as they are written; only an empty cell is a gap."""
    text = data.decode("utf-8") if isinstance(data, bytes) else data
    options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "na_values": [""]}
    table: pd.DataFrame = pd.read_csv(io.StringIO(text), usecols=names.__contains__, **options)
    return table


def _as_answer(error: Exception) -> MlflowException:
    """The error that MLflow's server answers with: 500 for a fault of its own, else 4xx."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, FAULTS):
            logging.getLogger(__name__).error("a request failed", exc_info=cause)
            return MlflowException(f"{type(cause).__name__}: {cause}")  # 500 is its default
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, MlflowException):
        if error.get_http_status_code() < 500:
            return error
        message = error.message
    else:
        message = f"{type(error).__name__}: {error}"
    return MlflowException.invalid_parameter_value(f"cannot score this payload: {message}")


if not __name__.startswith("kd_mlflow"):  # executed by MLflow as a model's code file
    mlflow.models.set_model(Student())
