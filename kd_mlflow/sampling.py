"""Which rows each member sees, in which order, and how it mixes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))
"""Largest weight of a mixed row: 1 says that a row is not mixed."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which training rows each member sees: one value a member in each field.

    ``pools``: it draws from so many of the first rows, each once before any comes again.
    ``mixup``: the Beta parameter by which it mixes each row with the one before in its batch,
    0 for none. ``epoch_rows``: rows in one epoch of every member.
    """

    pools: tuple[int, ...]
    mixup: tuple[float, ...]
    epoch_rows: int

    @classmethod
    def whole(cls, n: int, k: int, *, mixup: float = 0.0) -> Sampling:
        """All ``k`` members see all ``n`` rows once an epoch."""
        return cls(pools=(n,) * k, mixup=(mixup,) * k, epoch_rows=n)

    def members(self, rows: slice) -> Sampling:
        """The sampling of some members."""
        return Sampling(pools=self.pools[rows], mixup=self.mixup[rows], epoch_rows=self.epoch_rows)


def row_orders(seed: int, pool: int, epoch_rows: int) -> Iterator[NDArray[np.int64]]:
    """Row numbers of one epoch after the other: shuffled pools, end to end.

    Shape of each: (epoch_rows,).
    """
    bits = np.random.SFC64(np.random.SeedSequence(entropy=seed, spawn_key=(0,)))
    shuffle = np.random.Generator(bits)
    left = np.empty(0, dtype=np.int64)
    while True:
        parts = [left]
        while sum(map(len, parts)) < epoch_rows:
            parts.append(shuffle.permutation(pool))
        drawn = np.concatenate(parts)
        left = drawn[epoch_rows:]
        yield drawn[:epoch_rows]


class MixupWeights:
    """Mixup's weight of each row against the row before in its batch."""

    def __init__(self, seeds: Sequence[int], sampling: Sampling) -> None:
        self._epoch_rows = sampling.epoch_rows
        self._members = [
            (parameter, np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,))))
            for seed, parameter in zip(seeds, sampling.mixup, strict=True)
        ]

    def draw(self, device: torch.device) -> Tensor | None:
        """Weights of one epoch, Beta distributed, 1 for a member that does not mix.

        Shape: (k, epoch_rows); None where no member mixes.
        """
        if not any(parameter for parameter, _ in self._members):
            return None
        drawn = np.ones((len(self._members), self._epoch_rows), dtype=np.float32)
        for row, (parameter, rng) in zip(drawn, self._members, strict=True):
            if parameter:
                row[:] = rng.beta(parameter, parameter, size=self._epoch_rows)
                np.minimum(row, BELOW_ONE, out=row)
        return torch.from_numpy(drawn).to(device)
