"""The table that a run was trained on, read again."""

from __future__ import annotations

import dataclasses

from kd_mlflow.config.groups import DataOptions, Source
from kd_mlflow.errors import DataError, Unavailable
from kd_mlflow.table.dataset import Dataset, Identity, read_dataset
from kd_mlflow.table.files import is_csv
from kd_mlflow.table.sources import FRAME
from kd_mlflow.tracking.runs import Run


def dataset_of(run: Run, data: Source = "") -> Dataset | Unavailable:
    """Read a run's table again, from elsewhere where ``data`` is given; or why it cannot be had."""
    params = run.data.params
    if isinstance(data, str) and not data:
        data = params["kd.data"]
    if isinstance(data, str) and data == FRAME:
        return Unavailable(
            "its table came as a DataFrame: promote from Python, kd.promote(data=frame)"
        )
    try:
        dataset = read_dataset(data_options(run, data))
    except DataError as error:
        return Unavailable(f"the test rows cannot be read again: {error}")
    if dataset.identity != identity_of(run):
        return Unavailable(
            f"the table {dataset.table.source} is another one, or it or its split changed since "
            "the version was trained"
        )
    return dataset


def identity_of(run: Run) -> Identity:
    """The dataset that a run was trained on; the split of an early run is not known."""
    tags = run.data.tags
    return Identity(tags["kd.data_digest"], tags.get("kd.split", ""))


def data_options(run: Run, data: Source) -> DataOptions:
    """How to read a run's table from ``data``.

    An option that the run knew nothing of has its default; one of CSV files where ``data`` is none.
    """
    given = {
        field.name: DataOptions.read(field.name, run.data.params[f"kd.{field.name}"])
        for field in dataclasses.fields(DataOptions)
        if f"kd.{field.name}" in run.data.params
    }
    csv = {} if is_csv(data) else {"separator": "", "decimal": ""}
    return DataOptions(**given | csv | {"data": data})
