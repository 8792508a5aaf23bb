"""Notebooks run from a clean kernel as they stand, and are committed with clean outputs."""

import ast
import json
import re
import shutil

import nbformat
import pytest
from conftest import SMALL
from kernels import NOTEBOOKS, execute
from mlflow import MlflowClient

NOISE = {
    "a folder of some machine": re.compile(r"/(tmp|home|root|Users|work|var)/"),
    "an address in memory": re.compile(r"\b0x[0-9a-f]{6,}"),
    "a time of day": re.compile(r"\b\d{2}:\d{2}:\d{2}\b"),
}
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    """A notebook's cells of code, outputs as they are committed."""
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_on_stderr(cells):
    """What cells wrote to standard error."""
    return [
        output.text
        for cell in cells
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stderr"
    ]


def test_there_are_three_notebooks():
    """The walk, the runs and the own teachers each have theirs."""
    assert [path.stem.partition("_")[0] for path in NOTEBOOKS] == ["1", "2", "3"]


@pytest.mark.slow
@each_notebook
def test_a_notebook_runs_from_a_clean_kernel(path, empty_database, tmp_path):
    """Every cell runs in an empty folder, its trainings cut short, and writes nothing to stderr."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    executed = execute(path, tmp_path, uri, options=SMALL)
    students = MlflowClient(uri).search_runs(["1"], "tags.`kd.kind` = 'distill'")
    assert {run.data.params["kd.student_epochs"] for run in students} == {"4"}
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert outputs_on_stderr(cells) == []
    assert [cell.source for cell in cells] == [cell.source for cell in code_cells(path)]


@each_notebook
def test_a_notebook_defines_nothing(path):
    """Notebooks import the package: no function, class or lambda is defined in one."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for cell in code_cells(path):
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, kinds)]


@each_notebook
def test_a_notebook_is_committed_as_it_ran(path):
    """Cells ran from the first to the last without an error, and a plot is there."""
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert "error" not in kinds
    assert outputs_on_stderr(cells) == []
    assert [o for cell in cells for o in cell.outputs if "image/png" in o.get("data", {})]
    assert cells[-1].outputs


@each_notebook
@pytest.mark.parametrize("noise", NOISE)
def test_outputs_are_free_of_noise(path, noise):
    """Committed outputs hold no machine's path, memory address or time of day."""
    for cell in code_cells(path):
        for output in cell.outputs:
            data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
            text = json.dumps([output.get("text", ""), data])
            assert (noise, NOISE[noise].findall(text)) == (noise, [])
            assert "timestamp" not in cell.metadata
