"""Python processes that pulled models are asked in, with nothing of the caller's credentials.

A model's code runs as it is loaded. A candidate is asked where this package is not; what stands in
production, of any origin, by this package.
"""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray

from kd_mlflow.errors import RegistryError, RunError, Unavailable, first_line, listed
from kd_mlflow.evaluation.thresholds import Cutoff, cutoff_of
from kd_mlflow.local_state import scratch
from kd_mlflow.models import pulled
from kd_mlflow.models.any_model import load_any, pickle_files
from kd_mlflow.models.own_code import foreign
from kd_mlflow.models.pulled import as_npz, private_output
from kd_mlflow.models.respondent import SCORED, Respondent, error_text
from kd_mlflow.registry.records import named
from kd_mlflow.serving.scoring import text_of
from kd_mlflow.tracking.failures import masked

_log = logging.getLogger(__name__)

KEPT: tuple[str, ...] = (
    *("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "LC_ALL", "TZ"),
    *("OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"),
)
"""What a model may need of the caller's environment: no address, password or setting of a store."""

UNREADABLE = (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile)
"""What an answer raises that is not as it should be."""

NOT_MOVED = "nothing was moved: roll back to a version that does, or promote with policy=any"
"""What to do where production cannot be asked."""

PATIENCE_S = 600
"""How long a model may take to load and to score the test rows."""


@dataclass(frozen=True, kw_only=True)
class PulledAnswers:
    """What a pulled model answered; ``places`` are the classes' columns of its predictions.

    Shape: probabilities (n, classes), places (n,), -1 for a prediction that is no class.
    ``latency_ms`` is the median time of one row, None where it was not measured.
    """

    classes: tuple[str, ...]
    probabilities: NDArray[np.float64]
    places: NDArray[np.int64]
    latency_ms: float | None


class CleanProcess:
    """Python in isolated mode and an empty folder, without this package; ends with the block.

    Of the caller's environment it has what ``KEPT`` names, and rows come and go through pipes. It
    imports MLflow as soon as it starts, which takes 2 s: open the block before other work.
    """

    command: tuple[str, ...] = ("-I", str(pulled.__file__))
    """What Python is started with."""

    kept = KEPT

    def __enter__(self) -> Self:
        self._open = ExitStack()
        folder = str(self._open.enter_context(scratch()))
        self._said = self._open.enter_context(tempfile.TemporaryFile())
        kept = {name: os.environ[name] for name in self.kept if name in os.environ}
        own = {"HOME": folder, "TMPDIR": folder, "MLFLOW_DISABLE_TELEMETRY": "true"}
        command, pipe = [sys.executable, *self.command], subprocess.PIPE
        self.process = self._open.enter_context(
            subprocess.Popen(
                command, cwd=folder, env=kept | own, stdin=pipe, stdout=pipe, stderr=self._said
            )
        )
        self._open.callback(self.process.kill)
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def ask(self, model: Path, rows: pd.DataFrame, *, timed: bool) -> PulledAnswers | Unavailable:
        """Load a folder's model there and score raw rows, once; ``timed``: a row's time too."""
        answer = self.exchange({"model": str(model), "timed": timed}, rows)
        return answer if isinstance(answer, Unavailable) else read_answers(answer)

    def exchange(self, request: Mapping[str, Any], rows: pd.DataFrame) -> bytes | Unavailable:
        """Send a request and rows; what came back, or why nothing did."""
        process = self.process
        try:
            given = json.dumps(request).encode() + b"\n" + written_rows(rows)
            answer, _ = process.communicate(given, timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            return Unavailable(f"does not load and score within {PATIENCE_S} seconds")
        if process.returncode:
            self._said.seek(0)
            lines = self._said.read().decode(errors="replace").strip().splitlines()
            said = lines[-1][:200] if lines else f"it ended with {process.returncode}"
            return Unavailable(f"does not load and score: {said}")
        return bytes(answer)


def written_rows(rows: pd.DataFrame) -> bytes:
    """Raw rows for ``pulled.answer``; what has no type that Parquet knows, as its text."""
    texts = {}
    for name, column in rows.items():
        if column.dtype == object:
            try:
                pa.array(column, from_pandas=True)
            except pa.ArrowException:
                texts[str(name)] = column.map(text_of, na_action="ignore")
    return bytes(rows.assign(**texts).to_parquet())


def read_answers(answer: bytes) -> PulledAnswers | Unavailable:
    """What ``pulled.answer`` wrote."""
    try:
        about, arrays = read_npz(answer)
        return PulledAnswers(
            classes=tuple(map(str, about["classes"])),
            probabilities=arrays["probabilities"],
            places=arrays["places"],
            latency_ms=about["latency_ms"],
        )
    except UNREADABLE as error:
        return Unavailable(f"answers with what cannot be read: {first_line(error)}")


def read_npz(answer: bytes) -> tuple[Any, dict[str, NDArray[Any]]]:
    """What ``pulled.as_npz`` wrote, without unpickling; raises ``UNREADABLE`` for all else."""
    with np.load(io.BytesIO(answer), allow_pickle=False) as file:
        arrays = dict(file)
    return json.loads(bytes(arrays.pop("about"))), arrays


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the version in production says of rows, and how it is asked.

    ``classes`` are None where it names none. Shape: answers (n, classes) in the order that was
    asked for; None where its classes are others, Unavailable where the rows lack columns.
    """

    classes: tuple[str, ...] | None
    columns: tuple[str, ...]
    threshold: Cutoff | None
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
        model = load_any(folder, name, tuple(rows.columns), role=SCORED._replace(noun="version"))
    except Exception as error:  # unpickling may raise anything
        reason = f"does not load: {masked(error_text(error))}"
        raise RegistryError(f"version {name} {reason}; {NOT_MOVED}") from None
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

    command = ("-P", "-c", f"import gc; gc.disable(); from {__name__} import main; main()")
    kept = (*KEPT, "PYTHONPATH")

    def ask_version(
        self, version: ModelVersion, folder: Path, rows: pd.DataFrame, classes: Sequence[str]
    ) -> Standing:
        """Load a version's pulled files there and score raw rows; once per process.

        Raises RegistryError where it does not load or score.
        """
        about = {"name": version.name, "version": str(version.version), "classes": [*classes]}
        answer = self.exchange({**about, "folder": str(folder)}, rows)
        if isinstance(answer, Unavailable):
            raise RegistryError(f"{named(version)}, in production, {answer.reason}; {NOT_MOVED}")
        try:
            about, arrays = read_npz(answer)
            if "error" not in about:
                away = about.get("unavailable")
                return Standing(
                    classes=None if about["classes"] is None else tuple(about["classes"]),
                    columns=tuple(about["columns"]),
                    threshold=cutoff_of(about["threshold"]),
                    answers=arrays.get("answers") if away is None else Unavailable(away),
                )
        except UNREADABLE:
            about = {"error": "the version in production answers with what cannot be read"}
        raise RegistryError(str(about["error"]))


def main() -> None:
    """Wait for a request and rows on standard input, write the answers out."""
    gc.enable()  # off while all was imported, which it makes longer by a sixth
    out = private_output()
    if line := sys.stdin.buffer.readline():
        out.write(written_standing(json.loads(line), sys.stdin.buffer.read()))
        out.close()


def written_standing(request: dict[str, Any], given: bytes) -> bytes:
    """Ask the model of a request about rows in Parquet; ``answers`` and ``about`` as npz."""
    version = ModelVersion(request["name"], request["version"], 0)
    rows = pd.read_parquet(io.BytesIO(given))
    try:
        found = ask_here(version, Path(request["folder"]), rows, request["classes"])
    except RegistryError as error:
        return as_npz({"error": str(error)})
    about = {name: getattr(found, name) for name in ("classes", "columns", "threshold")}
    if isinstance(found.answers, Unavailable):
        return as_npz(about | {"unavailable": found.answers.reason})
    return as_npz(about, **({} if found.answers is None else {"answers": found.answers}))
