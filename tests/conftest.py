"""Stores of MLflow for the tests: made once per session, copied or shared."""

from __future__ import annotations

import gc
import itertools
import os
import pickle
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from faults import fault as fault  # every test module may write rows of the table
from faults import pytest_terminal_summary as pytest_terminal_summary
from filelock import FileLock
from shorter import ABOUT, PARTS, leave_out, put_back

from kd_mlflow.config.entry_points import DistillConfig, MainConfig
from kd_mlflow.config.groups import StudentRecipe
from kd_mlflow.config.options import Options

if TYPE_CHECKING:  # the process that hands tests out to others needs none of these
    from mlflow import MlflowClient

    from kd_mlflow.report.training_results import MainResult

gc.disable()  # until all is imported: nothing of that is ever let go
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
# compiling MLflow anew takes each process that a test starts a second
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, one core each

ROOT = Path(__file__).parents[1]
collect_ignore = ["preloaded.py"]  # it is what forked commands import, not what tests do

MEMORY = Path("/dev/shm")
FOLDERS = itertools.count()


def keep_in_memory() -> None:
    """Put temporary files where no write waits for a disk, if the system has room there."""
    asked = "TMPDIR" in os.environ
    if not asked and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 2 * 2**30:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


keep_in_memory()

CLOSING_TABLE = "closing_table.txt"
"""Beside the README's pictures: what the ``main`` that they show has printed."""

SMALL = {
    "n_teachers": 3,
    "teacher_epochs": 3,
    "teacher_hidden": (32, 16),
    "n_boosted": 2,
    "boosting_rounds": 10,
    "n_students": 2,
    "student_epochs": 4,
    "student_hidden": (4,),
    "student_bins": 0,
    "temperature": 3.0,
    "augment_factor": 2,
    "max_accuracy_gap": 1.0,
    "max_log_loss_gap": 0.0,
    "allow_worse_than_baseline": True,
    "min_compression": 1.0,
    "policy": "any",
}
"""A ``main`` of one or two seconds whose student passes the gate."""

TINY = {
    "n_teachers": 1,
    "teacher_epochs": 1,
    "teacher_hidden": (4,),
    "n_boosted": 1,
    "boosting_rounds": 2,
    "n_students": 1,
    "student_epochs": 1,
    "student_hidden": (4,),
    "student_bins": 0,
    "temperature": 3.0,
    "augment_factor": 1,
    "max_accuracy_gap": 1.0,
    "max_log_loss_gap": 0.0,
    "allow_worse_than_baseline": True,
    "min_compression": 0.01,
    "policy": "any",
}
"""A ``main`` whose models are trained for one epoch, for tests of what is around training."""


def part_of(options: type[Options], given: Mapping[str, Any] = SMALL) -> dict[str, Any]:
    """Those of ``SMALL``, or of others, that an entry point or a step takes."""
    known = {field.name for field in fields(options)}
    return {name: value for name, value in given.items() if name in known}


@dataclass(frozen=True)
class Finished:
    """A store that holds one finished ``main`` on the synthetic table."""

    uri: str
    folder: Path
    config: MainConfig
    result: MainResult

    @property
    def client(self) -> MlflowClient:
        """A client of this store."""
        from mlflow import MlflowClient

        return MlflowClient(self.uri)


def flat(result: object) -> str:
    """What a result shows, whatever lines it is broken into."""
    return " ".join(repr(result).split())


def use_store(patch: pytest.MonkeyPatch, uri: str, folder: Path) -> None:
    """Work in a folder against a store, as a shell with MLFLOW_TRACKING_URI set would."""
    import mlflow
    from mlflow.tracking._tracking_service import utils

    hasten_stores()
    # MLflow remembers where a run's files are by its id alone, and a copied store has the same runs
    getattr(utils, "_artifact_repos_cache", {}).clear()
    patch.chdir(folder)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        patch.setenv(name, "")  # what MLflow sets itself meanwhile goes at the end too
        patch.delenv(name)
    patch.setenv("MLFLOW_TRACKING_URI", uri)
    patch.setenv("KD_MLFLOW_STATE", str(folder / "state"))
    mlflow.set_tracking_uri(uri)


@cache
def hasten_stores() -> None:
    """Spare MLflow's own stores what they do again and again: see below."""
    import yaml
    from mlflow.store.db import utils
    from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.orm import selectinload

    for name in ("SafeLoader", "SafeDumper"):  # a model's files are read and written by Python
        setattr(yaml, name, getattr(yaml, f"C{name}", getattr(yaml, name)))
    # all migrations are loaded whenever a store is opened: three quarters of that time
    if known := getattr(utils, "_get_latest_schema_revision", None):
        utils._get_latest_schema_revision = cache(known)
    # a registered model is asked for before each write to it, by queries that are compiled anew
    options = "_get_eager_registered_model_query_options"
    if hasattr(SqlAlchemyStore, options):
        parts = (
            SqlRegisteredModel.registered_model_tags,
            SqlRegisteredModel.registered_model_aliases,
        )
        setattr(SqlAlchemyStore, options, staticmethod(lambda: [*map(selectinload, parts)]))


def forget_store() -> None:
    """End ``use_store``: MLflow looks at its environment again."""
    import mlflow

    mlflow.set_tracking_uri(None)


LOCATIONS = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
"""Where an sqlite store says in which folder files are."""


def copy_store(database: Path, folder: Path) -> str:
    """Copy a store into a folder, with the files of its experiments; the copy's URI."""
    own = shutil.copy(database, folder / "mlflow.db")
    with closing(sqlite3.connect(own)) as store, store:
        found = [
            Path(path) for (path,) in store.execute("SELECT artifact_location FROM experiments")
        ]
        for path in found:
            if path.is_dir():
                shutil.copytree(path, folder / "mlruns" / path.name, dirs_exist_ok=True)
            for table, column in LOCATIONS.items():
                moved = (str(path), str(folder / "mlruns" / path.name))
                store.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", moved)
    return f"sqlite:///{own}"


@contextmanager
def copied_store(database: Path, folder: Path) -> Iterator[str]:
    """Work in a folder on a store's copy, for fixtures of many tests. Its URI."""
    uri = copy_store(database, folder)
    with pytest.MonkeyPatch.context() as patch:
        use_store(patch, uri, folder)
        yield uri
        forget_store()


@pytest.hookimpl(optionalhook=True)  # mutants are asked without xdist
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Half as many processes again as cores for slow tests: they wait for others often."""
    return None if config.option.markexpr == "not slow" else (os.cpu_count() or 1) * 3 // 2


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Of what is asked for, files with most slow tests come first: none is left at the end.

    Of the fast ones one that needs the shared ``main`` begins, and those that do not follow: the
    other processes have something to do while it is made. Files with few tests come last.
    """
    mark_slow_cases(items)
    yield
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    needing = {item.path for item in items if "finished_main" in getattr(item, "fixturenames", ())}
    first = next(
        (item.path for item in items if item.path in needing and not slow[item.path]), None
    )
    tests = Counter(item.path for item in items)
    items.sort(
        key=lambda item: (
            -slow[item.path],
            item.path != first,
            item.path in needing,
            -tests[item.path],
        )
    )


def mark_slow_cases(items: list[pytest.Item]) -> None:
    """Of a test with ``slow_cases`` the first is a fast one, and the others are slow."""
    begun = set()
    for item in items:
        if item.get_closest_marker("slow_cases"):
            test = (item.path, getattr(item, "originalname", item.name))
            if test in begun:
                item.add_marker("slow")
            begun.add(test)


def pytest_collection_finish() -> None:
    """Keep what imports brought in out of the garbage collector's sight, as the commands do."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """What a function makes in a folder: called by one process of the session, read by all."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own

    def get(name: str, make: Callable[[Path], Any]) -> Any:
        made = shared / f"{name}.pickle"
        with FileLock(shared / f"{name}.lock"):
            if not made.exists():
                made.write_bytes(pickle.dumps(make(tmp_path_factory.mktemp(name))))
        return pickle.loads(made.read_bytes())

    return get


@pytest.fixture(scope="session")
def empty_database(made_once: Callable[..., Path], pytestconfig: pytest.Config) -> Path:
    """An sqlite store without runs; making one takes seconds: once for a release of MLflow."""
    kept = pytestconfig.cache and pytestconfig.cache.mkdir(f"mlflow-{version('mlflow')}")
    return made_once("empty", lambda folder: _empty(folder, kept and kept / "mlflow.db"))


def _empty(folder: Path, kept: Path | None) -> Path:
    from mlflow import MlflowClient

    path = folder / "mlflow.db"
    if kept and kept.exists():
        return Path(shutil.copy(kept, path))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        MlflowClient(f"sqlite:///{path}").search_experiments()
    if kept:
        shutil.copy(path, half := kept.with_suffix(".half"))
        half.replace(kept)
    return path


@pytest.fixture(autouse=True, scope="module")
def shorter(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test module leaves out what takes long and is not what it is about."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out(patch, *(part for part in PARTS if request.module.__name__ not in ABOUT[part]))
        yield


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are drawn in this test."""
    put_back(monkeypatch, "drawing")


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of the test's own, at a path that no test of this process had before.

    MLflow keeps connections to a store: they see no file that takes the place of a deleted one.
    """
    folder = tmp_path_factory.getbasetemp() / f"test{next(FOLDERS)}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def store(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MlflowClient]:
    """An empty store of the test's own below ``tmp_path``, which is also the working folder."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    use_store(monkeypatch, uri, tmp_path)
    from mlflow import MlflowClient

    yield MlflowClient(uri)
    forget_store()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--screenshots FOLDER``: what the browser tests see; ``--faults FILE``: what was broken."""
    parser.addoption("--screenshots", type=Path, help="folder for pictures of a full main")
    parser.addoption("--faults", type=Path, help="file for the table of faults")


@pytest.fixture(scope="session")
def finished_main(
    empty_database: Path, made_once: Callable[..., Finished], pytestconfig: pytest.Config
) -> Finished:
    """The store of one finished ``main``; tests that use it write nothing."""
    pictures = pytestconfig.getoption("screenshots")
    config = MainConfig() if pictures else MainConfig(**SMALL)

    def make(folder: Path) -> Finished:
        uri = f"sqlite:///{shutil.copy(empty_database, folder / 'mlflow.db')}"
        with pytest.MonkeyPatch.context() as patch:
            use_store(patch, uri, folder)
            leave_out(patch, *PARTS)  # whichever module asks first
            put_back(patch, *(PARTS if pictures else ("drawing", "export")))
            from kd_mlflow import pipeline

            result = pipeline.run_main(config)
            forget_store()
        if pictures:
            shown = f"{result}\n".replace(str(folder), "/data")
            (pictures / CLOSING_TABLE).write_text(shown)
        return Finished(uri, folder, config, result)

    return made_once("main", make)


@pytest.fixture
def finished(
    finished_main: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Finished]:
    """The shared finished ``main``, in use and read only."""
    use_store(monkeypatch, finished_main.uri, tmp_path)
    yield finished_main
    forget_store()


@pytest.fixture
def own_main(
    finished_main: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Finished]:
    """The test's own copy of the finished ``main``, files included."""
    uri = copy_store(finished_main.folder / "mlflow.db", tmp_path)
    use_store(monkeypatch, uri, tmp_path)
    yield Finished(uri, tmp_path, finished_main.config, finished_main.result)
    forget_store()


@pytest.fixture(scope="session")
def two_versions(finished_main: Finished, made_once: Callable[..., Path]) -> Path:
    """The database of the finished ``main`` with a second version, the candidate."""

    def make(folder: Path) -> Path:
        database = finished_main.folder / "mlflow.db"
        with pytest.MonkeyPatch.context() as patch, copied_store(database, folder):
            leave_out(patch, *PARTS)
            from kd_mlflow import pipeline

            pipeline.run_distill(DistillConfig(**part_of(StudentRecipe)))
        return folder / "mlflow.db"

    return made_once("two", make)


@pytest.fixture
def waiting(
    finished_main: Finished, two_versions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Finished]:
    """The test's own store where version 1 is in production and version 2 is the candidate."""
    uri = copy_store(two_versions, tmp_path)
    use_store(monkeypatch, uri, tmp_path)
    yield Finished(uri, tmp_path, finished_main.config, finished_main.result)
    forget_store()


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; return exit code, output and errors."""
    from kd_mlflow import cli

    monkeypatch.setattr(cli.signal, "signal", lambda *handler: None)

    def run_cli(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kd-mlflow", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capfd.readouterr()
        return ended.value.code, said.out, said.err

    return run_cli
