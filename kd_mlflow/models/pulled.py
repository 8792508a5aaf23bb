"""A pulled model's answers, in a process of its own: run as a script by ``clean_process``.

It imports nothing of the package, and nothing that it loads can: a model that would need the
package is not self-contained.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

PROBABILITY = "probability_"

ROWS = "rows.parquet"

WARM_UP, TIMED = 30, 200
"""Calls with one row before the clock runs, and calls whose median time counts."""


def main() -> None:
    """Import MLflow, wait for a request on standard input, answer into files."""
    sys.modules["kd_mlflow"] = None  # type: ignore[assignment]  # so that importing it fails
    import mlflow.pyfunc  # noqa: F401  # it comes in while the other process has work of its own

    line = sys.stdin.readline()
    if line:
        request = json.loads(line)
        answer(Path(request["model"]), Path(request["folder"]), timed=request["timed"])


def answer(model_folder: Path, folder: Path, *, timed: bool) -> None:
    """Score ``ROWS`` of a folder; write ``probabilities.npy``, ``places.npy``, ``answer.json``.

    ``places`` are the columns of each row's prediction. ``timed``: measure one row's time too.
    """
    import mlflow.pyfunc
    import numpy as np
    import pandas as pd

    rows = pd.read_parquet(folder / ROWS)  # written by the process that asks
    model = mlflow.pyfunc.load_model(str(model_folder))
    frame = rows[model.metadata.get_input_schema().input_names()]
    answers = model.predict(frame)
    names = [name for name in answers.columns if str(name).startswith(PROBABILITY)]
    places = pd.Index(names).get_indexer(PROBABILITY + answers["prediction"].map(str))
    np.save(folder / "probabilities.npy", answers[names].to_numpy(np.float64))
    np.save(folder / "places.npy", places)
    classes = [str(name).removeprefix(PROBABILITY) for name in names]
    latency_ms = median_ms(model, frame.head(1)) if timed else None
    document = {"classes": classes, "latency_ms": latency_ms}
    (folder / "answer.json").write_text(json.dumps(document))


def median_ms(model: Any, row: Any) -> float:
    """Median time of a prediction of one row, in milliseconds."""
    times = []
    for _ in range(WARM_UP + TIMED):
        start = time.perf_counter()
        model.predict(row)
        times.append(time.perf_counter() - start)
    return sorted(times[WARM_UP:])[TIMED // 2] * 1000


if __name__ == "__main__":
    main()
