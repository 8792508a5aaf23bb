"""Any MLflow model to be scored: found by what it is called, fetched, asked in parts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from kd_mlflow.errors import RegistryError, RunError, Unavailable, listed
from kd_mlflow.evaluation.scores import NO_LABEL, UNKNOWN, RowScores
from kd_mlflow.models.model_teachers import (
    CHUNK_ROWS,
    PROBED_ROWS,
    FetchedModel,
    fetch_model,
    pickle_files,
)
from kd_mlflow.models.respondent import SCORED
from kd_mlflow.models.student_model import ENCODING, PROFILE
from kd_mlflow.registry.moves import CANDIDATE, PRODUCTION
from kd_mlflow.registry.versions import aliased
from kd_mlflow.table.encoding import Encoding
from kd_mlflow.table.hashing import distinct_rows
from kd_mlflow.table.profile import Profile
from kd_mlflow.tracking.runs import Tracker
from kd_mlflow.tracking.store import absent, store_error

VERSION = re.compile(r"models:/+([^/@]+)(?:/(\d{1,9})|@([^/@]+))")
"""The address of a registered version, by its number or an alias."""


@dataclass(frozen=True, kw_only=True)
class ScoredModel:
    """A model that is loaded, the registered version that it is, and what it says of its training.

    ``encoding`` and ``profile`` are None for models of other origins; early students have no
    profile.
    """

    fetched: FetchedModel
    version: ModelVersion | None
    encoding: Encoding | None
    profile: Profile | None

    @property
    def uri(self) -> str:
        """Where it lies; an alias is resolved to its version."""
        return self.fetched.resolved

    @property
    def aliases(self) -> tuple[str, ...]:
        """Under which aliases it stands in the registry."""
        return tuple(self.version.aliases) if self.version else ()

    @property
    def title(self) -> str:
        """What it is called, with its aliases."""
        if self.version is None:
            return self.uri
        named = f" ({', '.join(self.aliases)})" if self.aliases else ""
        return f"{self.version.name} version {self.version.version}{named}"

    @property
    def pickles(self) -> tuple[str, ...]:
        """Its files that are pickles, which run code when they are loaded, after what it is."""
        return tuple(f"{self.title}: {name}" for name in pickle_files(self.fetched.folder))

    @property
    def texts(self) -> tuple[str, ...]:
        """Columns that it reads as categories, where it says so."""
        columns = self.encoding.columns if self.encoding else ()
        return tuple(column.name for column in columns if column.kind == "category")

    def taking(self, features: pd.DataFrame) -> ScoredModel:
        """The same model, asked with all columns of a table where it names none of its own."""
        respondent = self.fetched.respondent
        if not respondent.columns:
            respondent = replace(respondent, columns=tuple(features.columns))
        return replace(self, fetched=replace(self.fetched, respondent=respondent))

    def classes(self, features: pd.DataFrame, labels: NDArray[np.object_]) -> tuple[str, ...]:
        """Its classes as texts; where it names none, the table's labels in their order.

        Raises RunError where it answers with another number of them, or cannot answer.
        """
        if self.encoding:
            return tuple(map(str, self.encoding.classes))
        values, names = self.fetched.respondent.answer(features.head(PROBED_ROWS))
        if names is not None:
            return tuple(names)
        known = tuple(sorted({str(label) for label in labels if label is not None}))
        columns = values.shape[1] if values.ndim == 2 else 1
        if columns != len(known):
            raise RunError(
                f"model {self.uri} does not name its classes: it answers with {columns} numbers "
                f"per row, and the table has the labels {listed(known) or 'none'}; log a "
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
        threshold = self.encoding.threshold if self.encoding else None
        parts = [
            RowScores.of(
                self.fetched.respondent.shares(features.iloc[rows], classes),
                numbers[rows],
                threshold,
            )
            for rows in _parts(len(features))
        ]
        read = features.loc[:, features.columns.isin(self.fetched.respondent.columns)]
        first, places = distinct_rows(read)
        return RowScores.joined(parts).alike(first[places])


def find_model(tracker: Tracker, given: str) -> ScoredModel:
    """Find and load a model: a registered version, an alias, any other URI of an MLflow model.

    A bare name is a registered model's production. Raises RegistryError where there is no such
    version, RunError where it cannot be loaded.
    """
    if not given.strip():
        raise RegistryError("no model is named; give models:/name/1, models:/name@alias or a name")
    uri = given if set(given) & set("/:") else f"models:/{given}@{PRODUCTION}"
    version = _version(tracker, uri)
    resolved = f"models:/{version.name}/{version.version}" if version else uri
    fetched = fetch_model(tracker, resolved, (), role=SCORED)
    return ScoredModel(
        fetched=fetched,
        version=version,
        encoding=_encoding(fetched.folder),
        profile=_profile(fetched.folder),
    )


def find_other(tracker: Tracker, model: ScoredModel) -> str | None:
    """What to compare a version with: its production, or for that one the candidate, if any."""
    if model.version is None:
        return None
    own = str(model.version.version)
    for alias in (PRODUCTION, CANDIDATE):
        other = aliased(tracker.client, model.version.name, alias)
        if other is not None and str(other.version) != own:
            return f"models:/{other.name}/{other.version}"
    return None


def logged_here(tracker: Tracker, model: ScoredModel) -> str | None:
    """The model's id, where the tracking store in use has it."""
    if not (model_id := model.fetched.model_id):
        return None
    try:
        tracker.client.get_logged_model(model_id)
    except MlflowException as error:
        if absent(error):
            return None
        raise store_error(error) from None
    return model_id


def try_model(tracker: Tracker, uri: str) -> ScoredModel | Unavailable:
    """Find a model that nobody named; or why it cannot be had."""
    try:
        return find_model(tracker, uri)
    except (RegistryError, RunError) as error:
        return Unavailable(str(error))


def _version(tracker: Tracker, uri: str) -> ModelVersion | None:
    """The registered version that an address names, if it names one."""
    if (found := VERSION.fullmatch(uri)) is None:
        return None
    name, number, alias = found.groups()
    try:
        if number:
            return tracker.client.get_model_version(name, number)
        return tracker.client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if not absent(error):
            raise store_error(error) from None
    known = tracker.client.search_model_versions(f"name = '{name}'", max_results=50)
    numbers = ", ".join(sorted((str(v.version) for v in known), key=int)) or "no version"
    raise RegistryError(
        f"the registry has no {uri}: {name!r} has {numbers}; give models:/name/1, "
        "models:/name@alias, or the URI of another MLflow model"
    )


def _encoding(folder: Path) -> Encoding | None:
    """What a student was taught of the columns; None where the model is none of ours."""
    if not ((folder / ENCODING).is_file() and (folder / "scoring.py").is_file()):
        return None
    return Encoding.from_dict(json.loads((folder / ENCODING).read_text(encoding="utf-8")))


def _profile(folder: Path) -> Profile | None:
    path = folder / PROFILE
    if not path.is_file():
        return None
    return Profile.from_dict(json.loads(path.read_text(encoding="utf-8")))


def _numbered(labels: NDArray[np.object_], classes: tuple[str, ...]) -> NDArray[np.int64]:
    places = {name: i for i, name in enumerate(classes)}
    codes, uniques = pd.factorize(labels)
    numbers = [*(places.get(text, UNKNOWN) for text in uniques), NO_LABEL]
    return np.array(numbers, dtype=np.int64)[codes]


def _parts(rows: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK_ROWS) for start in range(0, rows, CHUNK_ROWS))
