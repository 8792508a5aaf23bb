"""What comes after training, tried before it: nothing that can be known early fails late."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise

import pandas as pd

from kd_mlflow.distillation.families import family_kind
from kd_mlflow.distillation.inputs import TeacherInputs
from kd_mlflow.distillation.student_module import StudentModule
from kd_mlflow.errors import DataError, first_line
from kd_mlflow.models.own_models import rehearse
from kd_mlflow.population.network import Population
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.table.encoding import Encoding, Scaler
from kd_mlflow.table.example_rows import EXAMPLE_ROWS, made_rows

STUDENT = (8,)
"""Hidden widths of the student that is packaged: what fails does not depend on them."""

PROCESS_BYTES = 3 * 2**29
"""Libraries, and new rows, which are bounded (``students.POOL_BYTES``)."""

MEMORY_SHARE = 0.8
"""Most of the machine's memory that a training may need by its own estimate."""


def rehearse_student(dataset: Dataset, encoding: Encoding) -> pd.DataFrame:
    """Encode the test rows; package a student of random weights and ask it about two rows.

    Returns the made rows that it was packaged with. Raises DataError for what would otherwise fail
    after training.
    """
    encoding.encode(dataset.features("test"))
    sizes = (Scaler(encoding).width, *STUDENT, len(encoding.classes))
    module = StudentModule(encoding, Population.initialised(sizes, seeds=[0]).member(0))
    train = dataset.features("train")
    example, rows = made_rows(train, encoding.columns), train.head(EXAMPLE_ROWS)
    try:
        answer = rehearse(module, example=example, rows=rows)
    except Exception as error:  # whatever a library makes of odd names and values
        raise DataError(
            f"a student of this table cannot be packaged and asked: {first_line(error)}; "
            "rename columns or classes, or convert their values to numbers or plain texts"
        ) from error
    assert len(answer) == len(rows)
    return example


def rehearse_families(given: TeacherInputs) -> None:
    """Let each family try what would otherwise fail after training."""
    for name in given.config.teacher_families.split(","):
        family_kind(name).rehearse(given)


def check_memory(dataset: Dataset, encoding: Encoding, layers: Sequence[Sequence[int]]) -> None:
    """Refuse before training what this machine has no memory for.  Raises DataError.

    ``layers`` are the hidden layers of each network that is trained.
    """
    needed = memory_estimate(dataset, encoding, layers)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > MEMORY_SHARE * there:
        raise DataError(
            f"training needs about {needed / 2**30:.1f} GiB, this machine has "
            f"{there / 2**30:.1f}: {len(dataset.table.labels):,} rows, "
            f"{Scaler(encoding).width:,} inputs (columns and categories), "
            f"{len(encoding.classes):,} classes, {len(layers)} models; take fewer rows, columns or "
            "classes, narrower layers, or a lower max_categories"
        )


def memory_estimate(dataset: Dataset, encoding: Encoding, layers: Sequence[Sequence[int]]) -> int:
    """Bytes that training holds at its peak, by its largest tensors.

    The process itself with new rows; the table as read; inputs and soft targets of all rows, once
    more while they are put together; weights with gradient and Adam's two means; the logits of each
    model on the test rows, and their probabilities.
    """
    width, classes = Scaler(encoding).width, len(encoding.classes)
    rows, test = len(dataset.table.labels), len(dataset.split.test)
    table = 2 * 8 * rows * dataset.table.features.shape[1]
    inputs = 2 * 4 * rows * (width + classes)
    widths = [(width, *hidden, classes) for hidden in layers]
    weights = 4 * 4 * sum(a * b for own in widths for a, b in pairwise(own))
    scores = 2 * 4 * len(layers) * test * classes + 6 * 8 * test * classes
    return PROCESS_BYTES + table + inputs + weights + scores
