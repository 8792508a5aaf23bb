"""What a student costs: bytes of what it requires, each package once; its time for a row."""

from importlib import metadata

from test_drift import ENCODING, TRAIN

from kd_mlflow.distillation.footprint import environment_bytes, latency_ms
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


def test_a_row_takes_time():
    """One row of any kinds of columns is timed, and no more than a second."""
    sizes = (Scaler(ENCODING).width, 4, 2)
    module = StudentModule(ENCODING, Population.initialised(sizes, seeds=[0]).member(0)).eval()
    assert 0 < latency_ms(module, TRAIN.head(1)) < 1000
