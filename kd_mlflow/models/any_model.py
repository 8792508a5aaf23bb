"""Any MLflow model, ours or anybody's: found by its address, fetched, loaded, asked about rows."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import Model
from mlflow.types import DataType
from numpy.typing import NDArray

from kd_mlflow.distillation.families import read_json
from kd_mlflow.errors import RegistryError, RunError, StoreError, listed
from kd_mlflow.evaluation.scores import NO_LABEL, UNKNOWN, RowScores
from kd_mlflow.evaluation.succession import PredictionTask
from kd_mlflow.evaluation.thresholds import Cutoff
from kd_mlflow.local_state import folder_till_exit
from kd_mlflow.models.own_models import ENCODING, PROFILE
from kd_mlflow.models.pulled import classes_of
from kd_mlflow.models.respondent import SCORED, Respondent, Role, error_text
from kd_mlflow.registry.lock import known_models
from kd_mlflow.registry.moves import CANDIDATE, PRODUCTION
from kd_mlflow.registry.records import address
from kd_mlflow.registry.versions import aliased, pull, resolve_name
from kd_mlflow.serving.scoring import decided, text_of
from kd_mlflow.table.encoding import Encoding
from kd_mlflow.table.hashing import distinct_rows
from kd_mlflow.table.profile import Profile
from kd_mlflow.tracking.failures import (
    FETCH_RETRIES,
    absent_ok,
    impatient,
    masked,
    store_error,
    unreachable,
)
from kd_mlflow.tracking.runs import Tracker
from kd_mlflow.tracking.saved_model import files_digest

CLASSIFIERS = ("sklearn", "xgboost", "lightgbm", "catboost")
"""Flavours whose own object may have ``predict_proba``, which pyfunc hides."""

PICKLES = (".pkl", ".pickle", ".joblib", ".cloudpickle", ".dill", ".pt", ".pth")

ROWS_AT_ONCE = 65_536
"""Rows handed to a model at once."""

PROBED_ROWS = 16
"""Rows scored before anything else, so that a model that cannot answer is known at once."""

VERSION = re.compile(r"models:/+([^/@]+)(?:/(\d{1,9})|@([^/@]+))")
"""The address of a registered version, by its number or an alias."""


@dataclass(frozen=True)
class AnyModel:
    """A loaded MLflow model, and its files in ``folder``.

    ``uri`` is what it was called, ``resolved`` the same with a version's number for an alias.
    ``version`` is None where it was not called by a version, ``parameters`` where nobody counted
    its trained values or they have no count.
    """

    uri: str
    resolved: str
    folder: Path
    model_id: str | None
    respondent: Respondent
    version: ModelVersion | None = None
    parameters: int | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its files, names and contents."""
        return files_digest(self.folder)

    @cached_property
    def encoding(self) -> Encoding | None:
        """What a student was taught of the columns; None where the model is none of ours."""
        ours = (self.folder / ENCODING).is_file() and (self.folder / "scoring.py").is_file()
        return Encoding.from_dict(read_json(self.folder / ENCODING)) if ours else None

    @cached_property
    def profile(self) -> Profile | None:
        """What its training rows looked like; None for early students and models of others."""
        path = self.folder / PROFILE
        return Profile.from_dict(read_json(path)) if path.is_file() else None

    @property
    def threshold(self) -> Cutoff | None:
        """By what it predicts a class; None: the likeliest one."""
        return self.encoding.threshold if self.encoding else None

    @property
    def title(self) -> str:
        """What it is called, with its aliases."""
        if self.version is None:
            return self.resolved
        named = f" ({', '.join(self.version.aliases)})" if self.version.aliases else ""
        return f"{self.version.name} version {self.version.version}{named}"

    @property
    def pickles(self) -> tuple[str, ...]:
        """Its files that are pickles, which run code when they are loaded, after what it is."""
        return tuple(f"{self.title}: {name}" for name in pickle_files(self.folder))

    def taking(self, features: pd.DataFrame) -> AnyModel:
        """The same model, asked with all columns of a table where it names none of its own."""
        if self.respondent.columns:
            return self
        respondent = replace(self.respondent, columns=tuple(features.columns))
        return replace(self, respondent=respondent)

    def own_classes(self) -> tuple[str, ...] | None:
        """Its classes as texts, where the loaded object names them."""
        classes: Any = getattr(self.respondent.model, "classes_", None)
        return None if classes is None else tuple(text_of(label) for label in classes)

    def classes(self, features: pd.DataFrame, labels: NDArray[np.object_]) -> tuple[str, ...]:
        """Its classes as texts; where it names none, the table's labels in their order.

        Raises RunError where it answers with another number of them, or cannot answer.
        """
        if self.encoding:
            return tuple(map(str, self.encoding.classes))
        values, names = self.respondent.answer(features.head(PROBED_ROWS))
        if names is not None:
            return tuple(names)
        known = tuple(sorted({str(label) for label in labels if label is not None}))
        columns = values.shape[1] if values.ndim == 2 else 1
        if columns != len(known):
            raise RunError(
                f"model {self.resolved} does not name its classes: it answers with {columns} "
                f"numbers per row, and the table has the labels {listed(known) or 'none'}; log a "
                "classifier that has classes_, or a table with all labels and its target"
            )
        return known

    def score(
        self, features: pd.DataFrame, labels: NDArray[np.object_], classes: tuple[str, ...]
    ) -> RowScores:
        """Score raw rows in parts; rows that are equal in what it reads have one answer.

        Shape: n rows, labels (n,), None for a row without one. Raises RunError where the model
        cannot score them.
        """
        numbers = _numbered(labels, classes)
        parts = []
        for rows in row_parts(len(features)):
            shares = self.respondent.shares(features.iloc[rows], classes)
            parts.append(RowScores.of(shares, numbers[rows], decided(shares, self.threshold)))
        read = features.loc[:, features.columns.isin(self.respondent.columns)]
        first, places = distinct_rows(read)
        return RowScores.joined(parts).alike(first[places])


def pickle_files(folder: Path) -> list[str]:
    """Files of a model that are pickles by their names: they run code as they are loaded."""
    files = (path for path in folder.rglob("*") if path.suffix in PICKLES)
    return sorted(path.relative_to(folder).as_posix() for path in files)


def row_parts(rows: int) -> Iterator[slice]:
    """Rows in the parts that are handed to a model at once."""
    return (slice(start, start + ROWS_AT_ONCE) for start in range(0, rows, ROWS_AT_ONCE))


def load_any(folder: Path, uri: str, columns: Sequence[str], *, role: Role) -> AnyModel:
    """Load a model from its files; it is asked with columns of its own, else with those given."""
    description = Model.load(str(folder))
    model = _native(folder, description)
    if model is None:
        model = mlflow.pyfunc.load_model(str(folder))
    schema = description.get_input_schema()
    named = schema is not None and schema.has_input_names()
    types = dict(zip(schema.input_names(), schema.input_types(), strict=True)) if named else {}
    tensor = schema is not None and schema.is_tensor_spec() and not named
    fitted = getattr(model, "feature_names_in_", ()) if "sklearn" in description.flavors else ()
    wide = {name for name, kind in types.items() if kind in (DataType.double, DataType.float)}
    respondent = Respondent(
        name=uri,
        model=model,
        columns=tuple(map(str, fitted)) or tuple(types) or tuple(columns),
        wide=frozenset(wide),
        matrix=schema.input_types()[0] if tensor else None,
        role=role,
    )
    return AnyModel(uri, uri, folder, description.model_id, respondent)


def _native(folder: Path, description: Model) -> Any | None:
    """The model of its own library where pyfunc would hide something of it, else None."""
    for flavour in CLASSIFIERS:
        if flavour in description.flavors:
            model = importlib.import_module(f"mlflow.{flavour}").load_model(str(folder))
            return model if flavour == "sklearn" or hasattr(model, "predict_proba") else None
    return None


def _numbered(labels: NDArray[np.object_], classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Each label's class by its number, as ``RowScores`` takes them."""
    places = {name: i for i, name in enumerate(classes)}
    codes, uniques = pd.factorize(labels)
    numbers = [*(places.get(text, UNKNOWN) for text in uniques), NO_LABEL]
    return np.array(numbers, dtype=np.int64)[codes]


def fetch(tracker: Tracker, uri: str, columns: Sequence[str] = (), *, role: Role) -> AnyModel:
    """Fetch and load a model; it is asked with ``columns`` where it says nothing of its own.

    An alias is resolved to its version first: what is fetched is what is recorded.
    Raises RunError where it cannot be loaded.
    """
    with loading(uri, role), impatient(retries=FETCH_RETRIES):
        version = _version(tracker.client, uri)
        resolved = address(version) if version else uri
        if version:
            folder = pull(version, folder_till_exit())
        else:
            lies_here = urlsplit(uri).scheme in ("", "file")  # and is not copied, whatever it is
            place = None if lies_here else str(folder_till_exit())
            folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=place))
        model = load_any(folder, uri, columns, role=role)
    return replace(model, resolved=resolved, version=version)


@contextmanager
def loading(uri: str, role: Role) -> Iterator[None]:
    """Say in one line, by a RunError, that a model cannot be loaded, or that the store is away."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # stores, networks and unpickling may raise anything
        if unreachable(error):
            raise store_error(error) from None
        raise RunError(
            f"{role.noun} {uri} cannot be loaded: {masked(error_text(error))}; give URIs of MLflow "
            "models, such as models:/name/1, models:/name@alias or runs:/id/path"
        ) from None


def named_model(tracker: Tracker, given: str) -> AnyModel:
    """Find and load a model to score: a registered version, an alias, any URI of an MLflow model.

    A bare name is a registered model's production. Raises RegistryError where there is no such
    version, RunError where it cannot be loaded.
    """
    if not given.strip():
        raise RegistryError("no model is named; give models:/name/1, models:/name@alias or a name")
    uri = given if set(given) & set("/:") else f"models:/{given}@{PRODUCTION}"
    if (named := VERSION.fullmatch(uri)) is not None:
        uri = uri.replace(named[1], resolve_name(tracker.client, named[1]), 1)
        version = absent_ok(lambda: _version(tracker.client, uri))
        if version is None:
            client, name = tracker.client, named[1]
            known = client.search_model_versions(f"name = '{name}'", max_results=50)
            numbers = ", ".join(sorted((str(v.version) for v in known), key=int)) or "no version"
            models = f", the models there are: {listed(known_models(client)) or 'none'}"
            raise RegistryError(
                f"the registry has no {uri}: {name!r} has {numbers}{'' if known else models}; give "
                "models:/name/1, models:/name@alias, or the URI of another MLflow model"
            )
        uri = address(version)
    return fetch(tracker, uri, role=SCORED)


def find_other(tracker: Tracker, model: AnyModel) -> str | None:
    """What to compare a version with: its production, or for that one the candidate, if any."""
    if model.version is None:
        return None
    own = str(model.version.version)
    for alias in (PRODUCTION, CANDIDATE):
        other = aliased(tracker.client, model.version.name, alias)
        if other is not None and str(other.version) != own:
            return address(other)
    return None


def logged_here(tracker: Tracker, model: AnyModel) -> str | None:
    """The model's id, where the tracking store in use has it."""
    known = model.model_id and absent_ok(lambda: tracker.client.get_logged_model(model.model_id))
    return model.model_id if known else None


def task_of(version: ModelVersion, description: Model) -> PredictionTask:
    """What a version predicts and reads, as far as it says so; nothing is loaded."""
    inputs, answers = description.get_input_schema(), description.get_output_schema()
    names = answers.input_names() if answers is not None and answers.has_input_names() else []
    named = inputs is not None and inputs.has_input_names()
    return PredictionTask(
        target=version.tags.get("kd.target"),
        classes=tuple(classes_of(names)) or None,
        columns=tuple(map(str, inputs.input_names())) if named else None,
    )


def _version(client: MlflowClient, uri: str) -> ModelVersion | None:
    """The registered version that an address names, if it does; an absent one is MLflow's error."""
    if (found := VERSION.fullmatch(uri)) is None:
        return None
    name, number, alias = found.groups()
    if number:
        return client.get_model_version(name, number)
    return client.get_model_version_by_alias(name, alias)
