"""What is imported is declared; what is installed is in the file of exact versions."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from imports import MODULES, name_of
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from versions import (
    CONSTRAINTS,
    HELD,
    PROJECT,
    TORCHS_OWN,
    asked,
    closure,
    conda_lines,
    distributions,
    lines_of,
    pinned,
    top_level,
)

EXTRAS = tuple(PROJECT["optional-dependencies"])

IMPORT = """
import gc, importlib, json, multiprocessing, sys
from importlib.metadata import packages_distributions

gc.disable()
owners, refused = packages_distributions(), set()

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def failure(case):
    declared, paths, names = case
    refused.clear()
    refused.update(module for module, packages in owners.items() if not {*declared} & {*packages})
    sys.path[:0] = paths
    try:
        for name in names:
            importlib.import_module(name)
    except Exception as error:
        return repr(error)

sys.meta_path.insert(0, Refuse())
runtime, *extras = json.load(sys.stdin)
failed = [failure(runtime)]
gc.freeze()
with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
    failed += pool.map(failure, extras, chunksize=1)
print(json.dumps(failed))
"""
"""Imports modules as where nothing is installed but what is declared; prints what went wrong.

The runtime's first, alone; then those of each extra, in a fork of that process.
"""


def scripts(folder):
    """Names of the Python files in a folder, as those that import each other call them."""
    return sorted(path.stem for path in (ROOT / folder).glob("*.py"))


IMPORTED = {
    "": ([name_of(path) for path in MODULES if path.stem != "__main__"], ["."]),
    "benchmark": (scripts("benchmarks"), [".", "benchmarks", "tests"]),
    "catboost": (["catboost"], ["."]),
    "dask": (["distributed"], ["."]),
    "onnx": (["onnx", "onnxruntime"], ["."]),
    "server": (["flask_wtf", "psycopg", *scripts("deploy")], [".", "deploy"]),
    "system-metrics": (["mlflow.system_metrics.system_metrics_monitor"], ["."]),
    "test": (scripts("tests"), [".", "tests", "benchmarks"]),
}
"""What the runtime and each extra are for: modules, and the folders that hold them."""


@pytest.fixture(scope="module")
def failed():
    """By extra the error of its first module that cannot be imported, or None."""
    cases = [
        (
            distributions(closure(extra) | {"kd-mlflow"}),
            [f"{ROOT}/{each}" for each in folders],
            names,
        )
        for extra, (names, folders) in IMPORTED.items()
    ]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(IMPORTED, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.slow
def test_every_module_imports_with_the_runtime_alone(failed):
    """Whoever installs the wheel and nothing else can import all of the package."""
    assert failed[""] is None


@pytest.mark.slow
@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_what_its_files_import(failed, extra):
    """The runtime and one extra are enough for what the extra is for."""
    assert failed[extra] is None


def roots(path, *, anywhere):
    """First names of what a file imports: as it is loaded, or anywhere in it."""
    tree = ast.parse(Path(path).read_text())
    nodes = ast.walk(tree) if anywhere else tree.body
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"kd_mlflow"}


@pytest.mark.slow
@pytest.mark.parametrize("anywhere", [False, True], ids=["as loaded", "anywhere"])
def test_what_the_package_imports_is_declared_by_name(anywhere):
    """Nothing is imported that is here only because something else asked for it."""
    groups = ("", *(extra for extra in EXTRAS if extra not in ("test", "benchmark")))
    names = {
        canonicalize_name(one.name)
        for extra in groups[: None if anywhere else 1]
        for one in asked(extra)
    }
    declared = top_level(names)
    used = set().union(*(roots(path, anywhere=anywhere) for path in MODULES))
    assert used - declared == set()


@pytest.mark.slow
def test_the_runtime_has_no_requirement_that_nothing_imports():
    """Each requirement is imported somewhere in the package."""
    used = set().union(*(roots(path, anywhere=True) for path in MODULES))
    unused = [one.name for one in asked() if not top_level({canonicalize_name(one.name)}) & used]
    assert unused == []


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_exact_versions_are_within_the_ranges(extra):
    """constraints.txt holds a version of each requirement that pyproject.toml allows."""
    versions = pinned() | {"kd-mlflow": PROJECT["version"]}
    for needed in asked(extra):
        assert needed.specifier.contains(versions[canonicalize_name(needed.name)]), needed


def recorded(extra=""):
    """What is installed here, without what one build of torch alone brings and pins itself."""
    return {name for name in closure(extra) if not TORCHS_OWN.match(name)}


@pytest.mark.parametrize("extra", ["", "test"])
def test_exact_versions_are_of_everything_that_is_installed(extra):
    """What the runtime and the tests come to on this machine has its version in the file."""
    assert recorded(extra) - pinned().keys() - {"kd-mlflow"} == set()


def test_exact_versions_hold_torch_and_name_no_place():
    """The file is names and versions alone, with the torch that everything was measured with."""
    lines = [Requirement(line) for line in lines_of(CONSTRAINTS)]
    assert all(line.url is None and len(line.specifier) == 1 for line in lines)
    assert Requirement(HELD).specifier.contains(pinned()["torch"])
    assert "--" not in CONSTRAINTS.read_text()


def test_conda_file_repeats_the_exact_versions_of_the_runtime():
    """``mlflow run`` builds what ``make run`` installs."""
    lines = conda_lines()
    names = {canonicalize_name(Requirement(line).name) for line in lines}
    exact = {(one.name, str(one.specifier)) for one in map(Requirement, lines_of(CONSTRAINTS))}
    assert {(one.name, str(one.specifier)) for one in map(Requirement, lines)} <= exact
    assert recorded() <= names
