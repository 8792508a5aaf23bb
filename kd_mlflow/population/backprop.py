"""A population's forward and backward pass in place: no autograd, no allocation per step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from kd_mlflow.population.network import Population
from kd_mlflow.population.sampling import DROPOUT_STREAM, Streams

ALIGNMENT = 16
"""A member's matrices start at multiples of so many floats, which is 64 bytes.

Matrix products round by where their operands start in memory. On equal ground each member gets the
same bits, whichever members are trained beside it.
"""

DROPOUT_LEVELS = 256
"""Dropout masks come from random bytes, so a rate is rounded to a multiple of 1/256."""

Shapes = Sequence[tuple[int, int]]


class DropoutStreams(Streams):
    """Random bytes for dropout masks: what a member receives depends on its own seed alone.

    Bytes against a threshold cost a small part of what Bernoulli draws cost, which would
    otherwise be half of the training time.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        streams = [np.random.SeedSequence(seed, spawn_key=(DROPOUT_STREAM,)) for seed in seeds]
        super().__init__([np.random.SFC64(stream) for stream in streams])

    def draw(self, batch: int, width: int) -> Tensor:
        """Return uniform bytes.  Shape: (k, batch, width), uint8, on the host."""
        size = batch * width
        words = np.empty((len(self._bits), -(-size // 8)), dtype=np.uint64)
        for row, stream in zip(words, self._bits, strict=True):
            row[:] = stream.random_raw(row.size)
        drawn = torch.from_numpy(words.view(np.uint8))[:, :size]
        return drawn.reshape(len(self._bits), batch, width)


class Backprop:
    """Autograd's gradients of a population, without its overhead.

    The population's parameters move into one flat tensor, ``parameters``, weights of hidden layers
    last. Each backward pass overwrites its ``grad``, ``gradient``: an optimizer has one tensor to
    update. ReLU is followed by dropout at the population's rate, one stream of masks per seed.
    """

    def __init__(self, population: Population, *, seeds: Sequence[int]) -> None:
        self._layers, self._k, self._sizes = population.stack, population.k, population.sizes
        self.dropout = DropoutStreams(seeds)
        self._threshold = round(population.dropout * DROPOUT_LEVELS)
        scale = DROPOUT_LEVELS / (DROPOUT_LEVELS - self._threshold)
        # 1 / keep rate behind a dropout layer, applied as the next matrix product's ``alpha``
        self._scales = [1.0, *[scale] * len(self._layers)]
        self._buffers: dict[int, _Buffers] = {}
        own = list(population.parameters())
        shapes = [(p.shape[1], p.shape[2]) for p in own]
        hidden = set(range(0, len(own) - 2, 2))
        self._order = sorted(range(len(own)), key=hidden.__contains__)
        self._shapes = [shapes[i] for i in self._order]
        self._hidden = len(hidden)
        self.parameters = nn.Parameter(_storage(own[0], self._k, self._shapes))
        self.gradient = self.parameters.grad = torch.zeros_like(self.parameters)
        self._gradients = self.matrices(self.gradient)
        for p, place in zip(own, self.matrices(self.parameters.data), strict=True):
            p.data = place.copy_(p.data)

    def matrices(self, like: Tensor) -> list[Tensor]:
        """Views of a flat tensor that is laid out as ``parameters``, one per weight and bias.

        Shape of each: (k, rows, columns).
        """
        placed = dict(zip(self._order, _matrices(like, self._k, self._shapes), strict=True))
        return [placed[i] for i in range(len(placed))]

    def hidden_weights(self, like: Tensor) -> list[Tensor]:
        """The views that are of weights of hidden layers, first to last."""
        return _matrices(like, self._k, self._shapes)[-self._hidden :]

    @property
    def others(self) -> int:
        """Length of what stands before the weights of hidden layers: biases, the last weights."""
        return self._k * sum(map(_padded, self._shapes[: -self._hidden]))

    def forward(self, x: Tensor) -> Tensor:
        """Score a batch of each member's own rows; the logits live until the next call.

        Shape: (k, batch, d_in) -> (k, batch, classes).
        """
        now = self._buffers_of(x.shape[1])
        if self._threshold:
            drawn = self.dropout.draw(*now.keep.shape[1:]).to(x.device)
            torch.ge(drawn, self._threshold, out=now.keep)
        now.activations[0].copy_(x)
        for i, layer in enumerate(self._layers):
            h, y = now.activations[i : i + 2]
            torch.baddbmm(layer.bias, h, layer.weight, alpha=self._scales[i], out=y)
            if i < len(now.keeps):
                y.relu_()
                if self._threshold:
                    y.mul_(now.keeps[i])
        return now.activations[-1]

    def backward(self, gradient: Tensor, decay: float = 0.0) -> None:
        """Overwrite ``parameters.grad``, given the loss's gradient with respect to the logits.

        ``decay`` times the parameters are added, the gradient of an L2 penalty.
        Shape: (k, batch, classes), of the rows scored by the last ``forward`` of that batch size.
        """
        now = self._buffers_of(gradient.shape[1])
        upstream = now.deltas[-1].copy_(gradient)
        for i in reversed(range(len(self._layers))):
            h, (weight, bias) = now.activations[i], self._gradients[2 * i : 2 * i + 2]
            torch.baddbmm(weight, h.mT, upstream, beta=0, alpha=self._scales[i], out=weight)
            torch.sum(upstream, dim=1, keepdim=True, out=bias)
            if i:
                delta, own = now.deltas[i - 1], self._layers[i].weight.mT
                torch.baddbmm(delta, upstream, own, beta=0, alpha=self._scales[i], out=delta)
                # h is 0 wherever ReLU or dropout cut it: it is the only mask that is needed
                torch.ops.aten.threshold_backward.grad_input(delta, h, 0, grad_input=delta)
                upstream = delta
        if decay:
            self.gradient.add_(self.parameters.data, alpha=decay)

    def _buffers_of(self, batch: int) -> _Buffers:
        if batch not in self._buffers:
            self._buffers[batch] = _Buffers(self.parameters, self._k, batch, self._sizes)
        return self._buffers[batch]


class _Buffers:
    """What the passes over a batch of one size write: activations, their gradients, the masks."""

    def __init__(self, like: Tensor, k: int, batch: int, sizes: Sequence[int]) -> None:
        shapes = [(batch, width) for width in sizes]
        self.activations, self.deltas = (
            aligned_zeros(like, k, *shapes),
            aligned_zeros(like, k, *shapes[1:]),
        )
        hidden = list(sizes[1:-1])
        self.keep = like.new_empty(k, batch, sum(hidden))
        self.keeps = torch.split(self.keep, hidden, dim=2)


def aligned_zeros(like: Tensor, k: int, *shapes: tuple[int, int]) -> list[Tensor]:
    """Zeros for ``k`` matrices of each shape, where products of each member round alike."""
    return _matrices(_storage(like, k, shapes), k, shapes)


def _storage(like: Tensor, k: int, shapes: Shapes) -> Tensor:
    """Zeros for ``k`` matrices of each shape, with the padding that alignment needs."""
    return like.new_zeros(k * sum(map(_padded, shapes)))


def _matrices(storage: Tensor, k: int, shapes: Shapes) -> list[Tensor]:
    """Views of a storage.  Shape of each: (k, rows, columns)."""
    parts = torch.split(storage, [k * _padded(shape) for shape in shapes])
    return [
        torch.as_strided(part, (k, rows, columns), (len(part) // k, columns, 1))
        for part, (rows, columns) in zip(parts, shapes, strict=True)
    ]


def _padded(shape: tuple[int, int]) -> int:
    return -(-shape[0] * shape[1] // ALIGNMENT) * ALIGNMENT
