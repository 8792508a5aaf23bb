"""Students and ensembles as self-contained MLflow models, without a pickle.

The pyfunc flavour of a student is weights, encoding and code, and scores with numpy. The pytorch
flavour beside it has the exported graph, for those who have torch. An ensemble's is the files that
rebuild it.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import AnyType
from numpy.typing import NDArray

from kd_mlflow.distillation.families import write_json
from kd_mlflow.distillation.footprint import Served
from kd_mlflow.distillation.student_module import StudentModule
from kd_mlflow.distillation.teachers import Ensemble, Teacher
from kd_mlflow.models.pulled import PROBABILITY
from kd_mlflow.serving import bounds, ensemble_scoring, scoring, student
from kd_mlflow.table.encoding import Encoding
from kd_mlflow.table.profile import Profile, caller_schema
from kd_mlflow.tracking.open_run import TrackedRun
from kd_mlflow.tracking.saved_model import MLMODEL, write_example

ENCODING, WEIGHTS = "encoding.json", "weights.npz"
"""Files of a student's model that it reads to score: what it was taught of the columns, and its
numbers."""

ARTIFACTS = {"encoding": ENCODING, "weights": WEIGHTS}
"""What MLflow calls each."""

PROFILE, SCHEMA = "training_profile.json", "schema.json"
"""What its training rows looked like, which only ``evaluate`` reads; and what a caller must send,
which nothing here reads."""

ONNX = "model.onnx"
"""The student as an ONNX graph, where it was exported."""

SCORING = ("mlflow-skinny", "numpy", "pandas")
"""What the pyfunc flavour needs; mlflow-skinny is MLflow without its tracking server and UI."""

EXTRAS = {"pytorch": ("torch",), "onnx": ("onnx", "onnxruntime")}
"""What other flavours need besides; the model's metadata and a file for each say so."""


def requirements(packages: Iterable[str] = SCORING) -> list[str]:
    """Packages at this environment's versions, without what says how they were built."""
    return [f"{package}=={version(package).split('+')[0]}" for package in packages]


def signature(encoding: Encoding) -> ModelSignature:
    """Raw columns by name -> prediction and one probability per class.

    The columns' type is ``any``: MLflow refuses whole numbers in a ``double`` column and fractions
    in a ``long`` one, where the model itself takes both and checks every value.
    """
    label = encoding.classes[0]
    kinds = {bool: DataType.boolean, int: DataType.long, str: DataType.string}
    answers = [ColSpec(kinds[type(label)], "prediction")]
    answers += [ColSpec(DataType.float, f"{PROBABILITY}{c}") for c in encoding.classes]
    return ModelSignature(
        inputs=Schema([ColSpec(AnyType(), column.name) for column in encoding.columns]),
        outputs=Schema(answers),
    )


def save_student(
    folder: Path,
    module: StudentModule,
    *,
    example: pd.DataFrame,
    profile: Profile | None = None,
    onnx: bytes | None = None,
) -> None:
    """Write all flavours into an empty folder, or one that is not there yet.

    ``example`` needs two rows or more of raw columns, and everyone who pulls the model sees them;
    ``profile`` is of its training rows, ``onnx`` the student as an ONNX graph.
    """
    described, encoding = Model(), module.encoding
    _write_graph(folder, described, module, encoding.encode(example))
    if onnx is not None:  # mlflow.onnx.load_model finds it
        (folder / ONNX).write_bytes(onnx)
        described.add_flavor(
            "onnx",
            onnx_version=version("onnx"),
            data=ONNX,
            providers=["CPUExecutionProvider"],
            onnx_session_options=None,
            code=None,
        )
    if profile is not None:
        counts = json.dumps(profile.to_dict(), ensure_ascii=False)
        (folder / PROFILE).write_text(counts, encoding="utf-8")
        write_json(folder / SCHEMA, caller_schema(encoding, profile).to_dict())
    _write_extras(folder, described)
    environment = {"conda_env": "conda.yaml", "python_env": "python_env.yaml"}
    _add_pyfunc(folder, described, module, example, **environment)


def _write_graph(
    folder: Path, mlflow_model: Model, module: StudentModule, encoded: NDArray[np.float32]
) -> None:
    """Make the folder, with the exported graph and the files of its environment."""
    width, classes = encoded.shape[1], len(module.encoding.classes)
    with quiet():
        mlflow.pytorch.save_model(
            module.eval(),
            str(folder),
            mlflow_model=mlflow_model,
            input_example=encoded,
            signature=ModelSignature(
                inputs=Schema([TensorSpec(np.dtype("float32"), (-1, width))]),
                outputs=Schema([TensorSpec(np.dtype("float32"), (-1, classes))]),
            ),
            serialization_format="pt2",
            pip_requirements=requirements(),
        )
    for leftover in folder.glob("*input_example*"):
        leftover.unlink()


def _add_pyfunc(
    folder: Path,
    mlflow_model: Model,
    module: StudentModule,
    example: pd.DataFrame,
    **environment: str,
) -> None:
    """Write what scores raw rows with numpy; ``environment``: files, by MLflow's arguments."""
    encoding = module.encoding
    add_code(folder)
    np.savez(folder / WEIGHTS, allow_pickle=False, **module.arrays)
    write_json(folder / ENCODING, encoding.to_dict())
    mlflow_model.signature = signature(encoding)
    write_example(folder, mlflow_model, example)
    mlflow.pyfunc.add_to_model(
        mlflow_model,
        loader_module="mlflow.pyfunc.model",
        model_code_path=Path(student.__file__).name,
        artifacts={name: {"path": file, "uri": file} for name, file in ARTIFACTS.items()},
        **environment,
    )
    mlflow_model.save(str(folder / MLMODEL))


def add_code(folder: Path) -> None:
    """Copy what every model of ours reads columns with, and what answers MLflow."""
    for path in (scoring.__file__, bounds.__file__, student.__file__):
        shutil.copy(path, folder)


def _write_extras(folder: Path, mlflow_model: Model) -> None:
    """Say what the other flavours need, in the metadata and in a file of requirements for each."""
    extras = {name: requirements(EXTRAS[name]) for name in EXTRAS if name in mlflow_model.flavors}
    mlflow_model.metadata = {"extras": extras}
    for flavour, lines in extras.items():
        text = "\n".join(["-r requirements.txt", *lines, ""])
        (folder / f"requirements-{flavour}.txt").write_text(text, encoding="utf-8")


def rehearse(module: StudentModule, *, example: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Package a student with an example, load it as anyone would, and return its answer to rows.

    Without the exported graph, which knows nothing of columns and takes seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        _add_pyfunc(Path(folder), Model(), module, example)
        answer: pd.DataFrame = mlflow.pyfunc.load_model(folder).predict(rows)
    return answer


def log_student(
    run: TrackedRun, write: Callable[[Path], object], *, params: dict[str, str]
) -> tuple[str, int]:
    """Log what ``save_student`` writes, with its parameters; the model's id, its files' bytes.

    Log it before the run's metrics: MLflow asks for the history of each metric it finds.
    """
    sizes: list[int] = []

    def measured(folder: Path) -> None:
        write(folder)
        sizes.extend(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    return run.model(measured, name="student", params=params), sum(sizes)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what the export says of later releases, which no user can act on."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "torch.export", "torch.fx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def served_teacher(teacher: Teacher, averaging: str) -> Served:
    """A teacher as it is served: our own ensembles by their own code.

    Models of others answer as they did when they taught: to store them again may take minutes.
    """
    if not isinstance(teacher, Ensemble) or any(":" in f.name for f in teacher.used.families):
        return Served(encode=len, score=lambda _, rows: teacher.score(rows, averaging))
    with tempfile.TemporaryDirectory() as folder:
        teacher.save(Path(folder))
        members = ensemble_scoring.Members(Path(folder), averaging)
    columns = [column.to_dict() for column in teacher.encoding.columns]
    return Served(lambda rows: scoring.encode(rows, columns), members.probabilities)


def save_ensemble(
    folder: Path, ensemble: Ensemble, *, averaging: str, example: pd.DataFrame
) -> None:
    """Write the model into an empty folder: what ``Ensemble.save`` writes, and code to score it.

    The code has no torch: each family of networks gets its scaler as arrays.
    """
    described, code = Model(), Path(ensemble_scoring.__file__)
    used = (name for family in ensemble.used.families for name in family.requirements)
    with quiet():
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(code),
            mlflow_model=described,
            signature=signature(ensemble.encoding),
            pip_requirements=requirements((*SCORING, *dict.fromkeys(used))),
            model_config={"averaging": averaging},
            uv_project_path=str(folder),  # or the lock of a project at hand would be copied
        )
    described.flavors[mlflow.pyfunc.FLAVOR_NAME]["model_code_path"] = code.name  # not where it lay
    write_example(folder, described, example)
    described.save(str(folder / MLMODEL))
    add_code(folder)
    ensemble.save(folder)
