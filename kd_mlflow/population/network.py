"""Populations: ``k`` multilayer perceptrons of one architecture, stacked on axis 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from kd_mlflow.population.sampling import Inputs

EVALUATION_ROWS, EVALUATION_MEMBERS = 4096, 8
"""At most 4,096 rows of 8 members are scored at once: bounds memory, changes no logit."""


class StackedLinear(nn.Module):
    """``k`` independent linear layers.

    Shape: (k, batch, d_in) -> (k, batch, d_out); weight (k, d_in, d_out), bias (k, 1, d_out).
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class Population(nn.Module):
    """``k`` multilayer perceptrons: linear layers with ReLU between them, dropout in training.

    Shape: (batch, d_in), shared by all members, or (k, batch, d_in) -> logits (k, batch, classes).

    >>> population = Population.initialised((20, 64, 32, 2), seeds=[1, 2, 3])
    >>> population(torch.zeros(5, 20)).shape
    torch.Size([3, 5, 2])
    >>> population.parameters_per_member
    3490
    """

    def __init__(self, layers: Sequence[StackedLinear], *, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.dropout = dropout

    @classmethod
    def initialised(
        cls, sizes: Sequence[int], *, seeds: Sequence[int], dropout: float = 0.0
    ) -> Population:
        """Draw each member as ``nn.Linear`` layers would be drawn after ``torch.manual_seed``."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        layers = []
        for d_in, d_out in pairwise(sizes):
            drawn = [_draw_linear(d_in, d_out, generator) for generator in generators]
            weight = torch.stack([weight.T for weight, _ in drawn]).contiguous()
            layers.append(StackedLinear(weight, torch.stack([bias for _, bias in drawn])[:, None]))
        return cls(layers, dropout=dropout)

    @property
    def stack(self) -> list[StackedLinear]:
        """The layers, first to last."""
        return [layer for layer in self.layers if isinstance(layer, StackedLinear)]

    @property
    def k(self) -> int:
        """Number of members."""
        return int(self.stack[0].weight.shape[0])

    @property
    def sizes(self) -> tuple[int, ...]:
        """Width of the input, of each hidden layer and of the logits."""
        return (self.stack[0].weight.shape[1], *(int(w.weight.shape[2]) for w in self.stack))

    @property
    def parameters_per_member(self) -> int:
        """Number of trained values of one member."""
        return sum(p.numel() for p in self.parameters()) // self.k

    def forward(self, x: Tensor) -> Tensor:
        h = x if x.dim() == 3 else x.expand(self.k, *x.shape)
        *hidden, last = self.stack
        for layer in hidden:
            h = torch.relu_(layer(h))
        logits: Tensor = last(h)
        return logits

    def logits(self, x: Tensor | Inputs) -> Tensor:
        """Score rows without gradient or dropout, some members and some rows at a time.

        Shape: (batch, d_in) -> (k, batch, classes).
        """
        like = self.stack[-1].bias  # one tensor for all: parts kept apart would pin freed memory
        logits = like.new_empty(self.k, len(x), self.sizes[-1], requires_grad=False)
        with torch.no_grad():
            for first in range(0, self.k, EVALUATION_MEMBERS):
                members = slice(first, first + EVALUATION_MEMBERS)
                some = self.members(members)
                for start in range(0, len(x), EVALUATION_ROWS):
                    rows = slice(start, start + EVALUATION_ROWS)
                    logits[members, rows] = some(x[rows])
        return logits

    def member(self, index: int) -> nn.Sequential:
        """Return a copy of one member as an ordinary module with the same weights and dropout."""
        modules: list[nn.Module] = []
        for layer in self.stack:
            d_in, d_out = layer.weight.shape[1:]
            linear = nn.Linear(d_in, d_out, device=layer.weight.device)
            with torch.no_grad():
                linear.weight.copy_(layer.weight[index].T)
                linear.bias.copy_(layer.bias[index, 0])
            modules += [linear, nn.ReLU(), nn.Dropout(self.dropout)]
        return nn.Sequential(*modules[:-2])

    def members(self, members: slice) -> Population:
        """Return copies of some members as a population of their own."""
        layers = [
            StackedLinear(w.weight.detach()[members].clone(), w.bias.detach()[members].clone())
            for w in self.stack
        ]
        return Population(layers, dropout=self.dropout)

    def copy_members_(self, members: slice, other: Population) -> None:
        """Overwrite some members' weights with those of ``other``."""
        with torch.no_grad():
            for mine, theirs in zip(self.parameters(), other.parameters(), strict=True):
                mine[members] = theirs

    def cool_(self, temperatures: Tensor) -> None:
        """Divide each member's logits by its own temperature, within its last layer.

        Shape: (k,).
        """
        last = self.stack[-1]
        with torch.no_grad():
            for values in (last.weight, last.bias):
                values.div_(temperatures.to(values)[:, None, None])


def _draw_linear(d_in: int, d_out: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw what ``nn.Linear(d_in, d_out)`` draws.  Shapes: (d_out, d_in) and (d_out,)."""
    weight = torch.empty(d_out, d_in)
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(d_in)
    return weight, torch.empty(d_out).uniform_(-bound, bound, generator=generator)
