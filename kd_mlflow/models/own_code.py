"""Whether loading a pulled model runs nothing but code that this package has put there.

A model's code runs with all rights of who loads it, so this is asked before. It says nothing of
what the numbers in the model do, and nothing of MLflow's own readers.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from mlflow.models import Model

from kd_mlflow.models.own_models import ARTIFACTS
from kd_mlflow.serving import bounds, ensemble_scoring, scoring, student

FLAVOURS = {"python_function", "pytorch", "onnx"}
LOADERS = {"mlflow.pyfunc.model", "mlflow.pyfunc.loaders.code_model"}
FIELDS = {
    *("artifacts", "cloudpickle_version", "code", "config", "env", "loader_module"),
    *("model_code_path", "python_version", "streamable"),
}
"""What the pyfunc flavour of our models says of itself."""

RUN = (
    *(".py", ".pyc", ".pyd", ".so", ".dylib"),
    *(".pkl", ".pickle", ".joblib", ".cloudpickle", ".dill"),
)
"""How files end that may be run."""

RELEASED = Path(student.__file__).with_name("released.txt")
"""Code files of earlier releases, a line each: SHA-256, name. ``sha256sum`` adds a release's."""

WAY_OUT = "register what kd-mlflow distill logs, of this release or an earlier one"


def foreign(folder: Path, source: str) -> str | None:
    """What of a version, in its folder or its source, is none of ours and may be run, if any."""
    if not source.startswith("models:/"):
        return f"its source is no logged model but {source[:100]!r}; {WAY_OUT}"
    if odd := _odd_file(folder) or _odd_flavour(Model.load(str(folder))):
        return f"{odd}; nothing of it was loaded: {WAY_OUT}"
    return None


def _odd_file(folder: Path) -> str | None:
    known = known_code()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in RUN and not path.is_symlink():
            continue
        name = path.relative_to(folder).as_posix()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        if path.is_symlink() or (digest, name) not in known:
            which = "is no code of a release of kd_mlflow that is known here"
            return f"its file {name[:100]!r} {which}"
    return None


def _odd_flavour(description: Model) -> str | None:
    if others := description.flavors.keys() - FLAVOURS:
        return f"its flavour {min(others)!r} is none of kd_mlflow's"
    pyfunc: dict[str, Any] = description.flavors.get("python_function", {})
    if others := pyfunc.keys() - FIELDS:
        return f"its MLmodel names {min(others)!r}, which kd_mlflow's do not"
    names = {name for _, name in known_code()}
    if pyfunc.get("loader_module") not in LOADERS or pyfunc.get("model_code_path") not in names:
        return "its MLmodel names another loader or code file than kd_mlflow's"
    artifacts = pyfunc.get("artifacts") or {}
    paths = {name: each.get("path") for name, each in artifacts.items()}
    if pyfunc.get("code") or not paths.items() <= ARTIFACTS.items():
        return "its MLmodel names code or files that kd_mlflow's do not"
    return None


@cache
def known_code() -> frozenset[tuple[str, str]]:
    """SHA-256 and name of each code file of a model: of this package, and of earlier releases."""
    ours = [Path(str(module.__file__)) for module in (bounds, scoring, student, ensemble_scoring)]
    known = {(hashlib.sha256(path.read_bytes()).hexdigest(), path.name) for path in ours}
    for line in RELEASED.read_text().splitlines():
        digest, _, path = line.partition(" ")
        known.add((digest, Path(path.strip()).name))
    return frozenset(known)
