"""One temperature that makes probabilities as sure as they are right.

Guo et al. (2017), "On Calibration of Modern Neural Networks", arXiv 1706.04599, section 4.2.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy

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
