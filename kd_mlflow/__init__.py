"""Distil an ensemble into one small student, tracked and registered in MLflow."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kd_mlflow.errors import KDError
from kd_mlflow.version import __version__ as __version__

if TYPE_CHECKING:
    from kd_mlflow.api import (
        columns,
        distill,
        evaluate,
        fit_ensemble,
        fit_student,
        history,
        load_production,
        predict,
        promote,
        rollback,
        split,
        sweep,
        train_teachers,
    )

__all__ = [
    "KDError",
    "columns",
    "distill",
    "evaluate",
    "fit_ensemble",
    "fit_student",
    "history",
    "load_production",
    "predict",
    "promote",
    "rollback",
    "split",
    "sweep",
    "train_teachers",
]


def __getattr__(name: str) -> Any:
    """Import what a function needs when it is first asked for: torch and mlflow take seconds."""
    if name in __all__:
        return getattr(importlib.import_module("kd_mlflow.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
