"""Registered versions as the gate sees them: what they answer, and what their task is."""

from __future__ import annotations

import json
import logging
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import Model

from kd_mlflow.distillation.respondent import one_line
from kd_mlflow.errors import RunError, Unavailable, first_line
from kd_mlflow.evaluation.challenge import Task
from kd_mlflow.evaluation.checks import Answer
from kd_mlflow.evaluation.metrics import Floats
from kd_mlflow.scoring import text_of
from kd_mlflow.table.dataset import TestRows
from kd_mlflow.tracking.model_teachers import native, respondent_of
from kd_mlflow.tracking.registry import uncompared
from kd_mlflow.tracking.store import masked, store_error, unreachable

_log = logging.getLogger(__name__)

ENCODING = "encoding.json"
"""The file of a student's artifact that says what it takes and answers."""

PICKLES = (".pkl", ".pickle", ".joblib", ".cloudpickle", ".pth", ".pt")

TIMED_ROWS = 101
"""Single rows scored to time one; the first is left out, as it warms up."""


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """A version's files, fetched but not loaded."""

    model_name: str
    version: str
    folder: Path

    @property
    def uri(self) -> str:
        """The version's address."""
        return f"models:/{self.model_name}/{self.version}"

    @property
    def ours(self) -> bool:
        """Whether it is a student of this package."""
        return (self.folder / ENCODING).is_file()

    def task(self) -> Task:
        """What it predicts from what; of a model of another origin what its signature says."""
        if self.ours:
            document = json.loads((self.folder / ENCODING).read_text(encoding="utf-8"))
            return Task(
                target=document["target"],
                classes=tuple(map(text_of, document["classes"])),
                columns=tuple(column["name"] for column in document["columns"]),
            )
        schema = Model.load(str(self.folder)).get_input_schema()
        named = schema is not None and schema.has_input_names()
        return Task(target=None, classes=None, columns=tuple(schema.input_names() if named else ()))


def pull(model_name: str, version: str) -> Pulled | Unavailable:
    """Fetch a version's files, or say why there are none."""
    try:
        uri = f"models:/{model_name}/{version}"
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
        pulled = Pulled(model_name=model_name, version=version, folder=folder)
        pulled.task()
        return pulled
    except Exception as error:  # stores of artifacts may raise anything
        if unreachable(error):
            raise store_error(error) from None
        return Unavailable(
            f"version {version} does not load and score: {masked(first_line(error))}"
        )


def reproduce(
    model_name: str, version: str, rows: TestRows, *, timed: bool = False
) -> Answer | Unavailable:
    """Load a version as anyone would; return its answer to test rows, or why there is none."""
    classes = tuple(map(text_of, rows.classes))
    try:
        model = mlflow.pyfunc.load_model(f"models:/{model_name}/{version}")
        columns = model.metadata.get_input_schema().input_names()
        if missing := sorted(set(columns) - set(rows.features)):
            named = ", ".join(missing[:3])
            return Unavailable(f"version {version} reads other columns: {named} ...")
        answer = model.predict(rows.features[columns])
        probabilities = answer[[f"probability_{c}" for c in rows.classes]].to_numpy(np.float64)
        chosen = [classes[place] for place in probabilities.argmax(axis=1)]
        if [text_of(value) for value in answer["prediction"]] != chosen:
            return Unavailable(f"version {version} predicts other classes than the likeliest ones")
        latency = _latency_ms(model, rows.features[columns]) if timed else None
    except Exception as error:  # what does not load and score is an answer, whatever it says
        if unreachable(error):
            raise store_error(error) from None
        return Unavailable(f"version {version} does not load and score: {first_line(error)}")
    return Answer(
        probabilities=probabilities, labels=rows.labels, classes=classes, latency_ms=latency
    )


def _latency_ms(model: Any, features: pd.DataFrame) -> float:
    """Median time to score one row, in ms."""
    times = []
    for i in range(TIMED_ROWS):
        row = features.iloc[[i % len(features)]]
        started = time.perf_counter()
        model.predict(row)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[1:])


def probabilities_of(pulled: Pulled, rows: TestRows) -> Floats | Unavailable:
    """What the model in production, of whatever origin, answers to a candidate's test rows.

    Unavailable where it needs columns that these rows do not have.  Raises RegistryError where it
    does not load or does not answer with probabilities of the rows' classes.
    """
    takes = pulled.task().columns
    if missing := sorted(set(takes) - set(rows.features)):
        return Unavailable(f"it takes columns that the test rows lack: {', '.join(missing[:3])}")
    _name_pickles(pulled)
    try:
        description = Model.load(str(pulled.folder))
        model = native(pulled.folder, description)
        if model is None:
            model = mlflow.pyfunc.load_model(str(pulled.folder))
        who = respondent_of(pulled.uri, model, description, rows.features, role="production")
        return who.probabilities(rows.features, [text_of(label) for label in rows.classes])
    except Exception as error:  # a stranger's code: it may raise anything
        if unreachable(error):
            raise store_error(error) from None
        said = str(error) if isinstance(error, RunError) else one_line(error)
        raise uncompared(pulled.model_name, pulled.version, masked(said)) from None


def _name_pickles(pulled: Pulled) -> None:
    """Say what is about to be unpickled: whoever wrote a pickle runs code here."""
    found = [] if pulled.ours else sorted(pulled.folder.rglob("*"))
    if names := [path.name for path in found if path.suffix in PICKLES]:
        _log.warning(
            "%s, in production, is a model of another origin: loading its pickle %s to score it",
            pulled.uri,
            ", ".join(names),
        )
