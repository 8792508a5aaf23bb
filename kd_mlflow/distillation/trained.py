"""Students after their training: a population, and the one of them that is registered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow.config.groups import StudentRecipe
from kd_mlflow.distillation.logits import teacher_student_kl
from kd_mlflow.distillation.menu import Fit, Trial
from kd_mlflow.distillation.student_module import StudentModule
from kd_mlflow.distillation.students import StudentSetting, TransferSet, calibrated, student_task
from kd_mlflow.population.history import History
from kd_mlflow.population.network import Population
from kd_mlflow.population.sampling import Inputs
from kd_mlflow.serving.scoring import Network
from kd_mlflow.table.encoding import Encoding, Scaler


@dataclass(frozen=True, kw_only=True)
class TrainedStudents:
    """A trained population of students: as many of each kind, one kind after the other.

    ``encoding`` is that of their inputs, ``trials`` is how they were chosen, the kept one last;
    ``place`` is that of the registered one among the distilled, which come first.
    """

    population: Population
    encoding: Encoding
    kinds: Sequence[str]
    history: History
    lessons: TransferSet
    trials: Sequence[Trial] = ()
    place: int = 0

    @property
    def registered(self) -> StudentModule:
        """The registered student with its scaler, as it is served."""
        return StudentModule(self.encoding, self.population.member(self.place)).eval()

    def nearest(self) -> int:
        """Which distilled student has the least divergence from the ensemble on validation rows."""
        distilled = self.population.members(slice(self.population.k // len(self.kinds)))
        lessons, scaler = self.lessons, Scaler(self.encoding)
        val = Inputs(lessons.encoded[lessons.taught_rows :].cpu(), scaler)
        scored, ensemble = distilled.logits(val), lessons.val_logits.cpu()
        return int(np.argmin([teacher_student_kl(ensemble, logits) for logits in scored]))

    def score(self, encoded: NDArray[np.float32]) -> Tensor:
        """Score encoded rows with each student, the registered one as it is served.

        Shape: (n, columns) -> (k, n, classes).
        """
        logits = self.population.logits(Inputs(torch.from_numpy(encoded), Scaler(self.encoding)))
        logits[self.place] = self.score_registered(encoded)
        return logits

    def score_registered(self, encoded: NDArray[np.float32]) -> Tensor:
        """Score encoded rows as the registered student is served.

        Shape: (n, columns) -> (n, classes).
        """
        return torch.from_numpy(Network(self.registered.arrays)(encoded))

    def score_validation_rows(self) -> Tensor:
        """The registered student's logits on the validation rows.  Shape: (n, classes)."""
        return self.score_registered(self.lessons.encoded[self.lessons.taught_rows :].cpu().numpy())


def trained_students(
    recipe: StudentRecipe,
    lessons: TransferSet,
    groups: Mapping[str, Sequence[StudentSetting]],
    trials: Sequence[Trial],
    fit: Fit,
) -> TrainedStudents:
    """Train students of all kinds as one population, by a recipe that names its student."""
    encoding = lessons.binned(recipe.student_bins)
    members = [member for some in groups.values() for member in some]
    task = student_task(recipe, lessons, members, encoding, recipe.student_hidden)
    history = fit(task, "students")
    return TrainedStudents(
        population=calibrated(recipe, task, lessons),
        encoding=encoding,
        kinds=list(groups),
        history=history,
        lessons=lessons,
        trials=trials,
    )
