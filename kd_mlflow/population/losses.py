"""Losses of a whole population, one value per member and row, and the ensemble's average.

Hinton, Vinyals & Dean (2015), "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

UNLABELLED = -100
"""The label of a row that has none; torch's own ``ignore_index``."""


def average_logits(member_logits: Tensor, weights: Tensor | None = None) -> Tensor:
    """Average the members' logits into the ensemble's, alike or by weights that sum to 1.

    Shape: (k, batch, classes), (k,) -> (batch, classes).
    """
    if weights is None:
        return member_logits.mean(dim=0)
    average: Tensor = torch.tensordot(weights.to(member_logits), member_logits, dims=1)
    return average


def average_probabilities(member_logits: Tensor, weights: Tensor | None = None) -> Tensor:
    """Average the members' probabilities; return them as logits, log of the mean probability.

    The mean probability is the mixture's own prediction: its log loss is never above the members'
    mean log loss.  Shape: (k, batch, classes), (k,) -> (batch, classes).
    """
    log_shares = torch.log_softmax(member_logits, dim=-1)
    if weights is None:
        return log_shares.logsumexp(dim=0) - math.log(len(member_logits))
    return (log_shares + weights.to(member_logits).log()[:, None, None]).logsumexp(dim=0)


Average = Callable[..., Tensor]

AVERAGES: dict[str, Average] = {"logits": average_logits, "probabilities": average_probabilities}
"""How an ensemble's logits come from its members', by the option ``averaging``."""


def soft_targets(ensemble_logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Return the ensemble's probabilities at temperature T: softmax(logits / T).

    >>> soft_targets(torch.tensor([2.0, 0.0]), 1.0)
    tensor([0.8808, 0.1192])
    >>> soft_targets(torch.tensor([2.0, 0.0]), 4.0)  # softer
    tensor([0.6225, 0.3775])
    """
    return torch.softmax(ensemble_logits / temperature, dim=-1)


def soft_loss(
    logits: Tensor, ensemble_logits: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor]:
    """``T^2 * KL(soft targets || student at T)`` of each row, and its gradient in the logits.

    T^2 keeps the gradient, T (student at T - soft targets), of one size at any T (section 2 of the
    paper). Shape: logits and ensemble_logits (k, batch, classes), temperature (k,) ->
    (k, batch) and (k, batch, classes).
    """
    t = temperature[:, None, None]
    student = torch.log_softmax(logits / t, dim=-1)
    teacher = torch.log_softmax(ensemble_logits / t, dim=-1)
    targets = teacher.exp()
    loss = t[..., 0].square() * (targets * (teacher - student)).sum(dim=-1)
    return loss, t * (student.exp() - targets)


def hard_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy on label shares of each row, and its gradient in the logits.

    Shares of 0 throughout, those of a row without a label, give 0.
    Shape: logits and targets (k, batch, classes) -> (k, batch) and (k, batch, classes).
    """
    student = torch.log_softmax(logits, dim=-1)
    loss = -(targets * student).sum(dim=-1)
    return loss, student.exp() * targets.sum(dim=-1, keepdim=True) - targets


def label_shares(labels: Tensor, weight: Tensor | None, *, like: Tensor) -> Tensor:
    """Share of each class in a row's label: one-hot, or mixed with the row before in the batch.

    Zhang et al. (2018), "mixup: Beyond Empirical Risk Minimization", arXiv 1710.09412, equation 1.
    A row without a label has shares of 0. Shape: labels and weight (k, batch), like (k, batch,
    classes) -> (k, batch, classes).
    """
    known = (labels != UNLABELLED).to(like.dtype)[..., None]
    shares = torch.zeros_like(like).scatter_(2, labels.clamp(min=0)[..., None], known)
    return (
        shares if weight is None else torch.lerp(shares.roll(1, dims=1), shares, weight[..., None])
    )


class Losses(NamedTuple):
    """What a loss gives for a batch.

    Shape: values (k, batch) each; gradient, of each row's ``train_loss`` in the logits,
    (k, batch, classes).
    """

    values: dict[str, Tensor]
    gradient: Tensor


@dataclass(frozen=True, eq=False)
class LabelLoss:
    """Cross-entropy on the labels of the rows in a batch.  Shape: labels (n,)."""

    labels: Tensor

    def __call__(self, logits: Tensor, rows: Tensor, weight: Tensor | None = None) -> Losses:
        """Shape: logits (k, batch, classes), rows and weight (k, batch)."""
        shares = label_shares(self.labels[rows], weight, like=logits)
        loss, gradient = hard_loss(logits, shares)
        return Losses({"train_loss": loss}, gradient)

    def members(self, members: slice) -> LabelLoss:
        """The loss of some members: all have the same."""
        return self


@dataclass(frozen=True, eq=False)
class DistillationLoss:
    """``alpha * soft loss + (1 - alpha) * hard loss`` with a temperature and an alpha per member.

    A row without a label (UNLABELLED) has the soft loss alone.
    Shape: ensemble_logits (n, classes), labels (n,), temperature (k,), alpha (k,).
    """

    ensemble_logits: Tensor
    labels: Tensor
    temperature: Tensor
    alpha: Tensor

    def __call__(self, logits: Tensor, rows: Tensor, weight: Tensor | None = None) -> Losses:
        """NaN stands in soft_loss of a mixed row and in hard_loss of an unlabelled one.

        Shape: logits (k, batch, classes), rows and weight (k, batch).
        """
        labels = self.labels[rows]
        labelled = labels != UNLABELLED
        shares = label_shares(labels, weight, like=logits)
        soft, soft_gradient = soft_loss(logits, self.ensemble_logits[rows], self.temperature)
        hard, hard_gradient = hard_loss(logits, shares)
        alpha = torch.where(labelled, self.alpha[:, None], 1.0)
        values = {
            "train_loss": torch.lerp(hard, soft, alpha),
            "soft_loss": soft if weight is None else soft.masked_fill(weight < 1, torch.nan),
            "hard_loss": hard.masked_fill(~labelled, torch.nan),
        }
        return Losses(values, torch.lerp(hard_gradient, soft_gradient, alpha[..., None]))

    def members(self, members: slice) -> DistillationLoss:
        """The loss of some members."""
        return replace(self, temperature=self.temperature[members], alpha=self.alpha[members])


Loss = LabelLoss | DistillationLoss
"""Gives one value per member and row, by name; training minimises the mean of ``train_loss``. NaN
in any other value means that it does not exist for that row; curves leave it out.
"""
