"""Which rows each member sees, in which order, and how it mixes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ORDER_STREAM, DROPOUT_STREAM, MIXUP_STREAM = 0, 1, 2
"""Spawn keys of a member's seed: what it draws for one purpose does not move another's numbers."""

BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))
"""Largest weight of a mixed row: 1 says that a row is not mixed."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which training rows each member sees, one value per member in each field.

    Member i samples the first ``pools[i]`` rows without replacement; when all have come it starts
    anew. It mixes each row with the one before in its batch by Beta(``mixup[i]``), 0 for not at
    all. Every member's epoch has ``epoch_rows`` rows.

    >>> Sampling.whole(100, k=2).pools
    (100, 100)
    """

    pools: tuple[int, ...]
    mixup: tuple[float, ...]
    epoch_rows: int

    @classmethod
    def whole(cls, n: int, k: int, *, mixup: float = 0.0) -> Sampling:
        """All ``k`` members see all ``n`` rows once per epoch."""
        return cls(pools=(n,) * k, mixup=(mixup,) * k, epoch_rows=n)

    def members(self, members: slice) -> Sampling:
        """The sampling of some members."""
        return Sampling(
            pools=self.pools[members], mixup=self.mixup[members], epoch_rows=self.epoch_rows
        )


def row_orders(seed: int, pool: int, epoch_rows: int) -> Iterator[NDArray[np.int32]]:
    """Yield the row numbers of one epoch after the other: shuffled pools, end to end.

    Shape of each: (epoch_rows,).

    >>> orders = row_orders(seed=1, pool=3, epoch_rows=2)
    >>> first, second, third = next(orders), next(orders), next(orders)
    >>> sorted([*first, second[0]]) == sorted([second[1], *third]) == [0, 1, 2]
    True
    """
    bits = np.random.SFC64(np.random.SeedSequence(entropy=seed, spawn_key=(ORDER_STREAM,)))
    shuffle = np.random.Generator(bits)
    left = np.empty(0, dtype=np.int32)
    while True:
        parts = [left]
        while sum(map(len, parts)) < epoch_rows:
            parts.append(shuffle.permutation(np.arange(pool, dtype=np.int32)))
        drawn = np.concatenate(parts)
        left = drawn[epoch_rows:]
        yield drawn[:epoch_rows]


class MixupWeights:
    """Mixup's weight of each row against the row before in its batch."""

    def __init__(self, seeds: Sequence[int], sampling: Sampling) -> None:
        self._epoch_rows = sampling.epoch_rows
        self._members = [
            (
                parameter,
                np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(MIXUP_STREAM,))),
            )
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


class Batches:
    """Each member's own batches of rows, mixed where its sampling says so."""

    def __init__(
        self, table: Tensor, sampling: Sampling, *, seeds: Sequence[int], batch_size: int
    ) -> None:
        self._table, self._rows, self._batch_size = table, sampling.epoch_rows, batch_size
        self._orders = [
            row_orders(seed, pool, sampling.epoch_rows)
            for seed, pool in zip(seeds, sampling.pools, strict=True)
        ]
        self._weights = MixupWeights(seeds, sampling)
        self.per_epoch = -(-sampling.epoch_rows // batch_size)

    def epoch(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Inputs, row numbers and mixup's weights, None where no member mixes.

        Shape of each: (k, batch, d_in), (k, batch) and (k, batch).
        """
        device = self._table.device
        order = torch.from_numpy(np.stack([next(rows) for rows in self._orders])).to(device)
        weight = self._weights.draw(device)
        for start in range(0, self._rows, self._batch_size):
            batch = order[:, start : start + self._batch_size]
            x = self._table.index_select(0, batch.reshape(-1)).view(*batch.shape, -1)
            if weight is None:
                yield x, batch, None
                continue
            share = weight[:, start : start + self._batch_size]
            yield torch.lerp(x.roll(1, dims=1), x, share[..., None]), batch, share
