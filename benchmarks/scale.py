"""Measure how time and memory grow with rows, members and features.

    python benchmarks/scale.py [--grid rows,members,features] [--plot FILE.png]

Tables come from the reference generator (``make_classification``, 10 informative and 5 redundant
columns) and lie in Parquet files. Each point is a process of its own that runs the entry point
``teachers`` on one of them. Time is that of the training, by row and member; peak memory is the
whole process's, beside four times the table in float32 plus 1 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

ROW_EPOCHS = 400_000
"""Rows times epochs of a training: enough for seconds of work, one epoch of a large table."""


@dataclass(frozen=True)
class Point:
    """One training."""

    rows: int
    members: int
    features: int

    @property
    def epochs(self) -> int:
        """Epochs that make small tables work as long as middle ones."""
        return max(1, ROW_EPOCHS // self.rows)

    @property
    def allowed_gib(self) -> float:
        """Four times the table in float32, and 1 GiB."""
        return 4 * self.rows * self.features * 4 / 2**30 + 1


GRIDS = {
    "rows": [Point(n, 4, 20) for n in (4_000, 40_000, 400_000, 4_000_000)],
    "members": [Point(40_000, k, 20) for k in (1, 4, 12, 48)],
    "features": [Point(40_000, 4, d) for d in (20, 100, 500)],
}


def write_table(point: Point, path: Path) -> None:
    """Write the table of a point, a part at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from sklearn.datasets import make_classification

    names = [f"feature_{i:03d}" for i in range(point.features)]
    x, y = make_classification(
        point.rows, point.features, n_informative=10, n_redundant=5, random_state=42
    )
    table = pa.table({**dict(zip(names, x.T, strict=True)), "label": y})
    pq.write_table(table, path)


def train(point: Point, path: Path) -> None:
    """Train on a file and print the seconds of training and the peak memory, as JSON."""
    from kd_mlflow.config.entry_points import TeachersConfig
    from kd_mlflow.pipeline import run_teachers
    from kd_mlflow.population.history import OnEpoch, ignore_epoch

    spent: list[float] = []

    class Clock:
        def say(self, text: str) -> None:
            pass

        @contextmanager
        def training(self, label: str, members: int, epochs: int) -> Iterator[OnEpoch]:
            start = time.perf_counter()
            yield ignore_epoch
            spent.append(time.perf_counter() - start)

    config = TeachersConfig(
        data=str(path),
        target="label",
        recipe="reference",
        n_teachers=point.members,
        teacher_epochs=point.epochs,
        force=True,
    )
    start = time.perf_counter()
    run_teachers(config, Clock())
    whole = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()  # ru_maxrss would count the parent's memory too
    peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 2**20
    print(json.dumps({"training_s": spent[0], "whole_s": whole, "peak_gib": peak}))


def measured(point: Point, folder: Path) -> dict[str, float]:
    """One point, in a process of its own."""
    path = folder / f"{point.rows}x{point.features}.parquet"
    if not path.exists():
        arguments = [sys.executable, __file__, "--write", json.dumps(asdict(point)), str(path)]
        subprocess.run(arguments, check=True)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    result = subprocess.run(
        [sys.executable, __file__, "--train", json.dumps(asdict(point)), str(path)],
        env={**inherited, "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"},
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    trained = point.rows * 0.72 * point.members * point.epochs
    return {**found, "us_per_row": found["training_s"] / trained * 1e6}


def plot(frame: pd.DataFrame, path: Path) -> None:
    """Draw time by row and member, and peak memory beside what is allowed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6 * frame["grid"].nunique()), layout="constrained")
    axes = figure.subplots(frame["grid"].nunique(), 2, squeeze=False)
    for (left, right), (grid, part) in zip(axes, frame.groupby("grid", sort=False), strict=True):
        left.plot(part[grid], part["us_per_row"], "o-", color="#0072B2")
        left.set(ylabel="training, µs by row and member")
        right.plot(part[grid], part["peak_gib"], "o-", color="#0072B2", label="peak")
        right.plot(
            part[grid], part["allowed_gib"], "--", color="#666666", label="4 x table + 1 GiB"
        )
        right.set(ylabel="memory, GiB")
        right.legend(frameon=False, loc="lower right")
        for axis in (left, right):
            axis.set(xscale="log", xlabel=grid, ylim=(0, 1.15 * axis.get_ylim()[1]))
            axis.set_xticks(part[grid], [f"{value:,}" for value in part[grid]])
            axis.minorticks_off()
            axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print a table of the grids that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", default=",".join(GRIDS))
    parser.add_argument("--plot", type=Path)
    for step in ("--write", "--train"):
        parser.add_argument(step, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for step, work in ((options.write, write_table), (options.train, train)):
        if step:
            return work(Point(**json.loads(step[0])), Path(step[1]))
    rows = []
    print("    rows  members  features  epochs  µs by row and member  whole s  peak GiB  allowed")
    with tempfile.TemporaryDirectory() as folder:
        for grid in options.grid.split(","):
            for point in GRIDS[grid]:
                found = measured(point, Path(folder))
                print(
                    f"{point.rows:>8}  {point.members:>7}  {point.features:>8}  {point.epochs:>6}  "
                    f"{found['us_per_row']:>20.2f}  {found['whole_s']:>7.1f}  "
                    f"{found['peak_gib']:>8.2f}  {point.allowed_gib:>7.2f}",
                    flush=True,
                )
                rows.append({**asdict(point), **found, "grid": grid})
                rows[-1]["allowed_gib"] = point.allowed_gib
    if options.plot:
        plot(pd.DataFrame(rows), options.plot)


if __name__ == "__main__":
    main()
