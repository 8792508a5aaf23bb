"""What made a run: versions of what computes, the commit of a checkout, its table."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from functools import cache
from itertools import accumulate
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag

from kd_mlflow.table.dataset import Split
from kd_mlflow.table.loading import Table
from kd_mlflow.table.scored import ScoredRows
from kd_mlflow.tracking.failures import masked
from kd_mlflow.version import __version__

CHECKOUT = Path(__file__).parents[2]
"""The repository, where the package is used from one; a folder of packages otherwise."""

SCHEMA_LENGTH = 65_535
"""Most characters of a data set's schema, as the smallest text of a database; it lists the first
columns."""

DIGEST_LENGTH = 36
"""MLflow keeps so many characters of a data set's digest; the tag kd.data_digest has all."""


@cache
def version_tags() -> dict[str, str]:
    """Tags with the versions of this package, torch and mlflow."""
    others = {
        f"kd.{name}_version": importlib.metadata.version(name) for name in ("torch", "mlflow")
    }
    return {"kd.version": __version__, **others}


@cache
def source() -> dict[str, str]:
    """Tags by which MLflow shows where a run comes from; with the commit in a checkout of git."""
    tags = {"mlflow.source.name": "kd-mlflow", "mlflow.source.type": "LOCAL"}
    if (CHECKOUT / ".git").exists():  # not the repository that somebody's .venv lies in
        tags["mlflow.source.git.commit"] = _git("rev-parse", "HEAD")
        address = _git("config", "--get", "remote.origin.url")
        tags["mlflow.source.git.repoURL"] = masked(address)
    return {name: text for name, text in tags.items() if text}


def _git(*arguments: str) -> str:
    """What git answers; nothing where it is not installed or has no answer."""
    try:
        done = subprocess.run(
            ["git", "-C", str(CHECKOUT), *arguments], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def data_set_input(
    table: Table | ScoredRows, digest: str, split: Split | None = None
) -> DatasetInput:
    """Describe a table as MLflow shows data sets, with our own digest of every value.

    Without a ``split`` it is one that is scored.
    """
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
    if split is not None:
        sizes["train_rows"], sizes["validation_rows"] = len(split.train), len(split.val)
        sizes["test_rows"] = len(split.test)
    entity = Dataset(
        name=table.name,
        digest=digest[:DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": table.source}),
        schema=json.dumps({"mlflow_colspec": columns[:fitting]}),
        profile=json.dumps(sizes),
    )
    context = "evaluation" if split is None else "training"
    return DatasetInput(entity, [InputTag("mlflow.data.context", context)])
