"""Listeners follow the work: what one must have, and one that ignores everything."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from kd_mlflow.population.history import OnEpoch, ignore_epoch


class Listener(Protocol):
    """Hears how the work goes on."""

    def say(self, text: str) -> None:
        """Take one line."""

    def training(self, label: str, members: int, epochs: int) -> AbstractContextManager[OnEpoch]:
        """Follow a training; the block gets a function that takes each epoch's metrics."""


class Silence:
    """The null listener."""

    def say(self, text: str) -> None:
        """Drop the line."""

    def training(self, label: str, members: int, epochs: int) -> AbstractContextManager[OnEpoch]:
        """Follow nothing."""
        return nullcontext(ignore_epoch)
