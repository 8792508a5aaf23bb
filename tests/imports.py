"""Which room of the package imports which; run as a script, it prints the table.

A room is a folder of ``kd_mlflow`` or a module beside them. Every import counts: those under
TYPE_CHECKING and those inside functions too.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections import Counter
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "kd_mlflow"
MODULES = sorted(PACKAGE.rglob("*.py"))

LAYERS = (
    ("errors", "local_state", "version"),
    ("config",),
    ("serving",),
    ("population",),
    ("evaluation",),
    ("table",),
    ("distillation",),
    ("tracking", "figures"),
    ("registry",),
    ("models",),
    ("report",),
    ("steps",),
    ("pipeline",),
    ("api", "cli"),
    ("__init__", "__main__"),
)
"""Lowest first: a room imports from lower layers alone; rooms of one layer not each other."""

MODULE_AND_ENTRY = {("__main__", "cli"), ("__init__", "api")}
"""The package's own face: what it hands out when it is asked for."""

DOCUMENTED = {
    "mlflow",
    "mlflow.artifacts",
    "mlflow.entities",
    "mlflow.entities.model_registry",
    "mlflow.environment_variables",
    "mlflow.exceptions",
    "mlflow.models",
    "mlflow.pyfunc",
    "mlflow.pytorch",
    "mlflow.types",
    "mlflow.types.schema",
}
"""Modules of MLflow whose names its documentation promises; a name with an underscore is none."""

PYTHONS_OWN = {"_asdict", "_fields", "_getframe", "_replace"}
"""Documented names that begin as private ones do."""


def name_of(path: Path) -> str:
    """The dotted name of a module's file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


@cache
def imported(path: Path) -> frozenset[str]:
    """All that a file imports, wherever it does; of the package, the modules meant."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = inner & NAMES
            found |= modules
            if len(modules) < len(inner):
                found.add(str(node.module))
    return frozenset(found)


def undocumented(path: Path) -> set[str]:
    """Names that a file uses and their makers keep to themselves: modules of MLflow, ``_names``."""
    used: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            used |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            used.add(ast.unparse(node))
    return {name for name in used if not name.startswith("kd_mlflow.") and not _promised(name)}


def _promised(dotted: str) -> bool:
    """Whether a name is not private, and where it is MLflow's, in a module with documentation."""
    owner, _, name = dotted.rpartition(".")
    if name.startswith("_") and not name.endswith("__"):
        return owner in ("self", "cls", "super()") or name in PYTHONS_OWN
    if not re.fullmatch(r"mlflow\.[\w.]+", dotted) or dotted in DOCUMENTED:
        return True
    submodule = owner == "mlflow" and importlib.util.find_spec(dotted) is not None
    return owner in DOCUMENTED and not submodule


def room_of(module: str) -> str:
    """The folder, or the module beside the folders, that a module of the package is in."""
    return module.split(".")[1] if "." in module else "__init__"


def between_rooms() -> Counter[tuple[str, str]]:
    """How many modules' imports lead from one room to another."""
    return Counter(
        (room_of(name_of(path)), room_of(name))
        for path in MODULES
        for name in imported(path)
        if name.split(".")[0] == "kd_mlflow" and room_of(name) != room_of(name_of(path))
    )


def main() -> None:
    """Print who imports whom, a line per room, lowest first."""
    arrows = between_rooms()
    for room in (room for layer in LAYERS for room in layer):
        files = [path for path in MODULES if room_of(name_of(path)) == room]
        lines = sum(len(path.read_text().splitlines()) for path in files)
        below = [f"{other} {n}" for (own, other), n in sorted(arrows.items()) if own == room]
        print(f"{room:<13}{len(files):>3} modules {lines:>5} lines   {', '.join(below) or '-'}")


if __name__ == "__main__":
    main()
