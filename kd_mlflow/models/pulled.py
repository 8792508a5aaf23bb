"""A pulled model's answers, in a process of its own: run as a script by ``processes``.

It imports nothing of the package, and nothing that it loads can: a model that would need the
package is not self-contained.
"""

from __future__ import annotations

import gc
import io
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

PROBABILITY = "probability_"

WARM_UP, TIMED = 30, 200
"""Calls with one row before the clock runs, and calls whose median time counts."""


def main() -> None:
    """Import MLflow, wait for a request and rows on standard input, write the answers out.

    What a model prints goes nowhere: standard output has the answers alone.
    """
    sys.modules["kd_mlflow"] = None  # type: ignore[assignment]  # so that importing it fails
    out = private_output()
    gc.disable()  # walking what comes in, again and again and at the exit, takes a third of it all
    import mlflow.pyfunc  # noqa: F401  # it comes in while the other process has work of its own

    gc.freeze()
    gc.enable()
    line = sys.stdin.buffer.readline()
    if line:
        request = json.loads(line)
        rows = sys.stdin.buffer.read()
        out.write(answer(Path(request["model"]), rows, timed=request["timed"]))
        out.close()


def private_output() -> BinaryIO:
    """Standard output as it was; what is printed from now on goes nowhere."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return out


def answer(model_folder: Path, given: bytes, *, timed: bool) -> bytes:
    """Score rows in Parquet; the arrays ``probabilities``, ``places`` and ``about``, JSON, as npz.

    ``places`` are the columns of each row's prediction. ``timed``: measure one row's time too.
    """
    import mlflow.pyfunc
    import numpy as np
    import pandas as pd

    rows = pd.read_parquet(io.BytesIO(given))  # written by the process that asks
    model = mlflow.pyfunc.load_model(str(model_folder))
    frame = rows[model.metadata.get_input_schema().input_names()]
    answers = model.predict(frame)
    classes = classes_of(answers.columns)
    names = [f"{PROBABILITY}{name}" for name in classes]
    places = pd.Index(classes).get_indexer(answers["prediction"].map(str))
    latency_ms = row_ms(model, frame.head(1)) if timed else None
    about = {"classes": classes, "latency_ms": latency_ms}
    return as_npz(about, probabilities=answers[names].to_numpy(np.float64), places=places)


def classes_of(columns: Iterable[Any]) -> list[str]:
    """Classes by the names of their columns of probabilities, which may stand among others."""
    names = map(str, columns)
    return [name.removeprefix(PROBABILITY) for name in names if name.startswith(PROBABILITY)]


def as_npz(about: Any, **arrays: Any) -> bytes:
    """Arrays and a JSON document, ``about``, as npz without a pickle."""
    import numpy as np

    written = io.BytesIO()
    document = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    np.savez(written, allow_pickle=False, about=document, **arrays)
    return written.getvalue()


def row_ms(model: Any, row: Any) -> float:
    """Median time of a prediction of one row, in milliseconds."""
    times = []
    for _ in range(WARM_UP + TIMED):
        start = time.perf_counter()
        model.predict(row)
        times.append(time.perf_counter() - start)
    return sorted(times[WARM_UP:])[TIMED // 2] * 1000


if __name__ == "__main__":
    main()
