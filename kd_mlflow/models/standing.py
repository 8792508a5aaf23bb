"""The version in production asked about rows: a model of other origins in a process of its own.

Its code runs as it is loaded. The process knows this package, which asks it, and has nothing of the
caller's environment but what a model needs: no credentials, no address of a store.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray

from kd_mlflow.errors import RegistryError, RunError, Unavailable, listed
from kd_mlflow.models.any_model import load, pickle_files
from kd_mlflow.models.clean_process import KEPT, UNREADABLE, CleanProcess, read_npz
from kd_mlflow.models.own_code import foreign
from kd_mlflow.models.pulled import as_npz, private_output
from kd_mlflow.models.respondent import SCORED, Respondent, error_text
from kd_mlflow.tracking.failures import masked

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the version in production says of rows, and how it is asked.

    ``classes`` are None where it names none. Shape: answers (n, classes) in the order that was
    asked for; None where its classes are others, Unavailable where the rows lack columns.
    """

    classes: tuple[str, ...] | None
    columns: tuple[str, ...]
    threshold: float | None
    answers: NDArray[np.float64] | Unavailable | None


def ask_production(
    version: ModelVersion, folder: Path, rows: pd.DataFrame, classes: Sequence[str]
) -> Standing:
    """Load a version's pulled files and score raw rows; say so where it is a pickle.

    Raises RegistryError where it does not load or score.
    """
    if pickles := pickle_files(folder):
        _log.warning(
            "version %s of %s, in production, is loaded to be scored: it is a pickle (%s), which "
            "may run any code",
            version.version,
            version.name,
            ", ".join(pickles),
        )
    if foreign(folder, str(version.source)) is None:
        return ask_here(version, folder, rows, classes)
    with StandingProcess() as process:
        return process.ask_version(version, folder, rows, classes)


def ask_here(
    version: ModelVersion, folder: Path, rows: pd.DataFrame, classes: Sequence[str]
) -> Standing:
    """The same in this process, whatever it runs."""
    name = f"{version.version} of {version.name!r}, in production,"
    try:
        model = load(folder, name, tuple(rows.columns), role=SCORED._replace(noun="version"))
    except Exception as error:  # unpickling may raise anything
        raise RegistryError(
            f"version {name} does not load: {masked(error_text(error))}; nothing was moved: roll "
            "back to a version that does, or promote with policy=any"
        ) from None
    own = model.own_classes()
    same = own is None or sorted(own) == sorted(classes)
    return Standing(
        classes=own,
        columns=model.respondent.columns,
        threshold=model.threshold,
        answers=_answers(version, model.respondent, rows, classes) if same else None,
    )


def _answers(
    version: ModelVersion, model: Respondent, rows: pd.DataFrame, classes: Sequence[str]
) -> NDArray[np.float64] | Unavailable:
    """Shape: n rows -> (n, classes); Unavailable where the rows lack columns that it reads."""
    if missing := [name for name in model.columns if name not in rows.columns]:
        return Unavailable(
            f"cannot be compared with version {version.version}, in production, which reads "
            f"columns that these rows do not have: {listed(missing)}; policy=any does not compare"
        )
    try:
        return model.probabilities(rows, classes)
    except RunError as error:
        raise RegistryError(
            f"{masked(str(error))}; nothing was moved: roll back to a version that scores, or "
            "promote with policy=any"
        ) from None


class StandingProcess(CleanProcess):
    """A process that asks a model in production, with the paths that this one imports from."""

    command = ("-P", "-c", "from kd_mlflow.models.standing import main; main()")
    kept = (*KEPT, "PYTHONPATH")

    def ask_version(
        self, version: ModelVersion, folder: Path, rows: pd.DataFrame, classes: Sequence[str]
    ) -> Standing:
        """Load a version's pulled files there and score raw rows; once per process.

        Raises RegistryError where it does not load or score.
        """
        name, number = version.name, str(version.version)
        request = {"name": name, "version": number, "folder": str(folder), "classes": [*classes]}
        answer = self.exchange(request, rows)
        if isinstance(answer, Unavailable):
            raise RegistryError(
                f"version {number} of {name!r}, in production, {answer.reason}; nothing was "
                "moved: roll back to a version that does, or promote with policy=any"
            )
        return read_standing(answer)


def main() -> None:
    """Wait for a request and rows on standard input, write the answers out."""
    out = private_output()
    if line := sys.stdin.buffer.readline():
        out.write(written_standing(json.loads(line), sys.stdin.buffer.read()))
        out.close()


def written_standing(request: dict[str, Any], given: bytes) -> bytes:
    """Ask the model of a request about rows in Parquet; ``answers`` and ``about`` as npz."""
    version = ModelVersion(request["name"], request["version"], 0)
    rows, arrays = pd.read_parquet(io.BytesIO(given)), {}
    try:
        found = ask_here(version, Path(request["folder"]), rows, request["classes"])
    except RegistryError as error:
        about: dict[str, Any] = {"error": str(error)}
    else:
        about = {name: getattr(found, name) for name in ("classes", "columns", "threshold")}
        if isinstance(found.answers, Unavailable):
            about["unavailable"] = found.answers.reason
        elif found.answers is not None:
            arrays = {"answers": found.answers}
    return as_npz(about, **arrays)


def read_standing(answer: bytes) -> Standing:
    """What ``written_standing`` wrote.  Raises RegistryError for what the process could not do."""
    try:
        about, arrays = read_npz(answer)
        if "error" not in about:
            away = about.get("unavailable")
            return Standing(
                classes=None if about["classes"] is None else tuple(about["classes"]),
                columns=tuple(about["columns"]),
                threshold=about["threshold"],
                answers=arrays.get("answers") if away is None else Unavailable(away),
            )
    except UNREADABLE:
        about = {"error": "the version in production answers with what cannot be read"}
    raise RegistryError(str(about["error"]))
