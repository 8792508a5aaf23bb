"""Measure the pulled student against MLflow's floor and against its ensemble, served the same way.

    python benchmarks/serving.py [--seconds 10] [--rounds 3]

In process: one row and 100,000 rows through pyfunc, beside a model that answers with its own input
under the same signature (MLflow's floor); one row through the torch flavour; arithmetic of a row,
counted by torch. Over HTTP: ``mlflow models serve`` for each model in turn, one row a request from
four connections by wrk (a load generator, in Debian as ``wrk``): median and 99th percentile of the
latency, requests a second. The ensemble is packaged as the student is, its teachers one after the
other and their probabilities averaged.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import mlflow
import pandas as pd
import torch
from mlflow.models import Model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kd_mlflow.config import MainConfig
from kd_mlflow.distillation.networks import Networks
from kd_mlflow.distillation.teachers import Ensemble
from kd_mlflow.pipeline import run_main
from kd_mlflow.population.losses import average_probabilities
from kd_mlflow.table.dataset import read_dataset
from kd_mlflow.table.encoding import Scaler
from kd_mlflow.tracking import packaging

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the tests start servers as users do
from served import served

STUDENT = "models:/kd-student@production"


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


class Identity(mlflow.pyfunc.PythonModel):
    """Answers with its input."""

    def predict(self, context: object, model_input: object, params: object = None) -> object:
        """Return the input."""
        return model_input


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Median time of a call."""
    times = []
    for _ in range(repeats + 10):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[10:]) * 1e3


def flops(module: nn.Module, columns: int) -> int:
    """Multiplications and additions of one row, by torch's counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, columns))
    return int(counter.get_total_flops())


def in_process(folder: Path, rows: pd.DataFrame) -> None:
    """Print the student's times beside those of the identity model."""
    one, many = rows.iloc[:1], rows.sample(100_000, replace=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            folder / "identity",
            python_model=Identity(),
            signature=mlflow.models.get_model_info(STUDENT).signature,
            pip_requirements=[],
        )
        identity = mlflow.pyfunc.load_model(str(folder / "identity"))
    floor = milliseconds(lambda: identity.predict(one), 500)  # before the student is loaded
    student = mlflow.pyfunc.load_model(STUDENT)
    ours = milliseconds(lambda: student.predict(one), 500)
    bulk = milliseconds(lambda: student.predict(many), 5)
    module = mlflow.pytorch.load_model(STUDENT, device="cpu")
    row = torch.zeros(1, rows.shape[1])
    with torch.inference_mode():
        tensor = milliseconds(lambda: module(row), 2000)
    print(f"one row through pyfunc       {ours:7.3f} ms, {ours - floor:+.3f} to the floor")
    print(f"MLflow's floor               {floor:7.3f} ms")
    print(f"one row through torch        {tensor:7.3f} ms")
    print(f"100,000 rows through pyfunc  {bulk / 1e3:7.3f} s")


def load(address: str, folder: Path, seconds: int) -> tuple[float, float, float]:
    """Median and 99th percentile in milliseconds, and requests a second, by wrk."""
    result = subprocess.run(
        ["wrk", "-t1", "-c4", f"-d{seconds}s", "--latency", "-s", "post.lua", address],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    if "Non-2xx" in result:
        raise SystemExit(f"the server refused requests:\n{result}")
    units = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    figures = []
    for share in ("50%", "99%"):
        value, unit = re.search(rf"{share}\s+([\d.]+)(us|ms|s)", result).groups()
        figures.append(float(value) * units[unit])
    per_second = float(re.search(r"Requests/sec:\s+([\d.]+)", result).group(1))
    return figures[0], figures[1], per_second


def over_http(folder: Path, uri: str, rows: pd.DataFrame, seconds: int, rounds: int) -> None:
    """Print what wrk finds for each model, in turn."""
    payload = json.dumps({"dataframe_split": rows.iloc[:1].to_dict(orient="split")})
    script = 'wrk.method="POST"\nwrk.headers["Content-Type"]="application/json"\nwrk.body=[==['
    (folder / "post.lua").write_text(script + payload + "]==]\n")
    found: dict[str, list[tuple[float, float, float]]] = {"student": [], "ensemble": []}
    for _ in range(rounds):
        for name, model in (("student", STUDENT), ("ensemble", str(folder / "ensemble"))):
            with served(uri, folder, model) as address:
                load(f"{address}/invocations", folder, 2)
                found[name].append(load(f"{address}/invocations", folder, seconds))
    print("served      median ms   99 % ms   requests a second")
    for name, values in found.items():
        middle = [statistics.median(column) for column in zip(*values, strict=True)]
        print(f"{name:<10}  {middle[0]:>9.2f}  {middle[1]:>8.2f}  {middle[2]:>18.0f}")


def main() -> None:
    """Train, package and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is missing: apt-get install wrk")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        mlflow.set_tracking_uri(uri)
        result = run_main(MainConfig(recipe="reference", max_accuracy_gap=1.0))
        rows = read_dataset(MainConfig()).features("test").reset_index(drop=True)
        ensemble = NetworksModule(result.taught.ensemble)
        packaging.save_model(
            str(folder / "ensemble"), Model(), module=ensemble, example=rows.head(2)
        )
        in_process(folder, rows)
        student = result.distill.comparison.summary["student_parameters"]
        module = mlflow.pytorch.load_model(STUDENT, device="cpu")
        mine, theirs = (flops(m, rows.shape[1]) for m in (module, ensemble))
        print(
            f"arithmetic of a row          {mine:,} against {theirs:,}: {theirs / mine:.0f} times "
            f"less; {student:,.0f} parameters\n"
        )
        over_http(folder, uri, rows, options.seconds, options.rounds)


if __name__ == "__main__":
    main()
