"""Measure the pulled student against its ensemble, MLflow's floor, and a student of another commit.

    python benchmarks/serving.py [--before CHECKOUT] [--seconds 4] [--rounds 5] [--environments]

CHECKOUT is a folder with another commit of this repository (``git worktree add CHECKOUT COMMIT``):
its own code trains and packages a student of the same table, and its figures stand beside ours.

Each model in turn, round by round, so that figures of one round can be compared. In a new process:
the cold start (import, load, first row), one row, 100,000 rows. Over HTTP: ``mlflow models serve``
with one worker and with two, one row per request, from 1, 4 and 16 connections of wrk (a load
generator, in Debian as ``wrk``); and the processor's time that the server took per request, which
other programs of a busy machine change little. ``--environments`` builds a virtual environment of
each model's requirements with pip, which downloads them, and prints its size. The networks of the
ensemble are packaged as the student is, one after the other and their probabilities averaged; the
floor is a model that answers with its own input under the same signature.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
import warnings
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kd_mlflow.config.entry_points import MainConfig
from kd_mlflow.distillation.networks import Networks
from kd_mlflow.distillation.teachers import Ensemble
from kd_mlflow.pipeline import run_main
from kd_mlflow.population.losses import average_probabilities
from kd_mlflow.serving.student import Student
from kd_mlflow.table.dataset import read_dataset
from kd_mlflow.table.encoding import Scaler

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the tests start servers as users do
from served import served, started

STUDENT = "models:/kd-student@production"

TRAIN = """
import sys, mlflow
from kd_mlflow.config.entry_points import MainConfig
from kd_mlflow.pipeline import run_main
run_main(MainConfig(recipe="reference", max_accuracy_gap=1.0, max_log_loss_gap=0.0))
mlflow.artifacts.download_artifacts("models:/kd-student@production", dst_path=sys.argv[1])
"""

ASK = """
import json, statistics, sys, time
started = time.perf_counter()
import mlflow, pandas
imported = time.perf_counter() - started
rows = pandas.read_csv(sys.argv[2])
one, many = rows.iloc[:1], rows.sample(100_000, replace=True, random_state=0)
started = time.perf_counter()
model = mlflow.pyfunc.load_model(sys.argv[1])
model.predict(one)
cold = imported + time.perf_counter() - started

def seconds(table, repeats):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        model.predict(table)
        times.append(time.perf_counter() - start)
    return statistics.median(times[repeats // 10:])

found = {"cold start, s": cold, "one row, ms": 1e3 * seconds(one, 1000)}
print(json.dumps({**found, "100,000 rows, ms": 1e3 * seconds(many, 9)}))
"""

Figures = dict[str, list[float]]


class NetworksModule(nn.Module):
    """An ensemble's networks with their scalers.

    Shape: encoded columns (n, columns) -> logits (n, classes).
    """

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        families = [family for family in ensemble.families if isinstance(family, Networks)]
        self.scalers = nn.ModuleList(Scaler(family.encoding) for family in families)
        self.teachers = nn.ModuleList(
            nn.ModuleList(family.population.member(i).eval() for i in range(family.population.k))
            for family in families
        )

    def forward(self, x: Tensor) -> Tensor:
        answers = [
            teacher(inputs)
            for scaler, teachers in zip(self.scalers, self.teachers, strict=True)
            for inputs in [scaler(x)]
            for teacher in teachers
        ]
        return average_probabilities(torch.stack(answers))

    def probabilities(self, encoded: np.ndarray) -> np.ndarray:
        """What the student's network is asked for.  Shape: (n, columns) -> (n, classes)."""
        with torch.inference_mode():
            return self(torch.from_numpy(encoded)).softmax(dim=1).numpy()


class ServedEnsemble(Student):
    """An ensemble's networks as the student is served."""

    def __init__(self, ensemble: Ensemble) -> None:
        self.given = ensemble.encoding.to_dict(), NetworksModule(ensemble)

    def load_context(self, context: object) -> None:
        """Take the ensemble for the student's network."""
        self.prepare(*self.given)


class Identity(mlflow.pyfunc.PythonModel):
    """Answers with its input."""

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Return the input."""
        return model_input


def packaged(model: mlflow.pyfunc.PythonModel, folder: Path, signature: object) -> Path:
    """Save a model of this file; return its folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            folder, python_model=model, signature=signature, pip_requirements=[]
        )
    return folder


def trained_elsewhere(checkout: Path, folder: Path) -> Path:
    """Train and package a student with another checkout's code; return its folder."""
    folder.mkdir()
    own = {"PYTHONPATH": str(checkout), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    subprocess.run(
        [sys.executable, "-c", TRAIN, str(folder / "student")],
        cwd=folder,
        env={**os.environ, **own},
        check=True,
        capture_output=True,
    )
    return folder / "student"


def in_process(model: Path, rows: Path) -> dict[str, float]:
    """Cold start, one row, many rows, in a new process."""
    command = [sys.executable, "-W", "ignore", "-c", ASK, str(model), str(rows)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(said.splitlines()[-1]))


def over_http(model: Path, folder: Path, workers: int, seconds: int) -> dict[str, float]:
    """Requests a second by connections, and the server's milliseconds of processor per request."""
    found, used, requests = {}, 0.0, 0
    with served("sqlite://", folder, str(model), workers=workers, start=started) as address:
        load(address, folder, connections=4, seconds=1)  # warms it up
        for connections in (1, 4, 16):
            began = processor_seconds(address)
            rate, number = load(address, folder, connections=connections, seconds=seconds)
            used += processor_seconds(address) - began
            requests += number
            found[f"{connections} connections, {workers} workers, 1/s"] = rate
    found[f"processor, {workers} workers, ms/request"] = 1e3 * used / requests
    return found


def load(address: str, folder: Path, *, connections: int, seconds: int) -> tuple[float, int]:
    """Requests a second, and how many there were, by wrk."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", "post.lua"]
    said = subprocess.run(
        [*command, f"{address}/invocations"], cwd=folder, check=True, capture_output=True, text=True
    ).stdout
    if "Non-2xx" in said:
        raise SystemExit(f"the server refused requests:\n{said}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said).group(1)
    return float(rate), int(re.search(r"(\d+) requests in", said).group(1))


def processor_seconds(address: str) -> float:
    """Time on processors of all processes of the session that serves an address (Linux)."""
    port, sessions, used = address.rpartition(":")[2], set(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "stat").read_text().rpartition(")")[2].split()
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        used.append((words[3], int(words[11]) + int(words[12])))
        if port.encode() in command:
            sessions.add(words[3])
    ticks = sum(time for session, time in used if session in sessions)
    return ticks / os.sysconf("SC_CLK_TCK")


def environment_mb(model: Path, folder: Path) -> float:
    """Size of a virtual environment of a model's requirements, in megabytes."""
    venv.create(folder, with_pip=True)
    requirements = str(model / "requirements.txt")
    subprocess.run([folder / "bin" / "pip", "install", "-q", "-r", requirements], check=True)
    return sum(p.stat().st_size for p in folder.rglob("*") if not p.is_symlink()) / 1e6


def flops(module: nn.Module, columns: int) -> int:
    """Multiplications and additions of one row, by torch's counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, columns))
    return int(counter.get_total_flops())


def show(found: dict[str, Figures]) -> None:
    """Print each model's medians; the student's beside those of another commit, round by round."""
    names = list(found)
    print(f"{'':<36}" + "".join(f"{name:>11}" for name in names) + "   student / before (range)")
    for figure, own in found["student"].items():
        columns = [found[name].get(figure) for name in names]
        shown = [f"{statistics.median(c):>11.3g}" if c else f"{'':>11}" for c in columns]
        before, ratio = found.get("before", {}).get(figure), ""
        if before:
            pairs = [mine / theirs for mine, theirs in zip(own, before, strict=True)]
            ratio = f"   {statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"
        print(f"{figure:<36}" + "".join(shown) + ratio, flush=True)


def measure(models: dict[str, Path], folder: Path, options: argparse.Namespace) -> None:
    """Measure all models in turn, as often as asked, and print what was found."""
    found: dict[str, Figures] = {name: {} for name in models}
    for _ in range(options.rounds):
        for name, model in models.items():
            figures = in_process(model, folder / "rows.csv")
            for workers in (1, 2) if name != "floor" else ():
                figures |= over_http(model, folder, workers, options.seconds)
            for figure, value in figures.items():
                found[name].setdefault(figure, []).append(value)
    for name in {"student", "before"} & models.keys() if options.environments else ():
        size = environment_mb(models[name], folder / f"environment-{name}")
        found[name]["environment, MB"] = [size]
    show(found)


def main() -> None:
    """Train, package and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--environments", action="store_true")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is missing: apt-get install wrk")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        result = run_main(
            MainConfig(recipe="reference", max_accuracy_gap=1.0, max_log_loss_gap=0.0)
        )
        rows = read_dataset(MainConfig()).features("test").reset_index(drop=True)
        rows.to_csv(folder / "rows.csv", index=False)
        body = json.dumps({"dataframe_split": rows.iloc[:1].to_dict(orient="split")})
        script = 'wrk.method="POST"\nwrk.headers["Content-Type"]="application/json"\nwrk.body='
        (folder / "post.lua").write_text(f"{script}[==[{body}]==]\n")
        signature = mlflow.models.get_model_info(STUDENT).signature
        models = {"floor": packaged(Identity(), folder / "floor", signature)}
        ensemble = ServedEnsemble(result.taught.ensemble)
        models["ensemble"] = packaged(ensemble, folder / "ensemble", signature)
        if options.before:
            models["before"] = trained_elsewhere(options.before.resolve(), folder / "before")
        pulled = mlflow.artifacts.download_artifacts(STUDENT, dst_path=str(folder / "student"))
        models["student"] = Path(pulled)
        measure(models, folder, options)
        module = mlflow.pytorch.load_model(STUDENT, device="cpu")
        mine, theirs = (flops(m, rows.shape[1]) for m in (module, ensemble.given[1]))
        print(f"arithmetic of a row: {mine:,} against {theirs:,}, {theirs / mine:.0f} times less")


if __name__ == "__main__":
    main()
