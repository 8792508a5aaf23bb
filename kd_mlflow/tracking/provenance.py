"""What made a run: the versions of what computes, and the commit of a checkout."""

from __future__ import annotations

import importlib.metadata
import subprocess
from functools import cache
from pathlib import Path

from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_GIT_REPO_URL,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
)

from kd_mlflow.tracking.store import masked
from kd_mlflow.version import __version__

CHECKOUT = Path(__file__).parents[2]
"""The repository, where the package is used from one; a folder of packages otherwise."""


@cache
def versions() -> dict[str, str]:
    """Tags with the versions of this package, torch and mlflow."""
    others = {
        f"kd.{name}_version": importlib.metadata.version(name) for name in ("torch", "mlflow")
    }
    return {"kd.version": __version__, **others}


@cache
def source() -> dict[str, str]:
    """Tags by which MLflow shows where a run comes from; with the commit in a checkout of git."""
    tags = {MLFLOW_SOURCE_NAME: "kd-mlflow", MLFLOW_SOURCE_TYPE: "LOCAL"}
    if (CHECKOUT / ".git").exists():  # not the repository that somebody's .venv lies in
        tags[MLFLOW_GIT_COMMIT] = _git("rev-parse", "HEAD")
        tags[MLFLOW_GIT_REPO_URL] = masked(_git("config", "--get", "remote.origin.url"))
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
