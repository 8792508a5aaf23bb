"""From a gradient to a step: Adam, or Muon for the weights of hidden layers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kd_mlflow.population.backprop import Backprop, aligned_zeros

ADAM, MUON = "adam", "muon"

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's two means, as torch calls them; of a matrix that is Muon's the first is its momentum."""

MOMENTUM = 0.95
"""Muon's, as of Jordan and others (2024), https://kellerjordan.github.io/posts/muon."""

POLYNOMIALS = (
    (8.0934, -23.6205, 17.4462),
    (3.6366, -2.7219, 0.5365),
    (2.6613, -1.9772, 0.4526),
)
"""Of x, its third and its fifth power. One after the other they bring singular values of 0.01 to 1
within 0.27 of 1; each is the nearest to 1 on all that the one before makes of them, as in Amsel and
others (2025), arXiv 2505.16932. torch.optim.Muon applies one polynomial five times.
"""

ADAMS_STEP = 0.2
"""Root mean square of a weight's step, in learning rates, as of Adam: Liu and others (2025), arXiv
2502.16982.
"""

LEAST_NORM = 1e-7
"""A smaller gradient's step is smaller, too."""


def optimizer_of(name: str, passes: Backprop) -> Adam | Muon:
    """What steps along these passes' gradients; each member's steps depend on its own alone."""
    return Muon(passes) if name == MUON else Adam(passes.parameters)


class Adam:
    """Adam for all values of a flat parameter that has a gradient."""

    def __init__(self, flat: nn.Parameter) -> None:
        self._flat = flat
        self._adam = torch.optim.Adam([flat], fused=True)

    def step(self, rate: float) -> None:
        """Move the parameters, by the gradients as they stand and this learning rate."""
        self._adam.param_groups[0]["lr"] = rate
        self._adam.step()

    def moments(self) -> dict[str, Tensor]:
        """What it remembers, by MOMENTS; each is laid out as the parameters."""
        own = self._adam.state[self._flat]
        return {name: own.get(name, torch.zeros_like(self._flat.data)) for name in MOMENTS}

    def restore(self, moments: Mapping[str, Tensor], steps: int) -> None:
        """Go on as after so many steps."""
        step = torch.tensor(float(steps), device=self._flat.device)
        self._adam.state[self._flat] = {"step": step, **moments}


class Muon:
    """Muon for weights of hidden layers, Adam for the others and biases.

    A step is the momentum with all its singular values near 1: no direction is small since few rows
    ask for it.
    """

    def __init__(self, passes: Backprop) -> None:
        flat, self._end = passes.parameters.data, passes.others
        others = nn.Parameter(flat[: self._end])
        others.grad = passes.gradient[: self._end]
        self._adam, self._momentum = Adam(others), torch.zeros_like(flat)
        parts = map(passes.hidden_weights, (flat, passes.gradient, self._momentum))
        self._hidden = list(zip(*parts, strict=True))
        self._directions = [Orthogonal(weight) for weight, _, _ in self._hidden]

    def step(self, rate: float) -> None:
        """Move the parameters."""
        self._adam.step(rate)
        for (weight, gradient, momentum), direction in zip(
            self._hidden, self._directions, strict=True
        ):
            momentum.lerp_(gradient, 1 - MOMENTUM)
            torch.lerp(gradient, momentum, MOMENTUM, out=direction.matrix)  # a step ahead: Nesterov
            scale = ADAMS_STEP * math.sqrt(max(weight.shape[1:]))
            weight.sub_(direction.of_matrix(), alpha=rate * scale)

    def moments(self) -> dict[str, Tensor]:
        """Adam's means of its part, then the momentum and nothing."""
        inner = {name: torch.zeros_like(self._momentum) for name in MOMENTS}
        inner[MOMENTS[0]].copy_(self._momentum)
        for name, own in self._adam.moments().items():
            inner[name][: self._end] = own
        return inner

    def restore(self, moments: Mapping[str, Tensor], steps: int) -> None:
        """Go on as after so many steps."""
        self._momentum.copy_(moments[MOMENTS[0]])
        self._adam.restore({n: own[: self._end].clone() for n, own in moments.items()}, steps)


class Orthogonal:
    """Makes matrices nearly orthogonal: their singular values about 1, their directions as before.

    Each member's gets the same bits in any company.  Shape: (k, rows, columns).
    """

    def __init__(self, like: Tensor) -> None:
        k, rows, columns = like.shape
        self._tall, side = rows > columns, min(rows, columns)
        self.matrix, self._other = aligned_zeros(like, k, (rows, columns), (rows, columns))
        self._gram, self._change = aligned_zeros(like, k, (side, side), (side, side))

    def of_matrix(self) -> Tensor:
        """Read ``matrix``, which is overwritten; the result lives until the next call."""
        x, y, gram, change = self.matrix, self._other, self._gram, self._change
        for own in x:
            own.div_(torch.linalg.vector_norm(own).clamp_(min=LEAST_NORM))
        for a, b, c in POLYNOMIALS:
            torch.bmm(*((x.mT, x) if self._tall else (x, x.mT)), out=gram)
            torch.baddbmm(gram, gram, gram, beta=b, alpha=c, out=change)
            torch.baddbmm(x, *((x, change) if self._tall else (change, x)), beta=a, out=y)
            x, y = y, x
        return x
