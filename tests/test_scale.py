"""Memory stays within what the table's size allows."""

import sys

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))
from scale import Point, measured

pytestmark = pytest.mark.slow


def test_peak_memory_is_within_four_tables_and_a_gibibyte(tmp_path):
    """Teachers of a Parquet file, in a process of their own, need no more than is promised."""
    point = Point(400_000, 4, 20)
    assert measured(point, tmp_path)["peak_gib"] < point.allowed_gib
