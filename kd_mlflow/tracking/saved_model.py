"""Models in folders: the file that describes one, its input example."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
from mlflow.models import Model

MLMODEL = "MLmodel"
"""The file by which a folder is a model."""

STAMP = "registered_model_meta"
"""A file that MLflow adds to a model on download; the digest skips it."""


def files_digest(folder: Path) -> str:
    """SHA-256 of a model's files, names and contents."""
    sha = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.name != STAMP:
            sha.update(path.relative_to(folder).as_posix().encode() + b"\0")
            with path.open("rb") as file:
                sha.update(hashlib.file_digest(file, "sha256").digest())
    return sha.hexdigest()


def without_caches(folder: Path) -> Path:
    """Remove what Python keeps of code that it has run; it may be other than what the code says.

    Whoever loads a model from a store's own folder leaves it there.
    """
    for path in list(folder.rglob("__pycache__")):
        shutil.rmtree(path)
    return folder


def write_example(folder: Path, mlflow_model: Model, example: pd.DataFrame) -> None:
    """Write rows as a model's input example, by itself and as a request to its server."""
    rows = example.astype(object).where(example.notna(), None).to_dict("split")
    split = {"columns": rows["columns"], "data": rows["data"]}
    files = {"input_example.json": split, "serving_input_example.json": {"dataframe_split": split}}
    for name, content in files.items():
        text = json.dumps(content, default=lambda date: None if pd.isna(date) else date.isoformat())
        (folder / name).write_text(text, encoding="utf-8")
    path, serving_path = files
    mlflow_model.saved_input_example_info = {
        "artifact_path": path,
        "serving_input_path": serving_path,
        "type": "dataframe",
        "pandas_orient": "split",
    }
