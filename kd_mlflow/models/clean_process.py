"""A Python process that knows nothing of this package, to ask a pulled model in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from kd_mlflow.errors import Unavailable
from kd_mlflow.models import pulled
from kd_mlflow.serving.scoring import text_of

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

    It imports MLflow as soon as it starts, which takes 2 s: open the block before other work.
    """

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="kd-clean-")
        self._said = tempfile.TemporaryFile()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PYTHON"))}
        self.process = subprocess.Popen(
            [sys.executable, "-I", pulled.__file__],
            cwd=self._folder.name,
            env={**kept, "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait()
        self._said.close()
        self._folder.cleanup()

    def ask(self, model: Path, rows: pd.DataFrame, *, timed: bool) -> PulledAnswers | Unavailable:
        """Load the model of a folder there and score raw rows; once per process.

        Unavailable where it does not load or does not score. ``timed``: measure a row's time too.
        """
        process, folder = self.process, Path(self._folder.name)
        write_rows(rows, folder)
        request = {"model": str(model), "folder": str(folder), "timed": timed}
        try:
            process.communicate(json.dumps(request) + "\n", timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            return Unavailable(f"does not load and score within {PATIENCE_S} seconds")
        if process.returncode:
            return Unavailable(f"does not load and score: {self._last_line(process.returncode)}")
        return read_answers(folder)

    def _last_line(self, code: int) -> str:
        """The last line of what the process said, which is its error; at most 200 characters."""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else f"it ended with {code}"


def write_rows(rows: pd.DataFrame, folder: Path) -> None:
    """Write raw rows for ``pulled.answer``; what has no type that Parquet knows, as its text."""
    texts = {
        name: rows[name].map(text_of, na_action="ignore")
        for name in rows.columns
        if rows[name].dtype == object and not _storable(rows[name])
    }
    rows.assign(**texts).to_parquet(folder / pulled.ROWS)


def _storable(values: pd.Series[Any]) -> bool:
    try:
        pa.array(values, from_pandas=True)
    except pa.ArrowException:
        return False
    return True


def read_answers(folder: Path) -> PulledAnswers:
    """What ``pulled.answer`` wrote into a folder."""
    document = json.loads((folder / "answer.json").read_text())
    return PulledAnswers(
        classes=tuple(document["classes"]),
        probabilities=np.load(folder / "probabilities.npy", allow_pickle=False),
        places=np.load(folder / "places.npy", allow_pickle=False),
        latency_ms=document["latency_ms"],
    )
