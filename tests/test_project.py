"""MLproject, conda.yaml and the imports agree with the package; ``mlflow run`` leaves its runs."""

import ast
import dataclasses
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from mlflow import MlflowClient

from kd_mlflow.config import ENTRY_POINTS
from kd_mlflow.options import text_value

PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
MODULES = sorted((ROOT / "kd_mlflow").glob("*.py"))

LAYERS = [
    {"errors"},
    {"options"},
    {"config"},
    {"scoring"},
    {"losses", "metrics", "models", "encoding", "files", "calibration", "sampling", "style"},
    {"diagnosis"},
    {"curves", "figures", "diagrams"},
    {"backprop", "workers", "data", "augment", "answers"},
    {"training"},
    {"dataset", "evaluation"},
    {"tracking", "gate"},
    {"curve_writer"},
    {"teachers", "external", "packaging"},
    {"students"},
    {"card", "gallery"},
    {"report", "summary"},
    {"registry", "steps"},
    {"teaching", "distilling", "sweeping", "promoting"},
    {"pipeline"},
    {"api", "cli"},
    {"__main__", "__init__"},
]
"""Lowest first; a module imports from lower layers and from its own, never from a higher one."""


def test_entry_points_are_the_commands():
    """MLproject has one entry point a command."""
    assert PROJECT["entry_points"].keys() == ENTRY_POINTS.keys()


@pytest.mark.parametrize("command", ENTRY_POINTS)
def test_parameters_are_the_options(command):
    """An entry point's parameters are its options, name by name and default by default."""
    parameters = PROJECT["entry_points"][command]["parameters"]
    options = {field.name: field.default for field in dataclasses.fields(ENTRY_POINTS[command])}
    assert parameters.keys() == options.keys()
    for name, default in options.items():
        number = isinstance(default, (int, float)) and not isinstance(default, bool)
        expected = default if number else text_value(default)
        assert (name, parameters[name]["default"]) == (name, expected)
        assert (name, parameters[name]["type"]) == (name, "float" if number else "string")


@pytest.mark.parametrize("command", ENTRY_POINTS)
def test_command_passes_each_parameter(command):
    """The command line of an entry point hands over every parameter under its own name."""
    words = PROJECT["entry_points"][command]["command"].split()
    fields = dataclasses.fields(ENTRY_POINTS[command])
    handed = [word for field in fields for word in (f"--{field.name}", f"{{{field.name}}}")]
    assert words[:4] == ["python", "-m", "kd_mlflow", command]
    assert sorted(zip(words[4::2], words[5::2], strict=True)) == sorted(
        zip(handed[::2], handed[1::2], strict=True)
    )


def test_conda_file_has_the_projects_dependencies():
    """conda.yaml installs what pyproject.toml asks for, in the same versions."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    conda = yaml.safe_load((ROOT / PROJECT["conda_env"]).read_text())
    (pip,) = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    assert pip == wanted


def imported(path):
    """Modules that a file imports at run time, anywhere in it; not those for typing alone."""

    def walk(node):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    return set(walk(ast.parse(path.read_text())))


def test_only_five_modules_import_mlflow():
    """Tracking, packaging, registry, external and scoring import mlflow; nothing else does."""
    found = {
        path.stem
        for path in MODULES
        if any(name.split(".")[0] == "mlflow" for name in imported(path))
    }
    assert found == {"tracking", "packaging", "registry", "external", "scoring"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_go_one_way(path):
    """No module imports one of a higher layer."""
    places = {module: i for i, layer in enumerate(LAYERS) for module in layer}
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "kd_mlflow" and len(parts) > 1 and parts[1] in places:
            assert (parts[1], places[parts[1]]) <= (parts[1], places[path.stem])


def test_scoring_imports_nothing_of_the_package():
    """The code that goes into the registered model imports what its requirements name."""
    roots = {name.split(".")[0] for name in imported(ROOT / "kd_mlflow" / "scoring.py")}
    third_party = roots - set(sys.stdlib_module_names)
    assert third_party == {"mlflow", "numpy", "pandas", "torch"}


def mlflow_run(folder, uri, arguments):
    """Run the project as a user does, from another folder."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    taken = {"MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"}
    inherited = {key: value for key, value in os.environ.items() if key not in taken}
    options = f"--env-manager local --experiment-name project {arguments}".split()
    return subprocess.run(
        [sys.executable, "-m", "mlflow", "run", str(ROOT), *options],
        cwd=folder,
        env=inherited | {"MLFLOW_TRACKING_URI": uri, "PATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def project_runs(empty_database, tmp_path_factory):
    """Every step and one bad run through ``mlflow run``; processes and client."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(empty_database, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    steps = {
        "teachers": "-e teachers -P n_teachers=3 -P teacher_epochs=2",
        "sweep": "-e sweep -P temperatures=2,4 -P alphas=1 -P sizes=8,4;4 -P n_students=1 "
        "-P student_epochs=2 -P augment_factor=1",
        "distill": "-e distill -P student_epochs=2 -P n_students=2 -P from_sweep=latest",
        "promote": "-e promote -P max_accuracy_gap=1",
        "bad": "-e teachers -P data=missing.csv",
    }
    done = {name: mlflow_run(folder, uri, words) for name, words in steps.items()}
    return done, MlflowClient(uri)


def top_runs(client):
    """Runs without a parent, oldest first."""
    experiment = client.get_experiment_by_name("project").experiment_id
    runs = client.search_runs([experiment], order_by=["attributes.start_time ASC"])
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]


@pytest.mark.slow
def test_mlflow_run_succeeds_step_by_step(project_runs):
    """Each entry point works on its own through ``mlflow run`` and exits 0."""
    done, _ = project_runs
    codes = {name: process.returncode for name, process in done.items() if name != "bad"}
    assert codes == dict.fromkeys(("teachers", "sweep", "distill", "promote"), 0), done[
        "teachers"
    ].stderr


@pytest.mark.slow
def test_each_mlflow_run_is_the_steps_own_run(project_runs):
    """A step takes the run that ``mlflow run`` made; its models are below it."""
    _, client = project_runs
    runs = top_runs(client)[:4]
    kinds = [run.data.tags["kd.kind"] for run in runs]
    assert kinds == ["teachers", "sweep", "distill", "promotion"]
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    below = {}
    for run in runs:
        clause = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
        children = client.search_runs([run.info.experiment_id], clause)
        below[run.data.tags["kd.kind"]] = sorted(child.info.run_name for child in children)
    chosen = runs[1].data.params["kd.chosen_temperature"]
    assert runs[2].data.params["kd.temperature"] == chosen
    sizes = [f"T{float(chosen):g}-alpha1-{widths}" for widths in ("4", "8-4")]
    assert below == {
        "teachers": ["teacher-01", "teacher-02", "teacher-03"],
        "sweep": sorted(["T2-alpha1-64-32", "T4-alpha1-64-32", *sizes]),
        "distill": [
            f"{kind}-{i:02d}" for kind in ("baseline", "strong", "student") for i in (1, 2)
        ],
        "promotion": [],
    }


@pytest.mark.slow
def test_mlflow_runs_options_reach_the_step(project_runs):
    """Options given with -P are the ones used; others are the defaults."""
    _, client = project_runs
    params = top_runs(client)[0].data.params
    assert (params["kd.n_teachers"], params["kd.teacher_epochs"]) == ("3", "2")
    assert params["kd.teacher_hidden"] == "256,128,64"


@pytest.mark.slow
def test_the_projects_student_is_in_production(project_runs):
    """After the three steps the registry has version 1 in production."""
    _, client = project_runs
    assert client.get_model_version_by_alias("kd-student", "production").version in (1, "1")


@pytest.mark.slow
def test_a_bad_mlflow_run_fails_visibly(project_runs):
    """A user's mistake makes ``mlflow run`` exit non-zero, name it, and leave a FAILED run."""
    done, client = project_runs
    assert done["bad"].returncode != 0
    assert "missing.csv" in done["bad"].stderr
    assert top_runs(client)[-1].info.status == "FAILED"
