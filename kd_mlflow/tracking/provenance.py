"""What made a run: the versions of what computes, and the commit of a checkout."""

from __future__ import annotations

import getpass
import importlib.metadata
import subprocess
from functools import cache
from pathlib import Path

from kd_mlflow.tracking.failures import masked
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
    tags = {"mlflow.source.name": "kd-mlflow", "mlflow.source.type": "LOCAL"}
    if (CHECKOUT / ".git").exists():  # not the repository that somebody's .venv lies in
        tags["mlflow.source.git.commit"] = _git("rev-parse", "HEAD")
        address = _git("config", "--get", "remote.origin.url")
        tags["mlflow.source.git.repoURL"] = masked(address)
    return {name: text for name, text in tags.items() if text}


def user() -> str:
    """Who calls, as MLflow's runs name them."""
    return getpass.getuser()


def _git(*arguments: str) -> str:
    """What git answers; nothing where it is not installed or has no answer."""
    try:
        done = subprocess.run(
            ["git", "-C", str(CHECKOUT), *arguments], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
