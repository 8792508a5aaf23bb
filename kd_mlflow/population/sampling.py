"""Which rows each member sees, in which order, how it mixes them, and which it is judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ORDER_STREAM, DROPOUT_STREAM, MIXUP_STREAM = 0, 1, 2
"""Spawn keys of a member's seed: what it draws for one purpose does not move another's numbers."""

BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))
"""Largest weight of a mixed row: 1 says that a row is not mixed."""


RowNumbers = NDArray[np.int32]

Document = dict[str, Any]
"""What JSON can say."""


def plain(state: Any) -> Any:
    """A random stream's state as JSON can say it; the stream takes it back as it is."""
    if isinstance(state, Mapping):
        return {name: plain(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state


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
        own = {name: getattr(self, name)[members] for name in ("pools", "mixup", "held_out")}
        return replace(self, **own)


class RowOrders:
    """The row numbers of one epoch after the other: shuffled pools, end to end.

    Shape of each: (epoch_rows,).

    >>> orders = RowOrders(seed=1, pool=np.array([4, 5, 6], dtype=np.int32), epoch_rows=2)
    >>> first, second, third = next(orders), next(orders), next(orders)
    >>> sorted([*first, second[0]]) == sorted([second[1], *third]) == [4, 5, 6]
    True
    """

    def __init__(self, seed: int, pool: RowNumbers, epoch_rows: int) -> None:
        sequence = np.random.SeedSequence(entropy=seed, spawn_key=(ORDER_STREAM,))
        self._bits, self._pool, self._epoch_rows = np.random.SFC64(sequence), pool, epoch_rows
        self._shuffle = np.random.Generator(self._bits)
        self._before_last: Document | None = None
        self._left = np.empty(0, dtype=np.int32)

    def __next__(self) -> RowNumbers:
        parts = [self._left]
        while sum(map(len, parts)) < self._epoch_rows:
            self._before_last = plain(self._bits.state)
            parts.append(self._shuffle.permutation(self._pool))
        drawn = np.concatenate(parts)
        self._left = drawn[self._epoch_rows :]
        return drawn[: self._epoch_rows]

    @property
    def state(self) -> Document:
        """What continues the orders: the stream before its last shuffle, how many rows are left."""
        return {"before_last": self._before_last, "left": len(self._left)}

    @state.setter
    def state(self, state: Document) -> None:
        if state["before_last"] is None:  # nothing was drawn
            return
        self._before_last = self._bits.state = state["before_last"]
        shuffled = self._shuffle.permutation(self._pool)
        self._left = shuffled[len(shuffled) - state["left"] :]


class Streams:
    """Random streams, one per member; what continues them is their state."""

    def __init__(self, bits: Sequence[np.random.BitGenerator]) -> None:
        self._bits = bits

    @property
    def state(self) -> list[Document]:
        """Each member's stream."""
        return [plain(bits.state) for bits in self._bits]

    @state.setter
    def state(self, state: Sequence[Document]) -> None:
        for bits, own in zip(self._bits, state, strict=True):
            bits.state = own


class MixupWeights(Streams):
    """Mixup's weight of each row against the row before in its batch."""

    def __init__(self, seeds: Sequence[int], sampling: Sampling) -> None:
        self._epoch_rows = sampling.epoch_rows
        streams = [np.random.SeedSequence(seed, spawn_key=(MIXUP_STREAM,)) for seed in seeds]
        self._members = list(zip(sampling.mixup, map(np.random.default_rng, streams), strict=True))
        super().__init__([rng.bit_generator for _, rng in self._members])

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
            RowOrders(seed, pool, sampling.epoch_rows)
            for seed, pool in zip(seeds, sampling.pools, strict=True)
        ]
        self._weights = MixupWeights(seeds, sampling)
        self.per_epoch = -(-sampling.epoch_rows // batch_size)
        self.state = self._streams()
        """Each member's streams as they were before the present epoch."""

    def restore(self, state: Sequence[Document]) -> None:
        """Go back to the streams of a ``state``, one per member."""
        for order, own in zip(self._orders, state, strict=True):
            order.state = own["order"]
        self._weights.state = [own["mixup"] for own in state]

    def _streams(self) -> list[Document]:
        both = zip(self._orders, self._weights.state, strict=True)
        return [{"order": order.state, "mixup": mixup} for order, mixup in both]

    def epoch(self, skipped: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Inputs, row numbers and mixup's weights, None where no member mixes.

        The first ``skipped`` batches are left out.
        Shape of each: (k, batch, d_in), (k, batch) and (k, batch).
        """
        self.state = self._streams()
        device = self._table.values.device
        order = torch.from_numpy(np.stack([next(rows) for rows in self._orders])).to(device)
        weight = self._weights.draw(device)
        for start in range(skipped * self._batch_size, self._rows, self._batch_size):
            batch = order[:, start : start + self._batch_size]
            x = self._table.take(batch)
            if weight is None:
                yield x, batch, None
                continue
            share = weight[:, start : start + self._batch_size]
            yield torch.lerp(x.roll(1, dims=1), x, share[..., None]), batch, share
