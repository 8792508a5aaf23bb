"""Mutants: one change each, of what the code does and of nothing else."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))
from mutants import ROOMS, changed, edits, options

SOURCE = '''
"""Sets 1 limit."""
LIMIT: float = 0.5
def least(low: int, high: int = 3) -> int:
    """The low one."""
    if low >= high:
        raise ValueError("high")
    low += 1
    return min(low, key=abs) if high else Check(reason="low")
'''


def test_a_mutant_is_one_change_of_what_the_code_does():
    """Types, docstrings, texts of errors and reasons stay; no two mutants are the same code."""
    words = [edit.words for edit in edits(ast.parse(SOURCE))]
    assert [each for each in words if not each.startswith("if ")] == [
        "0.5 -> 1.0",
        "0.5 -> 0.25",
        "3 -> 2",
        "3 -> 4",
        "low >= high -> low > high",
        "low >= high -> low < high",
        "low -> high",
        "high -> low",
        "low += 1 -> pass",
        "1 -> 0",
        "1 -> 2",
        "min(low, key=abs) if high else Check(reason='low') -> min(low, key=abs)",
        "min(low, key=abs) if high else Check(reason='low') -> Check(reason='low')",
        "high -> low",
        "min(...) without key",
        "min -> max",
        "low -> high",
    ]
    sources = {ast.unparse(ast.parse(SOURCE))}
    for number in range(len(words)):
        tree = ast.parse(SOURCE)
        changed(tree, number=number)
        sources.add(ast.unparse(ast.fix_missing_locations(tree)))
    assert len(sources) == len(words) + 1


def test_without_names_all_rooms_are_asked():
    """``make mutants`` gives none; a name that is no room's is refused."""
    assert options([]).rooms == [*ROOMS]
    assert options(["hashing", "--sample", "3"]).rooms == ["hashing"]
    with pytest.raises(SystemExit):
        options(["table"])


@pytest.mark.slow
def test_tests_are_asked_without_workers():
    """A mutant's tests run in its own process, where pytest knows nothing of xdist."""
    words = ["-m", "pytest", "-qpno:xdist", "--collect-only", "tests/test_mutants.py"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
