"""Teachers given as MLflow models of any kind: found, fetched, loaded, and one teacher together."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.models import Model
from mlflow.types import DataType
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH
from torch import Tensor

from kd_mlflow.distillation.respondent import Respondent, one_line
from kd_mlflow.errors import RunError
from kd_mlflow.population.losses import AVERAGES
from kd_mlflow.scoring import text_of
from kd_mlflow.table.encoding import Encoding
from kd_mlflow.tracking.runs import Tracker
from kd_mlflow.tracking.store import masked, store_error, unreachable

CLASSIFIERS = ("sklearn", "xgboost", "lightgbm", "catboost")
"""Flavours whose own object may have ``predict_proba``, which pyfunc hides."""

NAMED_MODELS = 3
"""Models named where people read; all of them stand in the run's parameter ``kd.teachers``."""

CHUNK_ROWS = 65_536
"""Rows handed to a model at once."""

PROBED_ROWS = 16
"""Rows scored before anything else, so that a model that cannot teach is known at once."""

STAMP = "registered_model_meta"
"""A file that MLflow adds to a model on download; the digest skips it."""


@dataclass(frozen=True, kw_only=True)
class FetchedModel:
    """One model: as it was named, and what that led to.

    ``digest`` is a SHA-256 of the model's files; ``parameters`` is None where they do not count.
    """

    uri: str
    resolved: str
    model_id: str | None
    digest: str
    parameters: int | None
    respondent: Respondent


@dataclass(frozen=True, kw_only=True)
class ModelTeachers:
    """Models of any kind as one teacher, with the encoding that its students will have."""

    encoding: Encoding
    members: tuple[FetchedModel, ...]

    @property
    def parameters(self) -> int | None:
        """Trained values of all members; None where one's are unknown."""
        counts = [member.parameters for member in self.members if member.parameters is not None]
        return sum(counts) if len(counts) == len(self.members) else None

    @property
    def source(self) -> str:
        """The models as they were named; of many the first ones."""
        named = ", ".join(member.uri for member in self.members[:NAMED_MODELS])
        more = len(self.members) - NAMED_MODELS
        return f"{named} and {more:,} more models" if more > 0 else named

    @property
    def identity(self) -> str:
        """What the models are, however they were named."""
        return ",".join(member.digest for member in self.members)

    @property
    def run_id(self) -> None:
        """None: these models were trained elsewhere."""

    @property
    def tags(self) -> dict[str, str]:
        """What a run that they taught is tagged with: as many models as a tag has room for."""
        known = ("uri", "resolved", "model_id", "digest", "parameters")
        members = [{name: getattr(member, name) for name in known} for member in self.members]
        for left_out in range(len(members) + 1):
            rest = [{"left_out": left_out}] if left_out else []
            text = json.dumps(members[: len(members) - left_out] + rest)
            if len(text) <= MAX_TAG_VAL_LENGTH:
                break
        return {"kd.teachers": text}

    def score(self, features: pd.DataFrame, averaging: str) -> Tensor:
        """Score raw rows with the members' average: of log probabilities or of probabilities.

        Shape: n rows -> (n, classes), logits.
        """
        classes = [text_of(label) for label in self.encoding.classes]
        chunks = []
        for start in range(0, len(features), CHUNK_ROWS):
            rows = features.iloc[start : start + CHUNK_ROWS]
            each = [member.respondent.probabilities(rows, classes) for member in self.members]
            chunks.append(AVERAGES[averaging](torch.from_numpy(np.log(each))))
        return torch.cat(chunks).float()


def load_models(
    tracker: Tracker, teachers: str, encoding: Encoding, features: pd.DataFrame
) -> ModelTeachers:
    """Fetch the models of comma-separated URIs and try them on some of the table's raw rows.

    Raises RunError for a model that is not there or cannot teach this table.
    """
    uris = [uri.strip() for uri in teachers.split(",")]
    for i, uri in enumerate(uris):
        if "/" not in uri or uri in uris[:i]:
            fault = "that is no URI" if "/" not in uri else "twice"
            raise RunError(
                "teachers with commas takes MLflow model URIs, each once, such as "
                f"models:/name@alias; received {uri!r}, {fault}"
            )
    members = tuple(_load(tracker, uri, features) for uri in uris)
    found = ModelTeachers(encoding=encoding, members=members)
    found.score(features.head(PROBED_ROWS), "probabilities")
    return found


def _load(tracker: Tracker, uri: str, features: pd.DataFrame) -> FetchedModel:
    """Resolve an alias to its version first: what is fetched is what is recorded."""
    try:
        resolved = _resolved(tracker, uri)
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=resolved))
        description = Model.load(str(folder))
        model = _native(folder, description)
        if model is None:
            model = mlflow.pyfunc.load_model(str(folder))
        parameters = _parameters(folder, description, model)
    except Exception as error:  # stores, networks and unpickling may raise anything
        if unreachable(error):
            raise store_error(error) from None
        raise RunError(
            f"teacher {uri} cannot be loaded: {masked(one_line(error))}; teachers takes URIs of "
            "MLflow models, such as models:/name/1, models:/name@alias or runs:/id/path"
        ) from None
    return FetchedModel(
        uri=uri,
        resolved=resolved,
        model_id=description.model_id,
        digest=_digest(folder),
        parameters=parameters,
        respondent=_respondent(uri, model, description, features),
    )


def _resolved(tracker: Tracker, uri: str) -> str:
    alias = re.fullmatch(r"models:/+([^/@]+)@([^/@]+)", uri)
    if alias is None:
        return uri
    version = tracker.client.get_model_version_by_alias(*alias.groups())
    return f"models:/{version.name}/{version.version}"


def _native(folder: Path, description: Model) -> Any | None:
    """The model of its own library where pyfunc would hide something of it, else None."""
    for flavour in CLASSIFIERS:
        if flavour in description.flavors:
            model = importlib.import_module(f"mlflow.{flavour}").load_model(str(folder))
            return model if flavour == "sklearn" or hasattr(model, "predict_proba") else None
    return None


def _respondent(uri: str, model: Any, description: Model, features: pd.DataFrame) -> Respondent:
    """Ask a model with the columns of its own fit or signature, else with all, in their order."""
    schema = description.get_input_schema()
    named = schema is not None and schema.has_input_names()
    types = dict(zip(schema.input_names(), schema.input_types(), strict=True)) if named else {}
    tensor = schema is not None and schema.is_tensor_spec() and not named
    fitted = getattr(model, "feature_names_in_", ()) if "sklearn" in description.flavors else ()
    columns = tuple(map(str, fitted)) or tuple(types) or tuple(features.columns)
    wide = {name for name, kind in types.items() if kind in (DataType.double, DataType.float)}
    return Respondent(
        name=uri,
        model=model,
        columns=columns,
        wide=frozenset(wide),
        matrix=schema.input_types()[0] if tensor else None,
    )


def _parameters(folder: Path, description: Model, model: Any) -> int | None:
    """Trained values of a network or of a linear model; None for what has no such count."""
    if "pytorch" in description.flavors:
        network = mlflow.pytorch.load_model(str(folder), device="cpu")
        return sum(int(values.numel()) for values in network.parameters())
    final = model.steps[-1][1] if hasattr(model, "steps") else model
    weights = getattr(final, "coefs_", None) or [getattr(final, "coef_", None)]
    offsets = getattr(final, "intercepts_", None) or [getattr(final, "intercept_", None)]
    arrays = [*weights, *offsets]
    if hasattr(final, "support_") or any(values is None for values in arrays):
        return None
    return sum(int(np.size(values)) for values in arrays)


def _digest(folder: Path) -> str:
    """SHA-256 of a model's files, names and contents."""
    sha = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.name != STAMP:
            sha.update(path.relative_to(folder).as_posix().encode() + b"\0")
            with path.open("rb") as file:
                sha.update(hashlib.file_digest(file, "sha256").digest())
    return sha.hexdigest()
