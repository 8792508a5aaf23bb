"""Teachers given as MLflow models of any kind: found, fetched, loaded, and one teacher together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.models import Model
from torch import Tensor

from kd_mlflow.distillation.logits import row_losses
from kd_mlflow.distillation.teachers import Ensemble, Part, total
from kd_mlflow.errors import RunError
from kd_mlflow.evaluation.intervals import standard_error
from kd_mlflow.evaluation.metrics import Floats
from kd_mlflow.models.any_model import PROBED_ROWS, AnyModel, fetch, loading, row_parts
from kd_mlflow.models.respondent import TEACHER
from kd_mlflow.population.losses import AVERAGES
from kd_mlflow.population.selection import Mixture, Unseen, select_mixture
from kd_mlflow.serving.scoring import text_of
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding
from kd_mlflow.tracking.lookup import choose_ensemble, load_ensemble
from kd_mlflow.tracking.runs import Tracker

COMPARED_ROWS, SURE = 1_000, 2.0
"""Rows of each side that tell whether a model knows some, and how many standard errors do."""

NAMED_MODELS = 3
"""Models named where people read; all of them stand in the run's parameter ``kd.teachers``."""

TAG_LENGTH = 8000
"""Characters that MLflow stores of a tag."""


@dataclass(frozen=True, kw_only=True)
class ModelTeachers:
    """Models of any kind as one teacher, with the encoding that its students will have.

    ``ours`` is an ensemble that was trained here and teaches with them. Without a ``mixture`` all
    count alike. ``memorised`` says which of them know the table's training rows.
    """

    encoding: Encoding
    members: tuple[AnyModel, ...]
    ours: Ensemble | None = None
    mixture: Mixture | None = None
    memorised: str = ""

    @property
    def shares(self) -> tuple[float, ...]:
        """How much each counts, our ensemble first; they sum to 1."""
        voices = len(self.members) + (self.ours is not None)
        return self.mixture.shares if self.mixture else (1 / voices,) * voices

    @property
    def parameters(self) -> int | None:
        """Trained values of all that count; None where one's are unknown."""
        return self._total(self.ours.parameters if self.ours else None)

    @property
    def work(self) -> int | None:
        """What a row costs all that count, in weights of a network; None where one is unknown."""
        return self._total(self.ours.work if self.ours else None)

    def _total(self, own: int | None) -> int | None:
        """A number of our ensemble, if there is one, and those of the models that count."""
        every = [*([own] if self.ours else []), *(member.parameters for member in self.members)]
        return total(count for count, share in zip(every, self.shares, strict=True) if share)

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
        said = {"kd.memorised": self.memorised} if self.memorised else {}
        return {"kd.teachers": text, **said, **(self.ours.tags if self.ours else {})}

    def score(self, features: pd.DataFrame, averaging: str) -> Tensor:
        """Score raw rows with the models' average: of log probabilities or of probabilities.

        Shape: n rows -> (n, classes), logits.
        """
        average, mixture, chunks = AVERAGES[averaging], self.mixture, []
        for rows in row_parts(len(features)):
            each = self.each(features.iloc[rows], averaging)
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

    def compared(self, dataset: Dataset) -> ModelTeachers:
        """The same models, with what their losses on training and validation rows tell."""
        sides = []
        for side in ("train", "val"):
            rows = dataset.features(side).head(COMPARED_ROWS)
            labels = dataset.labels(side)[: len(rows)]
            sides.append(row_losses(self.each(rows, "probabilities"), labels)[-len(self.members) :])
        said = [
            f"{one.resolved} ({train.mean():.3f} against {val.mean():.3f})"
            for one, train, val in zip(self.members, *sides, strict=True)
            if knows_rows(train, val)
        ]
        text = f"log loss is far less on training rows than on validation rows: {', '.join(said)}"
        return replace(self, memorised=text[:TAG_LENGTH] if said else "")

    def weighed(self, dataset: Dataset, averaging: str) -> ModelTeachers:
        """The same models, each counting by its log loss on the validation rows.

        They are the only rows here that the models were surely not trained on.
        """
        each = self.each(dataset.features("val"), averaging)
        none = each.new_empty(0, each.shape[2])
        unseen = [Unseen(out_of_fold=none, val=logits[None]) for logits in each]
        val_labels = torch.from_numpy(dataset.labels("val"))
        return replace(self, mixture=select_mixture(unseen, val_labels[:0], val_labels))


def knows_rows(train: Floats, val: Floats) -> bool:
    """Whether a model loses less than half on rows that it may know, beyond noise: (n,), (m,)."""
    error = np.hypot(standard_error(train), standard_error(val))
    return bool(val.mean() / 2 > train.mean() and val.mean() - train.mean() > SURE * error)


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
    members = tuple(_teacher(tracker, uri, tuple(features.columns)) for uri in uris)
    found = ModelTeachers(encoding=ours.encoding if ours else encoding, members=members, ours=ours)
    found.score(features.head(PROBED_ROWS), "probabilities")
    return found


def _teacher(tracker: Tracker, uri: str, columns: Sequence[str]) -> AnyModel:
    """Fetch a model and count its parameters: what teaches is compared by its size."""
    model = fetch(tracker, uri, columns, role=TEACHER)
    with loading(uri, TEACHER):  # counting loads a network once more
        return replace(model, parameters=_parameters(model))


def _parameters(teacher: AnyModel) -> int | None:
    """Trained values of a network or of a linear model; None for what has no such count."""
    if "pytorch" in Model.load(str(teacher.folder)).flavors:
        network = mlflow.pytorch.load_model(str(teacher.folder), device="cpu")
        return sum(int(values.numel()) for values in network.parameters())
    model = teacher.respondent.model
    final = model.steps[-1][1] if hasattr(model, "steps") else model
    weights = getattr(final, "coefs_", None) or [getattr(final, "coef_", None)]
    offsets = getattr(final, "intercepts_", None) or [getattr(final, "intercept_", None)]
    arrays = [*weights, *offsets]
    if hasattr(final, "support_") or any(values is None for values in arrays):
        return None
    return sum(int(np.size(values)) for values in arrays)
