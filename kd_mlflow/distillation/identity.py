"""What makes two trainings the same: seeds of members, fingerprints of data and configuration."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import fields

import numpy as np
import torch

from kd_mlflow.config.groups import WorkerOptions
from kd_mlflow.table.dataset import Identity

FORMAT = 3
"""How an ensemble is stored: one of another format is trained anew, not misread."""

TRAINING = 8
"""What training does with a table and its options, down to the numbers.

A test compares trained weights with recorded ones and fails until this is raised with them: what an
older version trained is then no longer taken for the same.
"""

TORCH = ".".join(torch.__version__.split(".")[:2])
"""Its minor version: another one may round otherwise."""

TEACHER_STREAM, STUDENT_STREAM, NEW_ROWS_STREAM, BOOSTING_STREAM, FOLDS_STREAM = range(5)
"""Spawn keys of the option ``seed``; a sweep's students have the seeds of those of ``distill``."""

MOST_SEED = 2**31 - 1
"""Other libraries' seeds are 32-bit integers with a sign."""


def member_seeds(seed: int, stream: int, k: int) -> list[int]:
    """Draw the seeds of a population's members; the first do not depend on how many follow.

    >>> member_seeds(42, TEACHER_STREAM, 3)[:2] == member_seeds(42, TEACHER_STREAM, 2)
    True
    """
    drawn = np.random.SeedSequence(entropy=seed, spawn_key=(stream,)).generate_state(k)
    return [int(value) for value in drawn]


def family_stream(name: str) -> int:
    """The spawn key of a family that has none of the above: of its name."""
    return zlib.crc32(name.encode())


def fingerprint(identity: Identity, values: dict[str, str]) -> str:
    """SHA-256 of dataset, options and what trains: equal where the same models would come out.

    Where models are trained, the options of workers, does not count.
    """
    elsewhere = {field.name for field in fields(WorkerOptions)}
    decisive = sorted(item for item in values.items() if item[0] not in elsewhere)
    content = json.dumps([FORMAT, TRAINING, TORCH, *identity, decisive])
    return hashlib.sha256(content.encode()).hexdigest()
