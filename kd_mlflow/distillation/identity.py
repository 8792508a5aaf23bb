"""What makes two trainings the same: seeds of members, fingerprints of data and configuration."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields

import numpy as np

from kd_mlflow.config import TeachersConfig, WorkerOptions

FORMAT = 1
"""Goes into the fingerprint: an ensemble of another format is trained anew, not misread."""

TEACHER_STREAM, STUDENT_STREAM, NEW_ROWS_STREAM = 0, 1, 2
"""Spawn keys of the option ``seed``; a sweep's students have the seeds of those of ``distill``."""


def member_seeds(seed: int, stream: int, k: int) -> list[int]:
    """Draw the seeds of a population's members; the first do not depend on how many follow.

    >>> member_seeds(42, TEACHER_STREAM, 3)[:2] == member_seeds(42, TEACHER_STREAM, 2)
    True
    """
    drawn = np.random.SeedSequence(entropy=seed, spawn_key=(stream,)).generate_state(k)
    return [int(value) for value in drawn]


def fingerprint(data_digest: str, values: dict[str, str]) -> str:
    """SHA-256 of data and configuration: equal where training would give the same models.

    Where models are trained, the options of workers, does not count.
    """
    elsewhere = {field.name for field in fields(WorkerOptions)}
    decisive = sorted(item for item in values.items() if item[0] not in elsewhere)
    content = json.dumps([FORMAT, data_digest, decisive])
    return hashlib.sha256(content.encode()).hexdigest()


def teachers_fingerprint(data_digest: str, config: TeachersConfig) -> str:
    """The fingerprint of an ensemble of a resolved configuration.

    Where its table lies, ``force`` and the recipe's name do not count.
    """
    values = config.as_text()
    for name in ("data", "target", "force", "recipe"):
        del values[name]
    return fingerprint(data_digest, values)
