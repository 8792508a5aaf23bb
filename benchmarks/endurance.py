"""Measure what a served student and a tracking server are like under load and after many runs.

    python benchmarks/endurance.py [--seconds 60] [--connections 32] [--runs 200]

Load: ``mlflow models serve`` of ``models:/kd-student@production`` with two workers, one row a
request from many connections by wrk (a load generator, in Debian as ``wrk``): requests, median and
99th percentile of the latency, errors, memory of the server's processes before and after.

Soak: tiny runs of ``distill``, each with its own seed, one after the other from one process to one
tracking server: time of a run, open files and memory of the process and of the server, in tenths.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import mlflow
import psutil

from kd_mlflow.config.entry_points import DistillConfig, MainConfig, TeachersConfig
from kd_mlflow.pipeline import run_distill, run_main, run_teachers
from kd_mlflow.table.dataset import read_dataset

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the tests start servers as users do
from served import mlflow_server, served, started

MODEL = {
    "data": "wine",
    "n_teachers": 1,
    "teacher_epochs": 2,
    "teacher_hidden": (16,),
    "n_boosted": 1,
}
STUDENT = {
    "data": "wine",
    "n_students": 1,
    "student_epochs": 3,
    "student_hidden": (8,),
    "student_bins": 0,
    "temperature": 3.0,
    "augment_factor": 1,
}
GATE = {
    "max_accuracy_gap": 1.0,
    "max_log_loss_gap": 0.0,
    "min_compression": 0.01,
    "allow_worse_than_baseline": True,
}


def servers() -> list[psutil.Process]:
    """The processes that this one has started, and theirs."""
    return psutil.Process().children(recursive=True)


def memory_mib(processes: Sequence[psutil.Process]) -> float:
    """What would be free if they ended."""
    return sum(process.memory_full_info().uss for process in processes) / 2**20


def wrk(address: str, folder: Path, seconds: int, connections: int) -> str:
    """What wrk says after so many seconds."""
    options = ["-t2", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", "post.lua"]
    done = subprocess.run(
        ["wrk", *options, f"{address}/invocations"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def load(folder: Path, uri: str, seconds: int, connections: int) -> None:
    """Serve the version in production and print what the load found."""
    rows = read_dataset(MainConfig(data="wine")).features("test").reset_index(drop=True).iloc[:1]
    body = json.dumps({"dataframe_split": rows.to_dict(orient="split")})
    script = 'wrk.method="POST"\nwrk.headers["Content-Type"]="application/json"\nwrk.body=[==['
    (folder / "post.lua").write_text(script + body + "]==]\n")
    with served(uri, folder, workers=2, start=started) as address:
        wrk(address, folder, 3, connections)
        before = memory_mib(servers())
        said = wrk(address, folder, seconds, connections)
        after = memory_mib(servers())
    requests, per_second = (re.search(p, said)[1] for p in (r"(\d+) requests", r"sec:\s+(\S+)"))
    errors = [line.strip() for line in said.splitlines() if re.search("errors|Non-2xx", line)]
    print(f"load: {connections} connections, {seconds} s, 2 workers")
    print(f"requests   {int(requests):,}, {float(per_second):,.0f} a second")
    for share, name in (("50%", "median"), ("99%", "p99")):
        latency = re.search(rf"{share}\s+(\S+)", said)[1]
        print(f"{name:<9}  {latency}")
    print(f"errors     {'; '.join(errors) or 0}")
    print(f"memory     {before:.0f} MiB before, {after:.0f} after\n", flush=True)


def soak(uri: str, folder: Path, runs: int) -> None:
    """Distil again and again against one server; print how it goes on."""
    with mlflow_server(uri, folder, start=started) as address:
        mlflow.set_tracking_uri(address)
        run_teachers(TeachersConfig(**MODEL))
        own, other = psutil.Process(), servers()
        print(f"soak: {runs} runs against one server; medians, and files and memory at the end")
        print("runs       s a run   files here, server   MiB here, server")
        tenth = max(1, runs // 10)
        for start in range(0, runs, tenth):
            times = [timed(seed) for seed in range(start, min(runs, start + tenth))]
            files = own.num_fds(), sum(process.num_fds() for process in other)
            sizes = memory_mib([own]), memory_mib(other)
            print(
                f"{start + 1:>3} - {start + len(times):<3}  {statistics.median(times):>7.2f}   "
                f"{files[0]:>10}, {files[1]:>6}   {sizes[0]:>8.0f}, {sizes[1]:>6.0f}",
                flush=True,
            )


def timed(seed: int) -> float:
    """The seconds of one run of ``distill``."""
    start = time.perf_counter()
    run_distill(DistillConfig(**STUDENT, seed=seed))
    return time.perf_counter() - start


def main() -> None:
    """Train once, then load and soak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is missing: apt-get install wrk")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        mlflow.set_tracking_uri(uri)
        run_main(MainConfig(**{**MODEL, **STUDENT, **GATE}))
        if options.seconds:
            load(folder, uri, options.seconds, options.connections)
        if options.runs:
            soak(uri, folder, options.runs)


if __name__ == "__main__":
    main()
