"""A table as MLflow shows data sets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.entities import Run as Run  # for steps, as a type

from kd_mlflow.table.dataset import Split
from kd_mlflow.table.loading import Table

SCHEMA_LENGTH = 65_535
"""Of a data set's schema, which lists its first columns: the least that a database's text holds."""

DIGEST_LENGTH = 36
"""MLflow keeps so many characters of a data set's digest; the tag kd.data_digest has all."""


def data_set_input(table: Table, split: Split) -> DatasetInput:
    """Describe a table as MLflow shows data sets, with our own digest of every value."""
    columns = [
        {"type": str(table.features[name].dtype), "name": str(name), "required": True}
        for name in table.features.columns
    ]
    rows = len(table.labels)
    entity = Dataset(
        name=table.name,
        digest=table.digest[:DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": table.source}),
        schema=json.dumps({"mlflow_colspec": columns[: _fitting(columns, SCHEMA_LENGTH)]}),
        profile=json.dumps(
            {
                "num_rows": rows,
                "num_elements": rows * (table.features.shape[1] + 1),
                "train_rows": len(split.train),
                "validation_rows": len(split.val),
                "test_rows": len(split.test),
            }
        ),
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training")])


def _fitting(columns: Sequence[Mapping[str, Any]], length: int) -> int:
    """How many columns' descriptions fit into so many characters of JSON."""
    ends = accumulate(len(json.dumps(column)) + 2 for column in columns)
    return sum(end <= length - len('{"mlflow_colspec": []}') for end in ends)
