"""A model that was saved to a folder, as a flavor of MLflow: logging it copies what is there."""

from __future__ import annotations

import shutil
from pathlib import Path

from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME


def save_model(path: str, mlflow_model: Model, *, folder: Path) -> None:
    """Copy the folder; ``Model.log`` calls this with ``flavor`` this module.

    ``mlflow_model``, which knows the run and the id that the model is logged under, takes over what
    the saved model says of itself.
    """
    shutil.copytree(folder, path)
    saved = Model.load(path)
    mlflow_model.flavors = saved.flavors
    mlflow_model.signature = saved.signature
    mlflow_model.metadata = saved.metadata
    mlflow_model.saved_input_example_info = saved.saved_input_example_info
    mlflow_model.save(str(Path(path) / MLMODEL_FILE_NAME))
