"""A table as MLflow shows data sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import accumulate

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.entities import Run as Run  # for steps, as a type

from kd_mlflow.table.dataset import Split
from kd_mlflow.table.loading import Table
from kd_mlflow.table.scored_rows import ScoredRows

SCHEMA_LENGTH = 65_535
"""Most characters of a data set's schema, as the smallest text of a database; it lists the first
columns."""

DIGEST_LENGTH = 36
"""MLflow keeps so many characters of a data set's digest; the tag kd.data_digest has all."""


def data_set_input(table: Table, split: Split) -> DatasetInput:
    """Describe a table as MLflow shows data sets, with our own digest of every value."""
    train, val, test = len(split.train), len(split.val), len(split.test)
    sides = {"train_rows": train, "validation_rows": val, "test_rows": test}
    entity = _entity(table, table.digest, sides)
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training")])


def scored_input(rows: ScoredRows, digest: str) -> DatasetInput:
    """Describe a table that is scored as MLflow shows data sets."""
    entity = _entity(rows, digest, {})
    return DatasetInput(entity, [InputTag("mlflow.data.context", "evaluation")])


def _entity(table: Table | ScoredRows, digest: str, sides: Mapping[str, int]) -> Dataset:
    features = table.features
    columns = [
        {"type": str(features[name].dtype), "name": str(name), "required": True}
        for name in features.columns
    ]
    ends = accumulate(len(json.dumps(column)) + 2 for column in columns)
    fitting = sum(end <= SCHEMA_LENGTH - len('{"mlflow_colspec": []}') for end in ends)
    rows, width = features.shape
    labelled = table.labels is not None
    sizes = {"num_rows": rows, "num_elements": rows * (width + labelled)}
    return Dataset(
        name=table.name,
        digest=digest[:DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": table.source}),
        schema=json.dumps({"mlflow_colspec": columns[:fitting]}),
        profile=json.dumps({**sizes, **sides}),
    )
