"""Any MLflow model, ours or anybody's: loaded from its files, and asked about rows."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import Model
from mlflow.types import DataType
from numpy.typing import NDArray

from kd_mlflow.distillation.families import read_json
from kd_mlflow.errors import RunError, listed
from kd_mlflow.evaluation.scores import NO_LABEL, UNKNOWN, RowScores
from kd_mlflow.evaluation.thresholds import Cutoff
from kd_mlflow.models.own_models import ENCODING, PROFILE
from kd_mlflow.models.respondent import Respondent, Role
from kd_mlflow.serving.scoring import decided, text_of
from kd_mlflow.table.encoding import Encoding
from kd_mlflow.table.hashing import distinct_rows
from kd_mlflow.table.profile import Profile
from kd_mlflow.tracking.saved_model import files_digest

CLASSIFIERS = ("sklearn", "xgboost", "lightgbm", "catboost")
"""Flavours whose own object may have ``predict_proba``, which pyfunc hides."""

PICKLES = (".pkl", ".pickle", ".joblib", ".cloudpickle", ".dill", ".pt", ".pth")

ROWS_AT_ONCE = 65_536
"""Rows handed to a model at once."""

PROBED_ROWS = 16
"""Rows scored before anything else, so that a model that cannot answer is known at once."""


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
        """Its classes as texts; where it names none, the table's labels in their order."""
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


def load(folder: Path, uri: str, columns: Sequence[str], *, role: Role) -> AnyModel:
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
