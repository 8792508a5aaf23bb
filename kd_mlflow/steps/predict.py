"""Beside the line: a file's rows scored by a registered version, and which columns moved each."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from kd_mlflow.config.entry_points import PredictConfig
from kd_mlflow.errors import ConfigError, RunError
from kd_mlflow.models.addresses import named_model
from kd_mlflow.models.any_model import AnyModel
from kd_mlflow.models.reasons import network_of, reasons, usual_values
from kd_mlflow.models.respondent import error_text
from kd_mlflow.registry.moves import PRODUCTION
from kd_mlflow.report.command_results import PredictResult
from kd_mlflow.steps.work import Listener
from kd_mlflow.table.encoding import Encoding
from kd_mlflow.table.scored import Part, scored_file, table_parts
from kd_mlflow.table.sources import is_csv
from kd_mlflow.tracking.runs import Tracker

PREDICTION, NAME, VERSION = "prediction", "model_name", "model_version"
"""Columns of the file beside probabilities and reasons."""


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
        found = reasons(network_of(self.model), encoded, usual, predicted, self.count)
        columns = {}
        for i in range(self.count):
            nothing, (name, moved) = found.moved[:, i] == 0, _reason_names(i)
            columns[name] = pa.array(self.columns[found.columns[:, i]], pa.string(), mask=nothing)
            columns[moved] = pa.array(found.moved[:, i].astype(np.float32), mask=nothing)
        return columns


def _reason_names(i: int) -> tuple[str, str]:
    """Columns of the file for one reason: which column, and how far it moved the log odds."""
    return f"reason_{i + 1}", f"reason_{i + 1}_log_odds"
