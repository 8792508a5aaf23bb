"""Classifiers of scikit-learn's kind in files, by MLflow's own flavour for each."""

from __future__ import annotations

import importlib
import inspect
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from kd_mlflow.errors import TrainingError
from kd_mlflow.models.own_models import quiet

OWN_FORMATS = ("xgboost", "catboost")
"""Libraries whose classifiers MLflow stores in the library's own format."""

SKLEARN = "sklearn"

TRUSTED = ("numpy", "scipy", SKLEARN)
"""Packages whose types are read from scikit-learn's form without pickle."""


def flavour_of(model: Any) -> str:
    """MLflow's flavour of a classifier."""
    root = type(model).__module__.partition(".")[0]
    return root if root in OWN_FORMATS else SKLEARN


def needs_pickle(model: Any) -> bool:
    """Whether MLflow has no other form for a classifier."""
    with tempfile.TemporaryDirectory() as place:
        try:
            store("", model, Path(place) / "model", pickle=False)
        except TrainingError:
            return True
    return False


def store(name: str, model: Any, folder: Path, *, pickle: bool) -> None:
    """Write a classifier by MLflow's own flavour, pickled only where there is no other way.

    Raises TrainingError where it would have to be and is not allowed.
    """
    flavour = flavour_of(model)
    module = importlib.import_module(f"mlflow.{flavour}")

    @quiet()
    def save(**form: Any) -> None:
        module.save_model(model, str(folder), pip_requirements=[], **form)

    if flavour != SKLEARN:
        save()
        return
    from skops.io import dumps, get_untrusted_types  # imports all of scikit-learn, for two seconds
    from skops.io.exceptions import UnsupportedTypeException

    try:
        types = get_untrusted_types(data=dumps(model))
        trusted = [name for name in types if name.partition(".")[0] in TRUSTED]
        save(serialization_format="skops", skops_trusted_types=trusted)
        return
    except (MlflowException, UnsupportedTypeException) as error:
        if not pickle:
            raise TrainingError(
                f"models of {name} can only be stored as pickles: own_pickle=true allows that; "
                "whoever loads the ensemble then runs code that lies in it"
            ) from error
    shutil.rmtree(folder, ignore_errors=True)
    save(serialization_format="cloudpickle", code_paths=_own_files(model) or None)


def load(folder: Path, flavour: str) -> Any:
    """Read a classifier that ``store`` wrote."""
    return importlib.import_module(f"mlflow.{flavour}").load_model(str(folder))


def packages(model: Any) -> Iterator[str]:
    """Packages of a classifier and what it is made of, as far as its parameters say."""
    parts = model.get_params(deep=True).values() if hasattr(model, "get_params") else ()
    for part in (model, *parts):
        named = part if inspect.isfunction(part) or inspect.isclass(part) else type(part)
        root = str(named.__module__).partition(".")[0]
        if root not in sys.stdlib_module_names:
            yield root


def _own_files(model: Any) -> list[str]:
    """Files of a classifier's parts that no package has installed: the user's own modules."""
    roots = set(packages(model)) - packages_distributions().keys()
    files = {getattr(sys.modules.get(root), "__file__", None) for root in roots}
    return sorted(file for file in files if file)
