"""What a student costs: bytes of what it requires, each package once; its time for a row."""

import time
from importlib import metadata

from test_drift import ENCODING, TRAIN

from kd_mlflow.distillation import footprint
from kd_mlflow.distillation.footprint import (
    Footprint,
    Served,
    Speed,
    environment_bytes,
    served,
    speed,
)
from kd_mlflow.distillation.student_module import StudentModule
from kd_mlflow.population.network import Population
from kd_mlflow.table.encoding import Scaler


def test_an_environment_is_its_packages_and_what_they_require():
    """Each package counts once, with the sizes that its list of files gives."""
    numpy = sum(file.size or 0 for file in metadata.files("numpy"))
    assert environment_bytes(["numpy>=1"]) == numpy > 1e6
    assert environment_bytes(["numpy==9", "NumPy"]) == numpy
    pandas = environment_bytes(["pandas"])
    assert pandas > numpy
    assert environment_bytes(["numpy", "pandas"]) == pandas
    assert environment_bytes(["no-such-package-anywhere"]) == 0


def test_how_much_faster_is_a_metric_too():
    """Both speeds and their ratios, by the names that are logged."""
    costs = Footprint(
        speed=Speed(latency_ms=0.2, bulk_us=0.5),
        ensemble=Speed(latency_ms=5.0, bulk_us=20.0),
        model_bytes=10,
        environment_bytes=100,
    )
    assert costs.metrics == {
        "registered_latency_ms": 0.2,
        "registered_bulk_us": 0.5,
        "registered_model_bytes": 10,
        "registered_environment_bytes": 100,
        "ensemble_latency_ms": 5.0,
        "ensemble_bulk_us": 20.0,
        "latency_ratio": 25.0,
        "bulk_ratio": 40.0,
    }


def test_a_slow_answer_is_not_asked_for_long(monkeypatch):
    """A median is of fewer calls where time is over, and of one at least."""
    monkeypatch.setattr(footprint, "TIMED_S", 0.0)
    calls = []
    assert 10 <= footprint.median_ms(lambda: (calls.append(1), time.sleep(0.01))) < 1000
    assert len(calls) == 2


def test_rows_take_time():
    """Rows of any kinds of columns are timed: one takes less than a second, many are cheaper."""
    sizes = (Scaler(ENCODING).width, 4, 2)
    module = StudentModule(ENCODING, Population.initialised(sizes, seeds=[0]).member(0)).eval()
    found = speed(served(module), TRAIN.head(5))
    assert 0 < found.latency_ms < 1000
    assert 0 < found.bulk_us < 1000 * found.latency_ms


def test_many_rows_are_as_many_for_any_table():
    """Few test rows are taken again, so that models of small tables are comparable too."""
    seen = []
    speed(Served(encode=len, score=lambda *given: seen.append(given)), TRAIN.head(3))
    assert {(encoded, len(rows)) for encoded, rows in seen} == {
        (1, 1),
        (footprint.MANY_ROWS, footprint.MANY_ROWS),
    }
