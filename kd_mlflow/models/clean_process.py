"""A Python process that knows nothing of this package, to ask a pulled model in."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from kd_mlflow.errors import Unavailable, first_line
from kd_mlflow.local_state import scratch
from kd_mlflow.models import pulled
from kd_mlflow.serving.scoring import text_of

KEPT: tuple[str, ...] = (
    *("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "LC_ALL", "TZ"),
    *("OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"),
)
"""What a model may need of the caller's environment: no address, password or setting of a store."""

UNREADABLE = (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile)
"""What an answer raises that is not as it should be."""

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
        self.process = subprocess.Popen(
            [sys.executable, *self.command],
            cwd=folder,
            env={**kept, **own},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
        )
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        self.process.wait()
        self._open.close()

    def ask(self, model: Path, rows: pd.DataFrame, *, timed: bool) -> PulledAnswers | Unavailable:
        """Load the model of a folder there and score raw rows; once per process.

        Unavailable where it does not load or does not score. ``timed``: measure a row's time too.
        """
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
            return Unavailable(f"does not load and score: {self._last_line(process.returncode)}")
        return bytes(answer)

    def _last_line(self, code: int) -> str:
        """The last line of what the process said, which is its error; at most 200 characters."""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else f"it ended with {code}"


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
    """The document and the arrays of ``pulled.as_npz``; nothing is unpickled.

    Raises one of ``UNREADABLE`` for anything else.
    """
    with np.load(io.BytesIO(answer), allow_pickle=False) as file:
        arrays = dict(file)
    return json.loads(bytes(arrays.pop("about"))), arrays
