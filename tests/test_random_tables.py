"""Any table goes through ``main``, or is refused before the first epoch with a plain word."""

import os
import shutil
from contextlib import contextmanager

import pytest
from conftest import TINY, use_store
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_tables import questions, written

from kd_mlflow.config.entry_points import MainConfig
from kd_mlflow.errors import KDError
from kd_mlflow.pipeline import run_main

TABLES = int(os.environ.get("KD_RANDOM_TABLES", "12"))
"""How many tables are drawn; by hand a thousand."""


class Begun:
    """A listener that remembers whether an epoch was trained."""

    def __init__(self):
        self.trained = False

    def say(self, text):
        """Drop the line."""

    @contextmanager
    def training(self, label, members, epochs):
        """Take note of the first epoch."""

        def on_epoch(members, epoch, values):
            self.trained = True

        yield on_epoch


@pytest.mark.slow
@given(question=questions(), form=st.sampled_from([".csv", ".parquet", "frame"]))
@settings(
    max_examples=TABLES,
    deadline=None,
    phases=[Phase.generate],  # a failing table is small already, and each try takes a second
    derandomize=TABLES < 100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_table_ends_in_a_decision_or_is_refused_before_training(
    empty_database, monkeypatch, tmp_path, question, form
):
    """Odd types, gaps, groups, times, classes and names end well, or in a KDError at once."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    use_store(monkeypatch, f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path)
    shutil.rmtree(tmp_path / "mlruns", ignore_errors=True)
    table, options = question
    data = table if form == "frame" else written(table, tmp_path, form)
    if data is None:
        return
    begun = Begun()
    try:
        data = data if form == "frame" else str(data)
        result = run_main(MainConfig(data=data, target="label", **options, **TINY), begun)
    except KDError as refusal:
        refused = str(refusal)
    else:
        refused = ""
        assert result.decision.promoted, result.decision.reason
    assert not (refused and begun.trained), refused
    assert "\n" not in refused
