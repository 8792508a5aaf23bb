"""Losses of a whole population, one value a member and row, and the ensemble's average.

Hinton, Vinyals & Dean (2015), "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

UNLABELLED = -100
"""The label of a row that has none; torch's own ``ignore_index``."""


def average_logits(member_logits: Tensor) -> Tensor:
    """Average the members' logits into the ensemble's.

    Shape: (k, batch, classes) -> (batch, classes).
    """
    return member_logits.mean(dim=0)


def average_probabilities(member_logits: Tensor) -> Tensor:
    """Average the members' probabilities; return them as logits, log of the mean probability.

    The mean probability is the mixture's own prediction: its log loss is never above the members'
    mean log loss.  Shape: (k, batch, classes) -> (batch, classes).
    """
    k = member_logits.shape[0]
    return torch.log_softmax(member_logits, dim=-1).logsumexp(dim=0) - math.log(k)


AVERAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "logits": average_logits,
    "probabilities": average_probabilities,
}
"""How an ensemble's logits come from its members', by the option ``averaging``."""


def soft_targets(ensemble_logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Return the ensemble's probabilities at temperature T: softmax(logits / T)."""
    return torch.softmax(ensemble_logits / temperature, dim=-1)


def soft_loss(logits: Tensor, ensemble_logits: Tensor, temperature: Tensor) -> Tensor:
    """``T^2 * KL(soft targets || student at T)`` of each row; the loss is its mean over the batch.

    T^2 keeps the gradient's size independent of T (section 2 of the paper).
    Shape: logits and ensemble_logits (k, batch, classes), temperature (k,) -> (k, batch).
    """
    t = temperature[:, None, None]
    student = torch.log_softmax(logits / t, dim=-1)
    teacher = torch.log_softmax(ensemble_logits / t, dim=-1)
    return t[..., 0].square() * (teacher.exp() * (teacher - student)).sum(dim=-1)


def hard_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy on labels of each row; 0 where the label is UNLABELLED.

    Shape: logits (k, batch, classes), labels (k, batch) -> (k, batch).
    """
    each = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=UNLABELLED
    )
    return each.view(labels.shape)


def mixed_hard_loss(logits: Tensor, labels: Tensor, weight: Tensor | None) -> Tensor:
    """Cross-entropy of mixed rows: each row's label and its neighbour's, by their weights.

    The neighbour is the row before in the batch. Zhang et al. (2018), "mixup: Beyond Empirical
    Risk Minimization", arXiv 1710.09412, equation 1.
    Shape: logits (k, batch, classes), labels and weight (k, batch) -> (k, batch).
    """
    own = hard_loss(logits, labels)
    if weight is None:
        return own
    return weight * own + (1 - weight) * hard_loss(logits, labels.roll(1, dims=1))


class LabelLoss:
    """Cross-entropy on the labels of the rows in a batch."""

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def __call__(
        self, logits: Tensor, rows: Tensor, weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Shape: logits (k, batch, classes), rows and weight (k, batch) -> (k, batch) each."""
        return {"train_loss": mixed_hard_loss(logits, self.labels[rows], weight)}

    def members(self, rows: slice) -> LabelLoss:
        """The loss of some members: all have the same."""
        return self


class DistillationLoss:
    """``alpha * soft loss + (1 - alpha) * hard loss`` with a temperature and an alpha a member.

    A row without a label (UNLABELLED) has the soft loss alone.
    Shape: ensemble_logits (n, classes), labels (n,), temperature (k,), alpha (k,).
    """

    def __init__(
        self, ensemble_logits: Tensor, labels: Tensor, *, temperature: Tensor, alpha: Tensor
    ) -> None:
        self.ensemble_logits = ensemble_logits
        self.labels = labels
        self.temperature = temperature
        self.alpha = alpha

    def __call__(
        self, logits: Tensor, rows: Tensor, weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Loss of each row; NaN in soft_loss of a mixed row and in hard_loss of an unlabelled one.

        Shape: logits (k, batch, classes), rows and weight (k, batch) -> (k, batch) each.
        """
        labels = self.labels[rows]
        labelled = labels != UNLABELLED
        soft = soft_loss(logits, self.ensemble_logits[rows], self.temperature)
        hard = mixed_hard_loss(logits, labels, weight)
        total = torch.lerp(hard, soft, torch.where(labelled, self.alpha[:, None], 1.0))
        if weight is not None:
            soft = soft.masked_fill(weight < 1, torch.nan)
        return {
            "train_loss": total,
            "soft_loss": soft,
            "hard_loss": hard.masked_fill(~labelled, torch.nan),
        }

    def members(self, rows: slice) -> DistillationLoss:
        """The loss of some members."""
        return DistillationLoss(
            self.ensemble_logits,
            self.labels,
            temperature=self.temperature[rows],
            alpha=self.alpha[rows],
        )
