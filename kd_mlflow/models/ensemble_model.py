"""The ensemble as a self-contained MLflow model, without a pickle, of the files that rebuild it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pandas as pd
from mlflow.models import Model

from kd_mlflow.distillation.teachers import Ensemble, Teacher
from kd_mlflow.models.student_model import SCORING, add_code, quiet, requirements, signature
from kd_mlflow.serving import ensemble_scoring, scoring
from kd_mlflow.tracking.lookup import ENSEMBLE
from kd_mlflow.tracking.open_run import TrackedRun
from kd_mlflow.tracking.saved_model import MLMODEL, write_example


def log_ensemble(
    run: TrackedRun,
    ensemble: Ensemble,
    *,
    averaging: str,
    example: pd.DataFrame,
    params: Mapping[str, str],
) -> str:
    """Log the ensemble on a run, with its parameters and an example of raw columns; its model's id.

    ``load_ensemble`` finds its files there. Log it before the run's metrics, as a student.
    """

    def write(folder: Path) -> None:
        save_ensemble(folder, ensemble, averaging=averaging, example=example)

    return run.model(write, name=ENSEMBLE, params=dict(params))


def served_teacher(teacher: Teacher, averaging: str) -> Callable[[pd.DataFrame], object]:
    """What a teacher answers as it is served, without MLflow: our own ensembles by their own code.

    Models of others answer as they did when they taught: to store them again may take minutes.
    """
    if not isinstance(teacher, Ensemble) or any(":" in f.name for f in teacher.used.families):
        return lambda rows: teacher.score(rows, averaging)
    with TemporaryDirectory() as folder:
        teacher.save(Path(folder))
        members = ensemble_scoring.Members(Path(folder), averaging)
    columns = [asdict(column) for column in teacher.encoding.columns]
    return lambda rows: members.probabilities(scoring.encode(rows, columns), rows)


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
