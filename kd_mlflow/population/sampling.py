"""Which rows each member sees, in which order, how it mixes them, and which it is judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ORDER_STREAM, DROPOUT_STREAM, MIXUP_STREAM = 0, 1, 2
"""Spawn keys of a member's seed: what it draws for one purpose does not move another's numbers."""

BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))
"""Largest weight of a mixed row: 1 says that a row is not mixed."""


RowNumbers = NDArray[np.int32]


@dataclass(frozen=True)
class Inputs:
    """A table's rows as networks take them: as they lie, or encoded from what lies when asked for.

    Shape: values (n, d_in), or with ``encode`` (n, columns) of which it makes (n, d_in).
    """

    values: Tensor
    encode: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> Tensor:
        return self._encoded(self.values[rows])

    def take(self, rows: Tensor) -> Tensor:
        """Rows by their numbers.  Shape: (k, batch) -> (k, batch, d_in)."""
        taken = self._encoded(self.values.index_select(0, rows.reshape(-1)))
        return taken.view(*rows.shape, -1)

    def _encoded(self, values: Tensor) -> Tensor:
        return self.encode(values) if self.encode else values


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampling:
    """Which training rows each member sees, one value per member in each field.

    Member i samples the rows ``pools[i]`` without replacement; when all have come it starts anew.
    It mixes each row with the one before in its batch by Beta(``mixup[i]``), 0 for not at all.
    Every member's epoch has ``epoch_rows`` rows. By its loss on the rows ``held_out[i]``, none of
    its pool, a member's best epoch is known; without any, its last epoch is its best.

    >>> Sampling.whole(3, k=2).pools
    (array([0, 1, 2], dtype=int32), array([0, 1, 2], dtype=int32))
    """

    pools: tuple[RowNumbers, ...]
    mixup: tuple[float, ...]
    epoch_rows: int
    held_out: tuple[RowNumbers, ...] = ()

    @classmethod
    def whole(cls, n: int, k: int, *, mixup: float = 0.0) -> Sampling:
        """All ``k`` members see all ``n`` rows once per epoch."""
        rows = np.arange(n, dtype=np.int32)
        return cls(pools=(rows,) * k, mixup=(mixup,) * k, epoch_rows=n)

    @classmethod
    def leaving_out(cls, n: int, held_out: Sequence[RowNumbers], *, mixup: float = 0.0) -> Sampling:
        """Each member sees those of ``n`` rows that it does not hold out, and is judged by these.

        >>> sampling = Sampling.leaving_out(3, [np.array([1], dtype=np.int32)])
        >>> sampling.pools, sampling.epoch_rows
        ((array([0, 2], dtype=int32),), 2)
        """
        rows = np.arange(n, dtype=np.int32)
        pools = tuple(np.setdiff1d(rows, own) for own in held_out)
        return cls(
            pools=pools,
            mixup=(mixup,) * len(pools),
            epoch_rows=max(map(len, pools)),
            held_out=tuple(held_out),
        )

    def members(self, members: slice) -> Sampling:
        """The sampling of some members."""
        return Sampling(
            pools=self.pools[members],
            mixup=self.mixup[members],
            epoch_rows=self.epoch_rows,
            held_out=self.held_out[members],
        )


def row_orders(seed: int, pool: RowNumbers, epoch_rows: int) -> Iterator[RowNumbers]:
    """Yield the row numbers of one epoch after the other: shuffled pools, end to end.

    Shape of each: (epoch_rows,).

    >>> orders = row_orders(seed=1, pool=np.array([4, 5, 6], dtype=np.int32), epoch_rows=2)
    >>> first, second, third = next(orders), next(orders), next(orders)
    >>> sorted([*first, second[0]]) == sorted([second[1], *third]) == [4, 5, 6]
    True
    """
    bits = np.random.SFC64(np.random.SeedSequence(entropy=seed, spawn_key=(ORDER_STREAM,)))
    shuffle = np.random.Generator(bits)
    left = np.empty(0, dtype=np.int32)
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
        self, table: Inputs, sampling: Sampling, *, seeds: Sequence[int], batch_size: int
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
        device = self._table.values.device
        order = torch.from_numpy(np.stack([next(rows) for rows in self._orders])).to(device)
        weight = self._weights.draw(device)
        for start in range(0, self._rows, self._batch_size):
            batch = order[:, start : start + self._batch_size]
            x = self._table.take(batch)
            if weight is None:
                yield x, batch, None
                continue
            share = weight[:, start : start + self._batch_size]
            yield torch.lerp(x.roll(1, dims=1), x, share[..., None]), batch, share
