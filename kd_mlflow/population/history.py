"""Curves of a training: what they are, who hears them as they come, which epoch was best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

History = dict[str, NDArray[np.float64]]
"""Curves by name.  Shape of each: (epochs, k)."""

HELD_OUT = "held_out_loss"
"""Curve of a member's mean loss on the rows that it holds out."""

OnEpoch = Callable[[slice, int, dict[str, NDArray[np.float64]]], None]
"""Receives which members, the epoch (from 1) and each curve's values, shape (members,)."""


def ignore_epoch(members: slice, epoch: int, values: dict[str, NDArray[np.float64]]) -> None:
    """The null listener."""


class Watch:
    """Passes each epoch on, and tells all chunks to stop once its block is left.

    So it does where the listener fails: every chunk keeps what it has reached before the listener's
    error is raised, as the block is left.
    """

    def __init__(self, on_epoch: OnEpoch) -> None:
        self._listener = on_epoch
        self._failure: BaseException | None = None
        self.over = False

    def on_epoch(self, members: slice, epoch: int, values: dict[str, NDArray[np.float64]]) -> None:
        """Pass an epoch on, unless the listener has failed."""
        if self._failure is None:
            try:
                self._listener(members, epoch, values)
            except BaseException as failure:  # raised again where all chunks have stopped
                self._failure, self.over = failure, True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.over = True
        if self._failure and (kind is None or issubclass(kind, Exception)):
            raise self._failure


def best_epochs(history: Mapping[str, Floats]) -> NDArray[np.int64]:
    """The epoch, from 1, whose weights each member keeps.  Shape: (k,)."""
    if HELD_OUT not in history:
        epochs, k = history["train_loss"].shape
        return np.full(k, epochs)
    return np.asarray(np.nanargmin(history[HELD_OUT], axis=0) + 1)


def side_by_side(parts: Sequence[History]) -> History:
    """The curves of all chunks, NaN where one ended before another."""
    epochs = max(len(part["train_loss"]) for part in parts)
    return {
        name: np.concatenate(
            [
                np.pad(p[name], ((0, epochs - len(p[name])), (0, 0)), constant_values=np.nan)
                for p in parts
            ],
            axis=1,
        )
        for name in parts[0]
    }


def replay(members: slice, history: History, on_epoch: OnEpoch) -> None:
    """Call ``on_epoch`` for each epoch of a chunk that another process trained, or began."""
    epochs = len(next(iter(history.values()), ()))
    for epoch in range(1, epochs + 1):
        on_epoch(members, epoch, {name: values[epoch - 1] for name, values in history.items()})
