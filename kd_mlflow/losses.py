"""Losses of a whole population, one value a member, and the ensemble's average.

Hinton, Vinyals & Dean (2015), "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def average_logits(member_logits: Tensor) -> Tensor:
    """Average the members' logits into the ensemble's.

    Shape: (k, batch, classes) -> (batch, classes).
    """
    return member_logits.mean(dim=0)


def soft_targets(ensemble_logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Return the ensemble's probabilities at temperature T: softmax(logits / T)."""
    return torch.softmax(ensemble_logits / temperature, dim=-1)


def soft_loss(logits: Tensor, ensemble_logits: Tensor, temperature: Tensor) -> Tensor:
    """``T^2 * KL(soft targets || student at T)``, averaged over the batch.

    T^2 keeps the gradient's size independent of T (section 2 of the paper).
    Shape: logits and ensemble_logits (k, batch, classes), temperature (k,) -> (k,).
    """
    t = temperature[:, None, None]
    student = torch.log_softmax(logits / t, dim=-1)
    teacher = torch.log_softmax(ensemble_logits / t, dim=-1)
    divergence = (teacher.exp() * (teacher - student)).sum(dim=-1).mean(dim=-1)
    return temperature.square() * divergence


def hard_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy on labels, averaged over the batch.

    Shape: logits (k, batch, classes), labels (k, batch) -> (k,).
    """
    k, batch, classes = logits.shape
    each = F.cross_entropy(
        logits.reshape(k * batch, classes), labels.reshape(k * batch), reduction="none"
    )
    return each.view(k, batch).mean(dim=1)


class LabelLoss:
    """Cross-entropy on the labels of the rows in a batch."""

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def __call__(self, logits: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Shape: logits (k, batch, classes), rows (k, batch) -> (k,) each."""
        return {"train_loss": hard_loss(logits, self.labels[rows])}

    def members(self, rows: slice) -> LabelLoss:
        """The loss of some members: all have the same."""
        return self


class DistillationLoss:
    """``alpha * soft loss + (1 - alpha) * hard loss`` with a temperature and an alpha a member.

    Shape: ensemble_logits (n, classes), labels (n,), temperature (k,), alpha (k,).
    """

    def __init__(
        self, ensemble_logits: Tensor, labels: Tensor, *, temperature: Tensor, alpha: Tensor
    ) -> None:
        self.ensemble_logits = ensemble_logits
        self.labels = labels
        self.temperature = temperature
        self.alpha = alpha

    def __call__(self, logits: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Shape: logits (k, batch, classes), rows (k, batch) -> (k,) each."""
        soft = soft_loss(logits, self.ensemble_logits[rows], self.temperature)
        hard = hard_loss(logits, self.labels[rows])
        total = self.alpha * soft + (1 - self.alpha) * hard
        return {"train_loss": total, "soft_loss": soft, "hard_loss": hard}

    def members(self, rows: slice) -> DistillationLoss:
        """The loss of some members."""
        return DistillationLoss(
            self.ensemble_logits,
            self.labels,
            temperature=self.temperature[rows],
            alpha=self.alpha[rows],
        )
