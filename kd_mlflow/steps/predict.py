"""Beside the line: a file's rows scored by a registered version, and which columns moved each.

To see which, the student is asked again with each column at a usual value; every other one stays as
the row has it. That is no share of the answer: what two columns say together is counted for both,
or for none.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from kd_mlflow.config.entry_points import PredictConfig
from kd_mlflow.errors import ConfigError, RunError
from kd_mlflow.models.any_model import AnyModel, named_model
from kd_mlflow.models.respondent import error_text
from kd_mlflow.registry.moves import PRODUCTION
from kd_mlflow.report.command_results import PredictResult
from kd_mlflow.serving.scoring import FIRST_CATEGORY, MISSING
from kd_mlflow.steps.work import Listener
from kd_mlflow.table.encoding import Encoding
from kd_mlflow.table.fitting import Column
from kd_mlflow.table.profile import FIRST_BIN, GAP, ColumnProfile
from kd_mlflow.table.scored import Part, scored_file, table_parts
from kd_mlflow.table.sources import is_csv
from kd_mlflow.tracking.runs import Tracker

PREDICTION, NAME, VERSION = "prediction", "model_name", "model_version"
"""Columns of the file beside probabilities and reasons."""

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Shape: encoded columns (n, columns) -> logits (n, classes)."""

VALUES_AT_ONCE = 1 << 22
"""Most values of the matrix that the student is asked with at once."""


def predict_step(config: PredictConfig, tracker: Tracker, listener: Listener) -> PredictResult:
    """Score a table in parts and write what was answered.

    Raises ConfigError, DataError, RegistryError or RunError for what a caller can mend.
    """
    out = _out(config)
    model = named_model(tracker, config.model or f"models:/{config.model_name}@{PRODUCTION}")
    scorer, predicted, started = _Scorer(model, config.reasons), Counter[str](), time.monotonic()
    if is_csv(config.data):
        listener.say(f"looking through {Path(config.data).name}")
    table = table_parts(
        config.data,
        scorer.encoding,
        config.keep,
        separator=config.separator,
        decimal=config.decimal,
    )
    if both := [name for name in table.kept if name in scorer.names]:
        raise ConfigError(
            f"keep names {both[0]!r}, which the answers have too: rename it in the table"
        )
    with scored_file(out) as write, listener.rows(f"scoring {table.name}", table.rows) as on_rows:
        for part in table.read():
            scored = scorer.scored(part)
            write(scored)
            for each in scored[PREDICTION].value_counts().to_pylist():
                predicted[str(each["values"])] += each["counts"]
            on_rows(len(scored))
    return PredictResult(
        table=table.name,
        rows=table.rows,
        out=str(out),
        model=model.title,
        resolved=model.resolved,
        predicted={str(name): predicted[str(name)] for name in scorer.encoding.classes},
        reasons=config.reasons,
        seconds=time.monotonic() - started,
    )


def _out(config: PredictConfig) -> Path:
    """Where the answers go; ConfigError where that is nowhere, a folder, or the table itself."""
    if not config.out:
        raise ConfigError("out is needed: the file to write, such as out=scored.csv")
    out = Path(config.out).expanduser().absolute()
    if out.is_dir():
        raise ConfigError(f"out is a folder: {out}; name a file in it")
    if not out.parent.is_dir():
        raise ConfigError(f"out lies in a folder that is not there: {out.parent}; make it first")
    given = isinstance(config.data, str | Path) and Path(config.data).expanduser().exists()
    if given and out.exists() and out.samefile(Path(config.data).expanduser()):
        raise ConfigError(f"out is the table itself: {out}; name another file")
    return out


class _Scorer:
    """A student or an ensemble of ours, ready to be asked; its answers as columns of a file."""

    def __init__(self, model: AnyModel, count: int) -> None:
        if model.encoding is None:
            raise RunError(
                f"predict asks students and ensembles that were trained here; {model.title} is of "
                "another origin: mlflow models predict asks any"
            )
        self.model, self.count = model, count
        self.encoding: Encoding = model.encoding
        self.columns = np.array([column.name for column in self.encoding.columns], dtype=object)
        if count > len(self.columns):
            raise ConfigError(
                f"reasons must be at most {len(self.columns)}, the columns that {model.title} "
                f"takes; received {count}"
            )
        self.usual = usual_values(model) if count else None
        self.name = model.version.name if model.version else model.resolved
        self.version = str(model.version.version) if model.version else ""
        self.names = {PREDICTION, NAME, VERSION}
        self.names |= {f"probability_{c}" for c in self.encoding.classes}
        self.names |= {name for i in range(count) for name in _reason_names(i)}

    def scored(self, part: Part) -> pa.Table:
        """The kept columns of some rows, and what is answered to them."""
        features, kept = part
        try:
            answer: pd.DataFrame = self.model.respondent.model.predict(features)
        except Exception as error:  # MLflow wraps what is wrong with a row
            raise RunError(f"{self.model.title} cannot score a row: {error_text(error)}") from None
        columns = dict(zip(kept.column_names, kept.columns, strict=True))
        columns |= {str(name): pa.array(answer[name]) for name in answer}
        for name, value in ((NAME, self.name), (VERSION, self.version)):
            columns[name] = pa.repeat(pa.scalar(value), len(features))
        if self.usual is not None:
            places = pd.Index(self.encoding.classes).get_indexer(pd.Index(answer[PREDICTION]))
            columns |= self._reasons(self.encoding.encode(features), places, self.usual)
        return pa.table(columns)

    def _reasons(
        self, encoded: NDArray[np.float32], predicted: NDArray[np.int64], usual: NDArray[np.float32]
    ) -> dict[str, pa.Array]:
        """Which columns moved the answers to encoded rows, and how far; nothing where none did."""
        places, moved = reasons(network_of(self.model), encoded, usual, predicted, self.count)
        columns = {}
        for i in range(self.count):
            nothing, (name, odds) = moved[:, i] == 0, _reason_names(i)
            columns[name] = pa.array(self.columns[places[:, i]], pa.string(), mask=nothing)
            columns[odds] = pa.array(moved[:, i].astype(np.float32), mask=nothing)
        return columns


def _reason_names(i: int) -> tuple[str, str]:
    """Columns of the file for one reason: which column, and how far it moved the log odds."""
    return f"reason_{i + 1}", f"reason_{i + 1}_log_odds"


def usual_values(model: AnyModel) -> NDArray[np.float32]:
    """Each column's usual value in training, encoded.  Shape: (columns,).

    Numbers and dates: the median; truth values and categories: the most frequent one.
    Raises RunError where the model does not know it, or is no student.
    """
    if not callable(network_of(model)):
        raise RunError(f"reasons are asked of students; {model.title} is none: leave reasons out")
    columns = model.encoding.columns if model.encoding else ()
    profiles = model.profile.columns if model.profile else [None] * len(columns)
    found = [_usual(*each) for each in zip(columns, profiles, strict=True)]
    if unknown := [c.name for c, value in zip(columns, found, strict=True) if value is None]:
        raise RunError(
            f"reasons need a profile of the training rows; {model.title} has none of column "
            f"{unknown[0]!r}: distil it again, or leave reasons out"
        )
    return np.array(found, dtype=np.float32)


def network_of(model: AnyModel) -> Network:
    """The network of a loaded student; what is no student's cannot be called."""
    network: Network = model.respondent.model.unwrap_python_model().network
    return network


def _usual(column: Column, profile: ColumnProfile | None) -> float | None:
    """A column's usual value, None where it is not known any more."""
    if column.kind in ("numeric", "date"):
        return column.median
    if profile is None or not profile.counts:
        return None
    if column.kind == "boolean":
        false, true = profile.counts[GAP + 1 :]
        return float(true > false)
    listed = profile.counts[FIRST_BIN + 1 :]
    return FIRST_CATEGORY + int(np.argmax(listed)) if listed else MISSING


def reasons(
    network: Network,
    encoded: NDArray[np.float32],
    usual: NDArray[np.float32],
    predicted: NDArray[np.int64],
    most: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ask again with each column at its usual value; keep the columns that moved most.

    The columns by their places, the strongest first, and by how much each moved the answer: the log
    odds of the predicted class less those with the column at its usual value.
    Shape: encoded (n, columns), usual (columns,), predicted classes by number (n,) -> (n, most).
    """
    moved = np.zeros(encoded.shape)
    before = log_odds(network(encoded), predicted)
    rows, columns = np.nonzero(encoded != usual)  # a gap is never equal
    step = max(1, VALUES_AT_ONCE // len(usual))
    for start in range(0, len(rows), step):
        row, column = rows[start : start + step], columns[start : start + step]
        asked = encoded[row]
        asked[np.arange(len(row)), column] = usual[column]
        moved[row, column] = before[row] - log_odds(network(asked), predicted[row])
    order = np.argsort(-np.abs(moved), axis=1, kind="stable")[:, :most]
    return order, np.take_along_axis(moved, order, axis=1)


def log_odds(logits: NDArray[np.float32], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """The log odds of one class against all others.  Shape: (n, classes), (n,) -> (n,)."""
    values = logits.astype(np.float64)
    own = np.take_along_axis(values, chosen[:, None], axis=1)[:, 0]
    np.put_along_axis(values, chosen[:, None], -np.inf, axis=1)
    highest = values.max(axis=1)
    others = highest + np.log(np.exp(values - highest[:, None]).sum(axis=1))
    odds: NDArray[np.float64] = own - others
    return odds
