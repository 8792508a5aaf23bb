"""Run as a script: promote versions of a model at once, each in a process of its own."""

import multiprocessing
import sys

import kd_mlflow as kd
from kd_mlflow import pipeline


def promote(version: str) -> None:
    """Promote a version, whatever the gate's figures; fail where it is not promoted."""
    decision = kd.promote(
        version=version,
        max_accuracy_gap=1.0,
        min_compression=0.01,
        allow_worse_than_baseline=True,
        policy="any",
    )
    sys.exit(0 if decision.promoted else 1)


if __name__ == "__main__":
    from conftest import OwnProcess

    pipeline.CleanProcess = OwnProcess  # eight of them would import for a minute
    fork = multiprocessing.get_context("fork")  # imports are the parent's
    processes = [fork.Process(target=promote, args=(version,)) for version in sys.argv[1:]]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    print(*(process.exitcode for process in processes))
