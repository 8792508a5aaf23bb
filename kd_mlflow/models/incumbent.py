"""The model in production, ours or anybody's: what is known of it, and its answers to rows."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import Model
from numpy.typing import NDArray

from kd_mlflow.errors import RegistryError, RunError, Unavailable, listed
from kd_mlflow.evaluation.succession import Task
from kd_mlflow.models.model_teachers import native_model, pickle_files, respondent_of
from kd_mlflow.models.respondent import PROBABILITY, SCORED, Respondent, one_line
from kd_mlflow.models.student_model import ENCODING
from kd_mlflow.serving.scoring import text_of
from kd_mlflow.table.dataset import Identity
from kd_mlflow.tracking.open_run import TrackedRun
from kd_mlflow.tracking.runs import Tracker
from kd_mlflow.tracking.store import masked

_log = logging.getLogger(__name__)

TRAINED_ROWS = "trained_rows.npy"
"""Artifact of a distill run: hashes of the rows that its models saw, sorted, 64 bits each."""


def task_of(version: ModelVersion, description: Model) -> Task:
    """What a version predicts and reads, as far as it says so; nothing is loaded."""
    inputs, answers = description.get_input_schema(), description.get_output_schema()
    names = answers.input_names() if answers is not None and answers.has_input_names() else []
    classes = [str(n).removeprefix(PROBABILITY) for n in names if str(n).startswith(PROBABILITY)]
    named = inputs is not None and inputs.has_input_names()
    return Task(
        target=version.tags.get("kd.target"),
        classes=tuple(classes) or None,
        columns=tuple(map(str, inputs.input_names())) if named else None,
    )


def respondent(version: ModelVersion, folder: Path, features: pd.DataFrame) -> Respondent:
    """Load a pulled model, to ask it about rows like ``features``; say so where it is a pickle.

    Raises RegistryError where it does not load.
    """
    if pickles := pickle_files(folder):
        _log.warning(
            "version %s of %s, in production, is loaded to be scored: it is a pickle (%s), which "
            "may run any code",
            version.version,
            version.name,
            ", ".join(pickles),
        )
    try:
        description = Model.load(str(folder))
        model = native_model(folder, description)
        if model is None:
            model = mlflow.pyfunc.load_model(str(folder))
    except Exception as error:  # unpickling may raise anything
        raise RegistryError(_broken_text(version, "load", error)) from None
    name = f"{version.version} of {version.name!r}, in production,"
    role = SCORED._replace(noun="version")
    return respondent_of(model, description, tuple(features.columns), name=name, role=role)


def known_classes(asked: Respondent) -> tuple[str, ...] | None:
    """The classes of a loaded model, where it names them."""
    classes: Any = getattr(asked.model, "classes_", None)
    return None if classes is None else tuple(text_of(label) for label in classes)


def answers_of(
    version: ModelVersion, asked: Respondent, features: pd.DataFrame, classes: Sequence[str]
) -> NDArray[np.float64] | Unavailable:
    """Score rows with a loaded model.  Shape: n rows -> (n, classes).

    Unavailable where the rows lack columns that it reads. Raises RegistryError where it fails.
    """
    if absent := [name for name in asked.columns if name not in features.columns]:
        return Unavailable(
            f"cannot be compared with version {version.version}, in production, which reads "
            f"columns that these rows do not have: {listed(absent)}; policy=any does not compare"
        )
    try:
        return asked.probabilities(features, classes)
    except RunError as error:
        raise RegistryError(
            f"{masked(str(error))}; nothing was moved: roll back to a version that scores, or "
            "promote with policy=any"
        ) from None


def threshold_of(folder: Path) -> float | None:
    """From which probability on a pulled student of ours predicts the second of two classes.

    None where it, like any model of others, predicts the likeliest.
    """
    path = folder / ENCODING
    if not ((folder / "scoring.py").is_file() and path.is_file()):
        return None
    threshold: float | None = json.loads(path.read_text(encoding="utf-8")).get("threshold")
    return threshold


def keep_trained_rows(run: TrackedRun, hashes: NDArray[np.uint64]) -> None:
    """Log which rows models of a run saw, as hashes of the columns that the student reads."""
    run.folder(lambda folder: np.save(folder / TRAINED_ROWS, np.unique(hashes)), None)


def trained_rows(
    tracker: Tracker, version: ModelVersion, identity: Identity
) -> NDArray[np.uint64] | None:
    """Hashes of the rows that a version was trained on; None where they are not known.

    None of them is among the test rows of the same data and split, so that there none are named.
    """
    theirs = Identity(version.tags.get("kd.data_digest", ""), version.tags.get("kd.split", ""))
    if theirs == identity:
        return np.empty(0, dtype=np.uint64)
    run_id = version.tags.get("kd.run_id")
    if not run_id:
        return None
    try:
        path = tracker.download(run_id, TRAINED_ROWS)
    except RunError:  # an early run, or one that is gone
        return None
    hashes: NDArray[np.uint64] = np.load(path, allow_pickle=False)
    return hashes


def _broken_text(version: ModelVersion, verb: str, error: Exception) -> str:
    return (
        f"version {version.version} of {version.name!r}, in production, does not {verb}: "
        f"{masked(one_line(error))}; nothing was moved: roll back to a version that does, or "
        "promote with policy=any"
    )
