"""What is chosen by rows that no model was trained on: temperatures, and what a family counts.

Guo et al. (2017), "On Calibration of Modern Neural Networks", arXiv 1706.04599, section 4.2: one
temperature makes probabilities as sure as they are right. Caruana, Niculescu-Mizil, Crew & Ksikes
(2004), "Ensemble Selection from Libraries of Models", ICML, section 2: greedy selection with
replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy

from kd_mlflow.population.losses import average_probabilities

BOUNDS = (0.5, 2.0)
"""A few dozen validation rows without an error would ask for infinite certainty."""


def fit_temperatures(logits: Tensor, labels: Tensor) -> Tensor:
    """The temperature of least log loss of each member.

    Shape: logits (k, n, classes), labels (n,) -> (k,).
    """
    return torch.tensor([fit_temperature(member, labels) for member in logits])


def fit_temperature(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> float:
    """The temperature of least log loss, rows counting by weight.

    Shape: logits (n, classes), labels and weight (n,).
    """
    wide = logits.double()
    share = torch.ones(len(wide)) if weight is None else weight
    share = (share / share.sum()).to(wide)

    def log_loss(log_temperature: float) -> float:
        scaled = wide / float(np.exp(log_temperature))
        return float(share @ cross_entropy(scaled, labels, reduction="none"))

    found = minimize_scalar(log_loss, bounds=np.log(BOUNDS), method="bounded")
    return float(np.exp(found.x))


ROUNDS = 30
"""Selections; a family's share is a multiple of 1 / 30."""


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """What a family's members say of rows that they were not trained on.

    Shape: out_of_fold (n, classes), each row's by the one member that left it out, NaN where none
    did; val (k, m, classes).
    """

    out_of_fold: Tensor
    val: Tensor


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A family's share of the ensemble and the temperature of its logits, for each; one for all."""

    shares: tuple[float, ...]
    temperatures: tuple[float, ...]
    temperature: float


def select_mixture(families: Sequence[Unseen], labels: Tensor, val_labels: Tensor) -> Mixture:
    """Temper each family, select greedily by log loss, temper what was selected.

    A log loss that compares families as they are would drop the ones that are right but unsure.
    Shape: labels (n,), val_labels (m,).
    """
    known = torch.stack([~family.out_of_fold.isnan().any(dim=1) for family in families]).all(dim=0)
    truth = torch.cat([labels[known], val_labels])
    temperatures, answers = [], []
    for family in families:
        own = family.out_of_fold[known].double()
        k = len(family.val)
        temperature = fit_temperature(
            torch.cat([own, *family.val.double()]),
            torch.cat([labels[known], val_labels.repeat(k)]),
            torch.cat([torch.ones(len(own)), torch.full((k * len(val_labels),), 1 / k)]),
        )
        temperatures.append(temperature)
        together = average_probabilities(family.val.double() / temperature)
        answers.append(torch.cat([torch.log_softmax(own / temperature, dim=1), together]))
    shares = _select(torch.stack(answers).exp(), truth)
    mixed = torch.einsum("f,fnc->nc", shares, torch.stack(answers).exp()).log()
    return Mixture(
        shares=tuple(shares.tolist()),
        temperatures=tuple(temperatures),
        temperature=fit_temperature(mixed, truth),
    )


def _select(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Add, round by round, the family that makes the mean's log loss least.

    Shape: probabilities (families, n, classes), labels (n,) -> (families,), summing to 1.
    """
    own = probabilities[:, torch.arange(len(labels)), labels]
    counts = torch.zeros(len(own), dtype=own.dtype)
    for _ in range(ROUNDS):
        reached = counts @ own
        losses = -((reached + own) / (counts.sum() + 1)).log().mean(dim=1)
        counts[losses.argmin()] += 1
    return counts / counts.sum()
