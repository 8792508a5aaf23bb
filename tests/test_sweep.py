"""The sweep: its runs, its choice on validation rows, and ``distill`` that takes it."""

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import matplotlib.image
import numpy as np
import pytest
from conftest import copied_store, copy_store, flat, forget_store, part_of, use_store
from matplotlib.colors import to_hex
from mlflow import MlflowClient
from mlflow.entities import Run
from shorter import put_back

from kd_mlflow import pipeline
from kd_mlflow.config.entry_points import DistillConfig, SweepConfig, TeachersConfig
from kd_mlflow.config.groups import StudentRecipe
from kd_mlflow.errors import ConfigError, RunError
from kd_mlflow.figures import accuracy, style
from kd_mlflow.report.command_results import SweepResult
from kd_mlflow.steps.sweep import CRITERION

STUDENTS = part_of(StudentRecipe)
GRID = {"temperatures": (1.0, 4.0), "alphas": (0.2, 0.7, 1.0), "sizes": "6;3"}


class Swept(NamedTuple):
    """A store with a finished sweep beside the finished ``main``."""

    client: MlflowClient
    folder: Path
    result: SweepResult
    run: Run


@pytest.fixture(scope="module")
def swept(finished_main, tmp_path_factory):
    """That store, which tests read."""
    folder = tmp_path_factory.mktemp("swept")
    with copied_store(finished_main.folder / "mlflow.db", folder) as uri:
        with pytest.MonkeyPatch.context() as patch:
            put_back(patch, "drawing")
            result = pipeline.run_sweep(SweepConfig(**STUDENTS, **GRID, tolerance=0.5))
        client = MlflowClient(uri)
        yield Swept(client, folder, result, client.get_run(result.run_id))


@pytest.fixture
def own_sweep(swept, tmp_path, monkeypatch):
    """The test's own copy of it."""
    uri = copy_store(swept.folder / "mlflow.db", tmp_path)
    use_store(monkeypatch, uri, tmp_path)
    yield swept._replace(client=MlflowClient(uri), folder=tmp_path)
    forget_store()


def children(client, run):
    """Runs below a run."""
    clause = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    return client.search_runs([run.info.experiment_id], clause)


@pytest.mark.slow
def test_a_sweep_is_one_run_a_setting_and_a_size(swept):
    """Each cell and size is a run of kind student with its own T, alpha, widths and curves."""
    client, run = swept.client, swept.run
    assert run.data.tags["kd.kind"] == "sweep"
    below = children(client, run)
    settings = {
        (r.data.params["kd.temperature"], r.data.params["kd.alpha"], r.info.run_name)
        for r in below
        if r.data.params["kd.student_hidden"] == "4"
    }
    assert settings == {
        (str(t), str(a), f"T{t:g}-alpha{a:g}-4") for t in (1.0, 4.0) for a in (0.2, 0.7, 1.0)
    }
    assert {r.data.params["kd.student_hidden"] for r in below} == {"4", "6", "3"}
    assert len(below) == 8
    for child in below:
        assert (child.data.tags["kd.kind"], child.info.status) == ("student", "FINISHED")
        history = client.get_metric_history(child.info.run_id, "val_accuracy")
        assert sorted(metric.step for metric in history) == [1, 2, 3, 4]
        assert {"test_accuracy", "test_accuracy_sem", "parameters"} <= child.data.metrics.keys()


@pytest.mark.slow
def test_the_choice_is_made_on_validation_rows(swept):
    """The chosen cell has the least validation log loss, and its setting stands on the run."""
    result, run = swept.result, swept.run
    least = min(cell.metrics[CRITERION] for cell in result.cells)
    assert result.chosen.metrics[CRITERION] == least
    assert float(run.data.params["kd.chosen_temperature"]) == result.chosen.temperature
    assert float(run.data.params["kd.chosen_alpha"]) == result.chosen.alpha
    assert result.smallest.hidden == (3,)
    assert run.data.params["kd.chosen_student_hidden"] == "3"
    assert run.data.metrics["chosen_test_accuracy"] == result.chosen.metrics["test_accuracy"]


@pytest.mark.slow
def test_a_sweeps_figures_are_pictures(swept, tmp_path):
    """The heat map and the size curve are artifacts that open as pictures."""
    for name in ("sweep_grid.png", "sweep_sizes.png"):
        path = swept.client.download_artifacts(swept.run.info.run_id, name, tmp_path)
        picture = matplotlib.image.imread(path)
        assert min(picture.shape[:2]) > 200
        assert picture.std() > 0.05


@pytest.mark.slow
def test_distill_takes_the_sweeps_setting_and_teachers(own_sweep):
    """The run names the sweep; its ensemble teaches though another came later, unless named."""
    result, taught = own_sweep.result, own_sweep.run.data.params["kd.teachers"]
    options = {name: value for name, value in STUDENTS.items() if name != "temperature"}
    later = pipeline.run_teachers(TeachersConfig(**part_of(TeachersConfig), seed=7)).run_id
    for given, named, kept in (("latest", "latest", taught), (result.run_id, later, later)):
        done = pipeline.run_distill(DistillConfig(**options, teachers=named, from_sweep=given))
        params = own_sweep.client.get_run(done.run_id).data.params
        assert params["kd.from_sweep"] == result.run_id
        assert float(params["kd.temperature"]) == result.chosen.temperature
        assert float(params["kd.alpha"]) == result.chosen.alpha
        assert params["kd.teachers"] == done.teachers_run_id == kept


@pytest.mark.slow
def test_a_sweeps_table_has_every_setting(swept):
    """The closing table lists cells, sizes, the choice and how to use it."""
    text = repr(swept.result)
    lines = ("T 1, alpha 0.2", "T 4, alpha 1", "3: ", "smallest within tolerance", "from_sweep")
    for line in lines:
        assert line in text
    assert "accuracy tells no sizes apart" not in text


@pytest.mark.slow
def test_a_size_that_only_answers_the_most_frequent_class_is_warned_of(swept):
    """It is as small as any, and its accuracy may be within the tolerance all the same."""
    smallest = swept.result.smallest or swept.result.sizes[0]
    reached = {"majority_val_accuracy": smallest.metrics["val_accuracy"]}
    ensemble = swept.result.ensemble | reached
    text = flat(replace(swept.result, ensemble=ensemble, smallest=smallest))
    assert "accuracy tells no sizes apart, the most frequent class alone has" in text


@pytest.mark.slow
def test_a_cell_is_the_student_that_distill_trains(own_main):
    """The cell of distill's own setting has its students' mean test accuracy."""
    options = {"temperatures": (3.0,), "alphas": (0.7,), "sizes": ""}
    result = pipeline.run_sweep(SweepConfig(**STUDENTS, **options))
    assert result.sizes == ()
    assert result.smallest is None
    distilled = own_main.result.distill.comparison.summary["distilled_test_accuracy"]
    assert result.chosen.metrics["test_accuracy"] == pytest.approx(distilled, abs=2e-3)


@pytest.mark.parametrize(("name", "value"), [("temperature", 2.0), ("alpha", 0.1)])
def test_a_setting_beside_a_sweep_is_refused(finished, name, value):
    """``from_sweep`` with a temperature or an alpha of one's own raises ConfigError."""
    with pytest.raises(ConfigError, match=f"from_sweep sets {name} too"):
        pipeline.run_distill(DistillConfig(from_sweep="latest", **{name: value}))


def test_from_sweep_refuses_a_run_that_is_no_sweep(finished):
    """A run of another kind raises RunError, which names the kind."""
    with pytest.raises(RunError, match=r"not a sweep: kd\.kind is 'distill'"):
        pipeline.run_distill(DistillConfig(from_sweep=finished.result.distill.run_id))


def test_heat_map_writes_each_cell_and_frames_the_chosen_one():
    """Every cell's log loss stands in its place; the frame is round the chosen one."""
    losses = np.array([[0.5, 0.6], [0.7, 0.8], [0.9, 0.95]])
    figure = accuracy.heat_map(
        {(i + 1, (j + 1) / 2): loss for (i, j), loss in np.ndenumerate(losses)},
        chosen=(3, 1),
        seeds=2,
        rows=400,
    )
    axes = figure.axes[0]
    written = {(text.get_position(), text.get_text()) for text in axes.texts}
    assert written == {((j, i), f"{losses[i, j]:.3f}") for i in range(3) for j in range(2)}
    (frame,) = axes.patches
    assert frame.get_xy() == (0.5, 1.5)
    assert "400 rows" in figure.get_suptitle()


def test_size_curve_is_in_percent_and_marks_the_smallest():
    """Sizes are sorted, accuracies in percent, the ensemble a line, the smallest a ring."""
    figure = accuracy.size_curve(
        [(300, 0.9, 0.01), (100, 0.8, 0.02)], ensemble=0.95, smallest=100, seeds=2, rows=50
    )
    (axes,) = figure.axes
    by_label = {line.get_label(): line for line in axes.lines}
    assert set(by_label["ensemble"].get_ydata()) == {95.0}
    (ring,) = [line for line in axes.lines if "smallest" in str(line.get_label())]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (100, 80)
    assert to_hex(ring.get_color()).upper() == style.MARK
    assert math.isclose(axes.lines[1].get_ydata()[0], 80)
