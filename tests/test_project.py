"""MLproject, conda.yaml and the imports agree with the package; ``mlflow run`` leaves its runs."""

import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from forks import Forked
from imports import (
    LAYERS,
    MODULE_AND_ENTRY,
    MODULES,
    between_rooms,
    imported,
    name_of,
    room_of,
    undocumented,
)
from mlflow import MlflowClient
from mlflow.projects._project_spec import load_project
from setuptools import find_packages

from kd_mlflow.config.entry_points import ENTRY_POINTS
from kd_mlflow.config.options import text_value

PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


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


@pytest.mark.parametrize("value", ["", ",", ";", "|", "\t", r"\t", "tab", "'", " "])
def test_mlflow_run_hands_over_any_separator(value):
    """What a shell would take for its own reaches the command as it was given."""
    entry = load_project(str(ROOT)).get_entry_point("main")
    words = shlex.split(entry.compute_command({"separator": value, "decimal": ","}, None))
    assert words[words.index("--separator") + 1] == value
    assert words[words.index("--decimal") + 1] == ","


FILES = {name_of(path): path for path in MODULES}
PLACES = {room: i for i, layer in enumerate(LAYERS) for room in layer}


def test_every_room_has_its_layer():
    """The list of layers names each folder and module of the package, and nothing else."""
    assert {room_of(name_of(path)) for path in MODULES} == PLACES.keys()


def test_rooms_import_downwards():
    """No room imports one above it or beside it, not even for a type.

    Within a room the order of ``ARCHITECTURE.md`` forbids circles (test_docs); folders have no
    imports of their own.
    """
    arrows = set(between_rooms()) - MODULE_AND_ENTRY
    assert [(own, other) for own, other in arrows if PLACES[other] >= PLACES[own]] == []
    folders = [path for path in MODULES if path.match("kd_mlflow/*/__init__.py")]
    assert folders
    assert not any(imported(path) for path in folders)


def test_mlflow_is_imported_where_runs_versions_and_models_are():
    """Whoever else wants MLflow goes through these rooms."""
    found = {
        room_of(name_of(path))
        for path in MODULES
        if any(name.split(".")[0] == "mlflow" for name in imported(path))
    }
    assert found == {"tracking", "registry", "models", "serving"}


@pytest.mark.slow
def test_numbers_load_no_torch_and_tables_no_mlflow():
    """Importing ``evaluation`` takes no torch, and ``table`` no module of MLflow besides."""
    rooms = ("evaluation", "table")
    imports = [
        ", ".join(sorted(n for n in FILES if n.startswith(f"kd_mlflow.{r}."))) for r in rooms
    ]
    code = "; ".join(["import sys", *(f"import {names}; print(*sys.modules)" for names in imports)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    of_numbers, of_tables = (
        {name.split(".")[0] for name in line.split()} for line in done.stdout.splitlines()
    )
    assert not {"torch", "mlflow"} & of_numbers
    assert "mlflow" not in of_tables


def test_what_mlflow_does_not_document_is_used_in_one_place():
    """One module imports an undocumented class of MLflow, which it can do without."""
    found = {name_of(path): names for path in MODULES if (names := undocumented(path))}
    monitor = "mlflow.system_metrics.system_metrics_monitor.SystemMetricsMonitor"
    assert found == {"kd_mlflow.tracking.curves": {monitor}}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("import mlflow.utils.rest_utils", "mlflow.utils.rest_utils"),
        ("from mlflow import store", "mlflow.store"),
        ("from mlflow.models.utils import Example", "mlflow.models.utils.Example"),
        ("from mlflow.models import _save", "mlflow.models._save"),
        ("mlflow.store.db", "mlflow.store.db"),
        ("mlflow.pyfunc._load()", "mlflow.pyfunc._load"),
        ("model.metadata._own = 1", "model.metadata._own"),
    ],
)
def test_what_mlflow_does_not_document_is_seen(tmp_path, line, name):
    """However it is imported or reached."""
    path = tmp_path / "module.py"
    path.write_text(f"def f(self):\n    self._own = row._replace(a=1)\n    {line}\n")
    assert undocumented(path) >= {name}
    path.write_text(
        "from mlflow import MlflowClient\nimport mlflow.pyfunc\nmlflow.pyfunc.log_model"
    )
    assert undocumented(path) == set()


@pytest.mark.parametrize("room", ["population", "evaluation"])
def test_numbers_know_no_options_and_no_table(room):
    """Populations and evaluation know of the package its errors."""
    below = {other for own, other in between_rooms() if own == room}
    assert below <= {"errors"}


@pytest.mark.parametrize(
    ("file", "beside_it", "requirements"),
    [
        ("scoring", set(), {"numpy", "pandas"}),
        ("bounds", set(), {"pyarrow"}),  # which reads Parquet, where it is
        ("student", {"bounds", "scoring"}, {"mlflow", "numpy", "pandas"}),
        ("ensemble_scoring", {"scoring", "student"}, {"lightgbm", "mlflow", "numpy", "pandas"}),
    ],
)
def test_a_models_code_imports_its_requirements_alone(file, beside_it, requirements):
    """What goes into a model imports what it requires and, of the package, files beside it."""
    names = imported(ROOT / "kd_mlflow" / "serving" / f"{file}.py")
    own = {name for name in names if name.split(".")[0] == "kd_mlflow"}
    assert own == {f"kd_mlflow.serving.{name}" for name in beside_it}
    third_party = {name.split(".")[0] for name in names - own} - set(sys.stdlib_module_names)
    assert third_party == requirements


def test_an_installed_package_has_all_modules(tmp_path):
    """What ``pip install`` copies has every folder, the template and the mark of types."""
    found = find_packages(
        str(ROOT), include=PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    )
    assert sorted(found) == sorted(
        {".".join(path.relative_to(ROOT).parent.parts) for path in MODULES}
    )
    data = PYPROJECT["tool"]["setuptools"]["package-data"]
    for package, patterns in data.items():
        folder = ROOT.joinpath(*package.split("."))
        assert all(list(folder.glob(pattern)) for pattern in patterns)
    assert {"kd_mlflow", "kd_mlflow.report", "kd_mlflow.serving"} == data.keys()


def mlflow_run(folder, uri, arguments):
    """Run the project as a user does, from another folder; test_docs lets it start Python anew."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    taken = {"MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"}
    inherited = {key: value for key, value in os.environ.items() if key not in taken}
    options = f"--env-manager local --experiment-name project {arguments}".split()
    environment = inherited | {"MLFLOW_TRACKING_URI": uri, "PATH": path}
    log = folder / f"said-{len(list(folder.iterdir()))}"
    words = ("mlflow", "run", str(ROOT), *options)
    without = ("drawing", "rehearsal", "timing", "export", "clean process", "boosting alone")
    run = Forked(*words, folder=folder, env=environment, log=log, without=without)
    return run.wait(240), log.read_text()


@pytest.fixture(scope="module")
def project_runs(empty_database, tmp_path_factory):
    """Every step and one bad run through ``mlflow run``: status and words of each; a client."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(empty_database, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    steps = {
        "teachers": "-e teachers -P data=wine -P n_teachers=3 -P teacher_epochs=2 -P n_boosted=2 "
        "-P boosting_rounds=20",
        "sweep": "-e sweep -P data=wine -P temperatures=2,4 -P alphas=1 -P sizes=8,4;4 "
        "-P n_students=1 -P student_epochs=2 -P augment_factor=1 -P student_hidden=64,32",
        "distill": "-e distill -P data=wine -P student_epochs=2 -P n_students=2 "
        "-P from_sweep=latest",
        "promote": "-e promote -P max_accuracy_gap=1 -P max_log_loss_gap=0 -P min_compression=0.01 "
        "-P allow_worse_than_baseline=true",
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
    codes = {name: status for name, (status, _) in done.items() if name != "bad"}
    assert codes == dict.fromkeys(("teachers", "sweep", "distill", "promote"), 0), done


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
        "teachers": ["boosting-01", "boosting-02", "teacher-01", "teacher-02", "teacher-03"],
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
    status, said = done["bad"]
    assert status != 0
    assert "missing.csv" in said
    assert top_runs(client)[-1].info.status == "FAILED"
