"""What is read of logits: classes, probabilities, losses, agreement; numbers for ``evaluation``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow.evaluation.comparison import Comparison, evaluate_students
from kd_mlflow.evaluation.metrics import Counts, Floats, probability_metrics
from kd_mlflow.evaluation.scores import SeedScores
from kd_mlflow.evaluation.thresholds import Cutoff
from kd_mlflow.serving.scoring import decided


@dataclass(frozen=True, kw_only=True)
class Logits:
    """The logits of ensemble and students on the test rows, and these rows' labels.

    ``boosting`` are those of boosted trees alone; ``threshold`` is by what all of them predict a
    class, None where they predict the likeliest; ``groups`` number what each row is about;
    ``registered`` is the place of the registered student's seed.
    Shape: labels and groups (n,), ensemble and boosting (n, classes), students (seeds, n, classes)
    of each kind.
    """

    labels: NDArray[np.int64]
    ensemble: Tensor
    students: Mapping[str, Tensor]
    boosting: Tensor | None = None
    threshold: Cutoff | None = None
    groups: Counts | None = None
    registered: int = 0

    @property
    def ensemble_classes(self) -> Counts:
        """The classes that the ensemble predicts.  Shape: (n,)."""
        return predicted(self.ensemble, self.threshold)

    def classes(self, kind: str) -> Counts:
        """The classes that students of a kind predict.  Shape: (seeds, n)."""
        return predicted(self.students[kind], self.threshold)


def compared(
    logits: Logits,
    *,
    student_parameters: int,
    ensemble_parameters: int | None,
    class_rows: Mapping[str, int] | None = None,
) -> Comparison:
    """Compare all models of some logits, as ``evaluate_students`` does.

    ``class_rows`` are the whole table's by class; those of the labels where none are given.
    """
    labels, threshold = logits.labels, logits.threshold
    if class_rows is None:
        counts = np.bincount(labels, minlength=logits.ensemble.shape[-1]).tolist()
        class_rows = {str(place): count for place, count in enumerate(counts)}

    def scores(own: Tensor) -> SeedScores:
        return seed_scores(own, labels, threshold, logits.groups)

    return evaluate_students(
        {kind: scores(own) for kind, own in logits.students.items()},
        scores(logits.ensemble[None]),
        student_parameters=student_parameters,
        ensemble_parameters=ensemble_parameters,
        class_rows=class_rows,
        boosting=None if logits.boosting is None else scores(logits.boosting[None]),
        threshold=threshold,
        registered=logits.registered,
    )


def seed_scores(
    logits: Tensor, labels: Counts, threshold: Cutoff | None = None, groups: Counts | None = None
) -> SeedScores:
    """The answers of models of one kind.  Shape: (seeds, n, classes), labels and groups (n,)."""
    classes, losses = predicted(logits, threshold), row_losses(logits, labels)
    metrics = tuple(
        probability_metrics(class_probabilities(own), labels, said)
        for own, said in zip(logits, classes, strict=True)
    )
    return SeedScores(
        labels=labels, predicted=classes, losses=losses, metrics=metrics, groups=groups
    )


def class_probabilities(logits: Tensor) -> NDArray[np.float64]:
    """Of each class, in double precision.  Shape: (..., classes) -> the same."""
    return np.asarray(torch.softmax(logits.double(), dim=-1).numpy())


def predicted(logits: Tensor, threshold: Cutoff | None = None) -> Counts:
    """The class that is predicted for each row, see ``scoring.decided``.

    Shape: (..., n, classes) -> (..., n).

    >>> logits = torch.tensor([[0.7, 0.3], [0.4, 0.6]]).log()
    >>> predicted(logits), predicted(logits, 0.25)
    (array([0, 1]), array([1, 1]))
    """
    return decided(class_probabilities(logits), threshold)


def row_losses(logits: Tensor, labels: NDArray[np.int64]) -> Floats:
    """Log loss of each row, in nats.  Shape: (k, n, classes), (n,) -> (k, n)."""
    every = torch.from_numpy(labels).expand(len(logits), -1)
    return np.asarray(F.cross_entropy(logits.double().mT, every, reduction="none").numpy())


def agreements(logits: Tensor, classes: Tensor) -> Tensor:
    """Share of rows where each member predicts the given class.  Shape: (k, n, c), (n,) -> (k,).

    >>> logits = torch.tensor([[[2.0, 1.0], [0.0, 3.0]]])  # one member, two rows
    >>> agreements(logits, torch.tensor([0, 0]))
    tensor([0.5000], dtype=torch.float64)
    """
    return (logits.argmax(dim=2) == classes).double().mean(dim=1)


def validation_metrics(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Log loss and accuracy of each member.  Shape: (k, n, classes), (n,) -> (k,) each.

    >>> found = validation_metrics(torch.zeros(3, 4, 2), torch.tensor([0, 0, 1, 1]))
    >>> found["val_accuracy"].tolist()
    [0.5, 0.5, 0.5]
    """
    every = labels.expand(logits.shape[0], -1)
    loss = F.cross_entropy(logits.mT, every, reduction="none").mean(dim=1)
    return {"val_loss": loss, "val_accuracy": agreements(logits, labels)}


def teacher_student_kl(ensemble_logits: Tensor, logits: Tensor) -> float:
    """Mean KL(ensemble || student) at T 1, in nats.  Shape: (n, classes) each."""
    teacher = torch.log_softmax(ensemble_logits.double(), dim=-1)
    student = torch.log_softmax(logits.double(), dim=-1)
    return float((teacher.exp() * (teacher - student)).sum(dim=-1).mean())
