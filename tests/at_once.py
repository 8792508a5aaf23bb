"""Run as a module: call a function of this file with each of some words, in processes at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from forks import FORK, Forked
from shorter import PARTS

import kd_mlflow as kd

FREE = {
    "max_accuracy_gap": 1.0,
    "max_log_loss_gap": 0.0,
    "min_compression": 0.01,
    "allow_worse_than_baseline": True,
}
FEW = {
    "teachers": {
        "n_teachers": 2,
        "teacher_epochs": 3,
        "teacher_hidden": (8,),
    },
    "students": {
        "n_students": 2,
        "student_epochs": 4,
        "student_hidden": (4,),
        "student_bins": 0,
        "temperature": 2.0,
        "augment_factor": 1,
    },
}
"""Trainings of a second, whose curves have a known length."""


def train_and_promote(seed: str) -> None:
    """Train an ensemble, distil it, and, once all have come so far, promote the student."""
    common = {"data": "wine", "recipe": "reference", "seed": int(seed)}
    taught = kd.train_teachers(**common, **FEW["teachers"], force=True)
    student = kd.distill(**common, **FEW["students"], teachers=taught.run_id)
    ALL_HERE.wait(240)  # then one has failed: they end too, and its error is shown
    if not kd.promote(version=student.version, policy="any", **FREE).promoted:
        sys.exit(1)


def begin(seed: str) -> None:
    """Train an ensemble where there may be no store yet."""
    kd.train_teachers(data="wine", recipe="reference", seed=int(seed), **FEW["teachers"])


def at_once(function: str, words: list[str], *, uri: str, folder: Path) -> None:
    """Call a function of this file with each word, in that many processes, forks of one."""
    env = {**os.environ, "MLFLOW_TRACKING_URI": uri}
    log = folder / f"{function}.log"
    done = Forked("at_once", function, *words, folder=folder, env=env, log=log, without=(*PARTS,))
    assert done.wait(400) == 0, log.read_text()
    said = log.read_text()
    assert said.split()[-len(words) :] == ["0"] * len(words), said


if __name__ == "__main__":
    function, *words = sys.argv[1:]
    ALL_HERE = FORK.Barrier(len(words))
    processes = [FORK.Process(target=globals()[function], args=(word,)) for word in words]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    print(*(process.exitcode for process in processes))
