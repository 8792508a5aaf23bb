"""Teachers given as MLflow models of any kind: found, fetched, loaded, and one teacher together."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.models import Model
from mlflow.types import DataType
from torch import Tensor

from kd_mlflow.distillation.teachers import Ensemble, Part
from kd_mlflow.errors import RunError
from kd_mlflow.models.respondent import TEACHER, Respondent, Role, one_line
from kd_mlflow.population.losses import AVERAGES
from kd_mlflow.population.selection import Mixture, Unseen, choose
from kd_mlflow.serving.scoring import text_of
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding
from kd_mlflow.tracking.lookup import choose_ensemble, load_ensemble
from kd_mlflow.tracking.runs import Tracker
from kd_mlflow.tracking.store import masked, store_error, unreachable

CLASSIFIERS = ("sklearn", "xgboost", "lightgbm", "catboost")
"""Flavours whose own object may have ``predict_proba``, which pyfunc hides."""

PICKLES = (".pkl", ".pickle", ".joblib", ".cloudpickle", ".dill", ".pt", ".pth")

NAMED_MODELS = 3
"""Models named where people read; all of them stand in the run's parameter ``kd.teachers``."""

CHUNK_ROWS = 65_536
"""Rows handed to a model at once."""

PROBED_ROWS = 16
"""Rows scored before anything else, so that a model that cannot teach is known at once."""

TAG_LENGTH = 8000
"""Characters that MLflow stores of a tag."""

STAMP = "registered_model_meta"
"""A file that MLflow adds to a model on download; the digest skips it."""


@dataclass(frozen=True, kw_only=True)
class FetchedModel:
    """One model: as it was named, and what that led to.

    ``digest`` is a SHA-256 of the model's files, which lie in ``folder``; ``parameters`` is None
    where they do not count.
    """

    uri: str
    resolved: str
    model_id: str | None
    digest: str
    parameters: int | None
    folder: Path
    respondent: Respondent


@dataclass(frozen=True, kw_only=True)
class ModelTeachers:
    """Models of any kind as one teacher, with the encoding that its students will have.

    ``ours`` is an ensemble that was trained here and teaches with them. Without a ``mixture`` all
    count alike.
    """

    encoding: Encoding
    members: tuple[FetchedModel, ...]
    ours: Ensemble | None = None
    mixture: Mixture | None = None

    @property
    def shares(self) -> tuple[float, ...]:
        """How much each counts, our ensemble first; they sum to 1."""
        voices = len(self.members) + (self.ours is not None)
        return self.mixture.shares if self.mixture else (1 / voices,) * voices

    @property
    def parameters(self) -> int | None:
        """Trained values of all that count; None where one's are unknown."""
        own = [self.ours.parameters] if self.ours else []
        every = [*own, *(member.parameters for member in self.members)]
        counts = [count for count, share in zip(every, self.shares, strict=True) if share]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The models as they were named."""
        names = [*(["an ensemble"] if self.ours else []), *(m.uri for m in self.members)]
        return tuple(Part(n, 1, share) for n, share in zip(names, self.shares, strict=True))

    @property
    def source(self) -> str:
        """The models as they were named; of many the first ones."""
        names = [*([self.ours.source] if self.ours else []), *(m.uri for m in self.members)]
        more = len(names) - NAMED_MODELS
        named = ", ".join(names[:NAMED_MODELS])
        return f"{named} and {more:,} more models" if more > 0 else named

    @property
    def identity(self) -> str:
        """What the models are, however they were named."""
        own = [self.ours.identity] if self.ours else []
        return ",".join([*own, *(member.digest for member in self.members)])

    @property
    def run_id(self) -> None:
        """None: not all of it was trained here."""

    @property
    def tags(self) -> dict[str, str]:
        """What a run that they taught is tagged with: as many models as a tag has room for."""
        known = ("uri", "resolved", "model_id", "digest", "parameters")
        shares = self.shares[-len(self.members) :]
        members = [
            {**{name: getattr(member, name) for name in known}, "weight": round(share, 4)}
            for member, share in zip(self.members, shares, strict=True)
        ]
        for left_out in range(len(members) + 1):
            rest = [{"left_out": left_out}] if left_out else []
            text = json.dumps(members[: len(members) - left_out] + rest)
            if len(text) <= TAG_LENGTH:
                break
        return {"kd.teachers": text, **(self.ours.tags if self.ours else {})}

    def score(self, features: pd.DataFrame, averaging: str) -> Tensor:
        """Score raw rows with the models' average: of log probabilities or of probabilities.

        Shape: n rows -> (n, classes), logits.
        """
        average, mixture, chunks = AVERAGES[averaging], self.mixture, []
        for start in range(0, len(features), CHUNK_ROWS):
            each = self.each(features.iloc[start : start + CHUNK_ROWS], averaging)
            if mixture is None:
                chunks.append(average(each))
                continue
            tempered = each / torch.tensor(mixture.temperatures)[:, None, None]
            chunks.append(average(tempered, torch.tensor(mixture.shares)) / mixture.temperature)
        return torch.cat(chunks).float()

    def each(self, features: pd.DataFrame, averaging: str) -> Tensor:
        """Score raw rows with each, our ensemble first.  Shape: n rows -> (voices, n, classes)."""
        classes = [text_of(label) for label in self.encoding.classes]
        answers = [member.respondent.probabilities(features, classes) for member in self.members]
        logits = torch.from_numpy(np.log(answers))
        if self.ours is None:
            return logits
        own = torch.log_softmax(self.ours.score(features, averaging).double(), dim=1)
        return torch.cat([own[None], logits])

    def weighed(self, dataset: Dataset, averaging: str) -> ModelTeachers:
        """The same models, each counting by its log loss on the validation rows.

        They are the only rows here that the models were surely not trained on.
        """
        each = self.each(dataset.features("val"), averaging)
        none = each.new_empty(0, each.shape[2])
        unseen = [Unseen(out_of_fold=none, val=logits[None]) for logits in each]
        val_labels = torch.from_numpy(dataset.labels("val"))
        return replace(self, mixture=choose(unseen, val_labels[:0], val_labels))


def load_models(
    tracker: Tracker, teachers: str, encoding: Encoding, dataset: Dataset
) -> ModelTeachers:
    """Fetch the models of comma-separated URIs and try them on some of the table's raw rows.

    One of them may be an ensemble that was trained here: latest, or its run id.
    Raises RunError for a model that is not there or cannot teach this table.
    """
    given = [text.strip() for text in teachers.split(",")]
    uris, runs = [g for g in given if "/" in g], [g for g in given if "/" not in g]
    if len(runs) > 1 or not uris or len(set(given)) < len(given):
        raise RunError(
            "teachers with commas takes MLflow model URIs, each once, such as "
            "models:/name@alias, and one ensemble at most, latest or its run id; "
            f"received {teachers!r}"
        )
    features = dataset.features("train")
    ours = None
    if runs:
        run = choose_ensemble(tracker, runs[0], dataset.identity)
        ours = load_ensemble(tracker, run.info.run_id)
    members = tuple(fetch_model(tracker, uri, tuple(features.columns)) for uri in uris)
    found = ModelTeachers(encoding=ours.encoding if ours else encoding, members=members, ours=ours)
    found.score(features.head(PROBED_ROWS), "probabilities")
    return found


def fetch_model(
    tracker: Tracker, uri: str, columns: tuple[str, ...], *, role: Role = TEACHER
) -> FetchedModel:
    """Fetch and load a model; it is asked with ``columns`` where it says nothing of its own.

    An alias is resolved to its version first: what is fetched is what is recorded.
    Raises RunError where it cannot be loaded.
    """
    try:
        resolved = _resolved(tracker, uri)
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=resolved))
        description = Model.load(str(folder))
        model = native_model(folder, description)
        if model is None:
            model = mlflow.pyfunc.load_model(str(folder))
        # counting loads a network once more: only what teaches is compared by its size
        parameters = _parameters(folder, description, model) if role is TEACHER else None
    except Exception as error:  # stores, networks and unpickling may raise anything
        if unreachable(error):
            raise store_error(error) from None
        raise RunError(
            f"{role.noun} {uri} cannot be loaded: {masked(one_line(error))}; give URIs of MLflow "
            "models, such as models:/name/1, models:/name@alias or runs:/id/path"
        ) from None
    return FetchedModel(
        uri=uri,
        resolved=resolved,
        model_id=description.model_id,
        digest=_digest(folder),
        parameters=parameters,
        folder=folder,
        respondent=respondent_of(model, description, columns, name=uri, role=role),
    )


def _resolved(tracker: Tracker, uri: str) -> str:
    alias = re.fullmatch(r"models:/+([^/@]+)@([^/@]+)", uri)
    if alias is None:
        return uri
    version = tracker.client.get_model_version_by_alias(*alias.groups())
    return f"models:/{version.name}/{version.version}"


def native_model(folder: Path, description: Model) -> Any | None:
    """The model of its own library where pyfunc would hide something of it, else None."""
    for flavour in CLASSIFIERS:
        if flavour in description.flavors:
            model = importlib.import_module(f"mlflow.{flavour}").load_model(str(folder))
            return model if flavour == "sklearn" or hasattr(model, "predict_proba") else None
    return None


def pickle_files(folder: Path) -> list[str]:
    """Files of a model that are pickles by their names: they run code as they are loaded."""
    files = (path for path in folder.rglob("*") if path.suffix in PICKLES)
    return sorted(path.relative_to(folder).as_posix() for path in files)


def respondent_of(
    model: Any, description: Model, given: tuple[str, ...], *, name: str, role: Role
) -> Respondent:
    """Ask a model with the columns of its own fit or signature, else with all, in their order."""
    schema = description.get_input_schema()
    named = schema is not None and schema.has_input_names()
    types = dict(zip(schema.input_names(), schema.input_types(), strict=True)) if named else {}
    tensor = schema is not None and schema.is_tensor_spec() and not named
    fitted = getattr(model, "feature_names_in_", ()) if "sklearn" in description.flavors else ()
    columns = tuple(map(str, fitted)) or tuple(types) or given
    wide = {name for name, kind in types.items() if kind in (DataType.double, DataType.float)}
    return Respondent(
        name=name,
        model=model,
        columns=columns,
        wide=frozenset(wide),
        matrix=schema.input_types()[0] if tensor else None,
        role=role,
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
