"""The package from Python: what the command line does, typed, and light to import."""

import dataclasses
import doctest
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, SMALL, forget_store, part_of, use_store

import kd_mlflow as kd
from kd_mlflow import api, pipeline
from kd_mlflow.config.entry_points import (
    ENTRY_POINTS,
    READERS,
    DistillConfig,
    MainConfig,
    PromoteConfig,
)
from kd_mlflow.config.groups import DataOptions, StudentRecipe
from kd_mlflow.errors import ConfigError, DataError, RegistryError
from kd_mlflow.steps.examine import dataset_of
from kd_mlflow.steps.work import Listener, Work
from kd_mlflow.table.dataset import Dataset, read_dataset
from kd_mlflow.tracking.runs import Tracker

FUNCTIONS = {
    "train_teachers": "teachers",
    "distill": "distill",
    "sweep": "sweep",
    "promote": "promote",
    "rollback": "rollback",
    "evaluate": "evaluate",
    "history": "history",
    "columns": "columns",
}
"""Functions and their entry points."""

STUDENTS = part_of(StudentRecipe)
EXAMPLES = [test for test in doctest.DocTestFinder().find(api) if test.examples]
POINTS = pd.DataFrame(
    {
        "a": np.linspace(0, 1, 200).round(3) + np.arange(200) % 2,
        "b": np.sin(np.arange(200)).round(3),
        "kind": np.where(np.arange(200) % 2, "odd", "even"),
    }
)


def written():
    """When the checkout's own store was last written, None without one."""
    store = Path(ROOT) / "mlflow.db"
    return store.stat().st_mtime_ns if store.exists() else None


BEFORE = written()


@pytest.fixture(scope="module")
def examples_store(empty_database, tmp_path_factory):
    """A store that all examples share: they train the same ensemble, once."""
    folder = tmp_path_factory.mktemp("examples")
    path = shutil.copy(empty_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        use_store(patch, f"sqlite:///{path}", folder)
        yield
        forget_store()


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_examples_of_the_docstrings_hold(examples_store, example):
    """What a docstring shows is what happens."""
    flags = doctest.ELLIPSIS
    assert doctest.DocTestRunner(optionflags=flags).run(example).failed == 0


def test_every_function_has_an_example():
    """No public function is without an example that runs."""
    documented = {example.name.rpartition(".")[2] for example in EXAMPLES}
    assert documented == set(kd.__all__) - {"KDError"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_keywords_are_the_entry_points_options(name):
    """A function's signature and its help have every option of its entry point."""
    function = getattr(kd, name)
    options = [
        field.name for field in dataclasses.fields((ENTRY_POINTS | READERS)[FUNCTIONS[name]])
    ]
    assert list(inspect.signature(function).parameters) == options
    for option in options:
        assert f"\n    {option} (default: " in function.__doc__


def test_importing_the_package_is_light():
    """``import kd_mlflow`` and looking at what it offers import neither torch nor mlflow."""
    script = (
        "import sys, kd_mlflow\ndir(kd_mlflow)\n"
        "sys.exit(str({'torch', 'mlflow', 'pandas'} & sys.modules.keys() or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stderr.strip() == ""


@pytest.mark.slow
def test_types_reach_the_caller(cache, tmp_path):
    """Mypy knows each function's options and result, and refuses an option that does not exist."""
    libraries = '"torch.*", "matplotlib.*", "lightgbm.*"'  # no caller sees theirs: half a minute
    settings = (ROOT / "pyproject.toml").read_text()
    config = tmp_path / "pyproject.toml"
    config.write_text(settings.replace('"sklearn.*"', f'"sklearn.*", {libraries}'))
    (tmp_path / "use.py").write_text(
        "import kd_mlflow as kd\n"
        "result = kd.distill(data='wine', n_students=2)\n"
        "run_id: str = result.run_id\n"
        "wrong: int = result.run_id\n"
        "kd.promote(min_compresion=2)\n"
    )
    options = ["--config-file", config, "--cache-dir", cache.mkdir("mypy")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "use.py"],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("use.py")]
    assert [line.split(":")[1] for line in lines if "error" in line] == ["4", "5"]


def test_an_unknown_name_is_an_attribute_error():
    """The package has the names that it lists and no others."""
    assert set(kd.__all__) <= set(dir(kd))
    with pytest.raises(AttributeError, match="no attribute 'destill'"):
        _ = kd.destill


def test_a_result_shows_itself_as_the_closing_table(finished):
    """What a notebook shows of a result is what the command line prints."""
    result = finished.result
    for each in (result, result.taught, result.distill, result.decision):
        first, *lines = repr(each).splitlines()
        assert "(" not in first.split("  ")[0]
        assert len(lines) > 3


def test_a_misspelt_option_is_named_with_the_nearest_one():
    """An option that does not exist is a KDError that says which is meant, or which there are."""
    with pytest.raises(kd.KDError, match=r"no option 'temprature'; did you mean temperature\?"):
        kd.distill(temprature=3)
    with pytest.raises(kd.KDError, match="no option 'zzz'; there are 'data', 'target'"):
        kd.fit_ensemble(None, zzz=1)


def test_completion_shows_what_is_public():
    """``dir`` of the package has the names that it lists, and none that it imports."""
    assert [name for name in dir(kd) if not name.startswith("_")] == sorted(kd.__all__)


def test_a_result_is_a_table_in_a_notebook(finished):
    """Decision and comparison show verdict, checks and models; names in them are text."""
    result = finished.result
    for each in (result, result.distill):
        html = each._repr_html_()
        for name in ("ensemble", "boosted trees", "majority class"):
            assert f"<th>{name}</th>" in html
    assert "<th>reproduction</th><td>ok</td>" in result._repr_html_()
    decided = dataclasses.replace(result.decision, model_name="<b>", passed=False)
    assert "REJECTED  &lt;b&gt; version 1" in decided._repr_html_()
    assert result.taught._repr_html_().startswith("<pre>")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_teachers": 2.5}, "n_teachers must be a whole number; received 2.5"),
        ({"learning_rate": True + 0j}, "learning_rate must be a number"),
        ({"force": "no"}, "force must be true or false; received 'no'"),
        ({"teacher_hidden": [0]}, "teacher_hidden must be whole numbers"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(options, words):
    """Types that the command line cannot give raise ConfigError, not a traceback from within."""
    with pytest.raises(ConfigError, match=words):
        kd.train_teachers(**options)


def test_lists_of_sizes_are_taken(finished):
    """A list is as good as a tuple where an option holds several numbers."""
    assert DistillConfig(student_hidden=[8, 4]).student_hidden == (8, 4)


def test_a_frame_is_the_table_that_its_file_is(tmp_path):
    """A DataFrame has the digest and the split of the file with the same rows."""
    path = tmp_path / "points.parquet"
    POINTS.to_parquet(path)
    odd_index = POINTS.set_index(np.arange(200) * 3)
    sources = (path, str(path), odd_index)
    found = [read_dataset(DataOptions(data=source, target="kind")) for source in sources]
    assert len({dataset.table.digest for dataset in found}) == 1
    for dataset in found[1:]:
        np.testing.assert_array_equal(dataset.split.test, found[0].split.test)


@pytest.mark.parametrize(
    ("frame", "target", "words"),
    [
        (POINTS, "", "a table needs target"),
        (POINTS, "c", "target 'c' is not a column of the DataFrame"),
        (POINTS.head(0), "kind", "has a header and no rows"),
        (POINTS[["kind"]], "kind", "no column beside the target"),
        (POINTS[["a", "a", "kind"]], "kind", "duplicate columns"),
        (POINTS.assign(a=np.inf), "kind", "infinite"),
    ],
)
def test_a_frame_is_held_to_the_rules_of_files(frame, target, words):
    """What is wrong with a file is wrong with a DataFrame."""
    with pytest.raises(DataError, match=words):
        kd.split(data=frame, target=target)


def test_split_gives_every_row_once_with_its_label():
    """The three sides hold the table's rows, features first and then the label."""
    sides = kd.split(data=POINTS, target="kind")
    together = pd.concat(sides).sort_index()
    pd.testing.assert_frame_equal(together, POINTS, check_dtype=False)
    assert [len(rows) for rows in sides] == [
        len(rows)
        for rows in vars(read_dataset(DataOptions(data=POINTS, target="kind")).split).values()
    ]


@pytest.mark.slow
def test_a_frame_goes_all_the_way_to_production(store):
    """From a DataFrame: teachers, distillation, promotion with the frame, and predictions."""
    data = {"data": POINTS, "target": "kind"}
    kd.train_teachers(
        **data, n_teachers=2, teacher_epochs=3, teacher_hidden=(8,), teacher_families="mlp"
    )
    kd.distill(**data, **STUDENTS)
    passing = {
        "max_accuracy_gap": 1.0,
        "max_log_loss_gap": 0.0,
        "allow_worse_than_baseline": True,
        "min_compression": 0.1,
        "version": "1",
    }
    rejected = kd.promote(**passing)
    assert "promote from Python, kd.promote(data=frame)" in rejected.reason
    changed = kd.promote(**passing, data=POINTS.head(190))
    assert "is another one, or it or its split changed" in changed.reason
    assert kd.promote(**passing, data=POINTS).promoted
    answer = kd.load_production().predict(POINTS[["b", "a"]])
    assert set(answer["prediction"]) <= {"odd", "even"}
    assert len(answer) == len(POINTS)


@pytest.mark.slow
def test_a_table_that_was_changed_or_moved_cannot_be_judged(store, tmp_path):
    """Edited or gone it rejects, for now; with ``data`` it is read from where it lies now."""
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    POINTS.to_csv(old, index=False)
    config = SMALL | {"min_compression": 1000.0}
    pipeline.run_main(MainConfig(**config, data=str(old), target="kind"))
    passing = PromoteConfig(
        max_accuracy_gap=1.0,
        max_log_loss_gap=0.0,
        allow_worse_than_baseline=True,
        min_compression=1.0,
        version="1",
    )
    text = old.read_text()
    old.write_text(f"{text}0.5,0.5,even\n")
    assert "changed since the version was trained" in pipeline.run_promote(passing).reason
    old.write_text(text)
    old.rename(new)
    assert "cannot be read again" in pipeline.run_promote(passing).reason
    store.set_registered_model_alias("kd-student", "candidate", "1")
    asked = dataclasses.replace(passing, version="candidate")
    assert "cannot be read again" in pipeline.run_promote(asked).reason
    assert pipeline.run_promote(dataclasses.replace(asked, data=str(new))).promoted


def logged(options):
    """A run that says how it read its table."""
    tracker = Tracker()
    with tracker.run("teachers", "any") as run:
        session = {"dataset": read_dataset(options), "tracker": tracker, "listener": Listener()}
        Work(**session, config=options, run=run, fingerprint="").describe()
    return tracker.get(run.id)


@pytest.mark.parametrize("separator", ["\t", r"\t", "tab", " ", "|"])
def test_promote_reads_a_table_as_its_run_did(store, tmp_path, separator):
    """Options of a CSV file that were given count again, white space too."""
    path = tmp_path / "points.csv"
    mark = {r"\t": "\t", "tab": "\t"}.get(separator, separator)
    POINTS.to_csv(path, index=False, sep=mark, decimal=",")
    run = logged(DataOptions(data=str(path), target="kind", separator=separator, decimal=","))
    found = dataset_of(run)
    assert isinstance(found, Dataset), found
    pd.testing.assert_frame_equal(found.table.features, POINTS[["a", "b"]])


def test_promote_takes_the_same_table_in_another_form(store, tmp_path):
    """A separator that the run was given is none of a Parquet file or a DataFrame in its place."""
    path, moved = tmp_path / "points.csv", tmp_path / "points.parquet"
    POINTS.to_csv(path, index=False, sep=":")
    POINTS.to_parquet(moved)
    run = logged(DataOptions(data=str(path), target="kind", separator=":"))
    for data in ("", str(moved), POINTS):
        found = dataset_of(run, data)
        assert isinstance(found, Dataset), found


def test_a_run_that_knew_no_separator_has_it_found(store, tmp_path):
    """The table of a run that was logged before there was the option is read by default."""
    path = tmp_path / "points.csv"
    POINTS.to_csv(path, index=False, sep=";")
    options = DataOptions(data=str(path), target="kind")
    run = logged(options)
    for name in ("separator", "decimal"):
        del run.data.params[f"kd.{name}"]
    assert isinstance(dataset_of(run), Dataset)


@pytest.mark.slow
def test_strict_makes_a_rejection_an_error(waiting):
    """``kd.promote(strict=True)`` raises RegistryError with the gate's reason."""
    with pytest.raises(RegistryError, match=r"strict is true: .*at least 1000x required"):
        kd.promote(min_compression=1000, max_accuracy_gap=1.0, max_log_loss_gap=0.0, strict=True)


def test_production_is_what_the_gate_promoted(finished):
    """``load_production`` gives the version under the alias, as a pyfunc model."""
    student = kd.load_production()
    sides = kd.split()
    answer = student.predict(sides.test.drop(columns="label"))
    right = (answer["prediction"].to_numpy() == sides.test["label"].to_numpy()).mean()
    registered = finished.result.distill.comparison.summary["registered_test_accuracy"]
    assert right == pytest.approx(registered)


def test_no_example_writes_into_the_checkout():
    """Stores of the examples lie elsewhere; that of ``make run`` stays as it was."""
    assert written() == BEFORE
