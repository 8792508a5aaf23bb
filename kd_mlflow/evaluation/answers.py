"""What models of one kind, a seed each, say of the test rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow.evaluation.intervals import Interval, accuracy_difference, loss_difference
from kd_mlflow.evaluation.metrics import Floats, probability_metrics
from kd_mlflow.evaluation.thresholds import Counts, predicted

Metrics = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the models of one kind say of the test rows.

    Shape: logits (seeds, n, classes), labels (n,), the rest (seeds, n).
    """

    logits: Tensor
    labels: Counts
    predicted: Counts
    hits: NDArray[np.bool_]
    losses: Floats

    @classmethod
    def of(cls, logits: Tensor, labels: Counts, *, threshold: float | None) -> Answers:
        """From logits, and the probability from which on the second of two classes is predicted."""
        answers = predicted(logits, threshold)
        return cls(
            logits=logits,
            labels=labels,
            predicted=answers,
            hits=answers == labels,
            losses=row_losses(logits, labels),
        )

    def over(self, others: Answers) -> tuple[Interval, Interval]:
        """By how much these models are better than others, in accuracy and in log loss."""
        return (
            accuracy_difference(self.hits, others.hits),
            loss_difference(others.losses, self.losses),
        )

    def probability_metrics(self, place: int) -> Metrics:
        """Those of one seed's model."""
        own = probabilities(self.logits[place])
        return probability_metrics(own, self.labels, self.predicted[place])

    def metrics(self, teacher: Answers, *, parameters: int) -> Iterator[Metrics]:
        """Each seed's, and how often it agrees with the teacher."""
        for place, own in enumerate(self.predicted):
            found = metrics_of_test_rows(self.probability_metrics(place), parameters)
            yield found | {"test_agreement": float((own == teacher.predicted[0]).mean())}


def row_losses(logits: Tensor, labels: NDArray[np.int64]) -> Floats:
    """Log loss of each row, in nats.  Shape: (k, n, classes), (n,) -> (k, n)."""
    every = torch.from_numpy(labels).expand(len(logits), -1)
    losses: Floats = F.cross_entropy(logits.double().mT, every, reduction="none").numpy()
    return losses


def probabilities(logits: Tensor) -> NDArray[np.float64]:
    """Of each class, in double precision.  Shape: (..., classes) -> the same."""
    return torch.softmax(logits.double(), dim=-1).numpy()


def metrics_of_test_rows(found: Mapping[str, float], parameters: int) -> Metrics:
    """A model's metrics on the test rows as its run logs them, with its number of parameters."""
    return {**{f"test_{name}": value for name, value in found.items()}, "parameters": parameters}
