"""What an epoch comes to: the means of its losses, and whose weights were best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_mlflow.population.history import HELD_OUT
from kd_mlflow.population.losses import Loss
from kd_mlflow.population.network import EVALUATION_ROWS, Population
from kd_mlflow.population.sampling import Inputs, Sampling

Arrays = dict[str, NDArray[Any]]

KEPT, SUM, COUNT, WAITING = "kept.", "sum.", "count.", "waiting."
"""Beginnings of the names of arrays in a snapshot; a number or the name of a loss follows."""

MOST_OF_A_ROW = 20.0
"""Nats of a row's loss that count, at most, when weights are judged: what networks say of one row
far from all others, a hundred nats and more, would say when training ends.
"""


class Judge:
    """Scores members on the rows that they hold out, keeps their best weights, ends them.

    Each has its own of ``losses``; a member ends after ``patience`` epochs without a better one.
    """

    def __init__(
        self,
        population: Population,
        losses: Sequence[Loss],
        table: Inputs,
        sampling: Sampling,
        *,
        patience: int,
    ) -> None:
        self._held_out, self._table, self._losses = sampling.held_out, table, losses
        self._patience = patience
        self._kept = population.members(slice(None)) if self._held_out else None
        self._least = np.full(population.k, np.inf)
        self._waited = np.zeros(population.k, dtype=np.int64)
        self.ended = np.zeros(population.k, dtype=np.bool_)

    def look(
        self, population: Population, curve: dict[str, NDArray[np.float64]]
    ) -> dict[str, NDArray[np.float64]]:
        """Judge an epoch; give its curves with ``held_out_loss``, NaN for who had ended before."""
        if self._kept is None:
            return curve
        found = np.full(population.k, np.nan)
        over = self.ended.copy()
        for i in np.flatnonzero(~over):
            found[i] = self._loss_of(population, int(i))
            better = found[i] < self._least[i]
            self._waited[i] = 0 if better else self._waited[i] + 1
            if better:
                self._least[i] = found[i]
                one = slice(int(i), int(i) + 1)
                self._kept.copy_members_(one, population.members(one))
        if self._patience:
            self.ended |= self._waited >= self._patience
        alive = {name: np.where(over, np.nan, values) for name, values in curve.items()}
        return {**alive, HELD_OUT: found}

    def best(self, population: Population) -> Population:
        """Each member with the weights of its best epoch."""
        return population.members(slice(None)) if self._kept is None else self._kept

    @property
    def state(self) -> Arrays:
        """All that its next answers depend on.  Axis 0 is the member."""
        if self._kept is None:
            return {}
        kept = numbered(KEPT, list(self._kept.parameters()))
        return {**kept, "least": self._least, "waited": self._waited, "ended": self.ended}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go back to a ``state``."""
        if self._kept is not None:
            fill(list(self._kept.parameters()), KEPT, state)
            self._least, self._waited = state["least"].copy(), state["waited"].copy()
            self.ended = state["ended"].copy()

    def _loss_of(self, population: Population, i: int) -> float:
        """Mean loss of one member on its rows, scored alone: the same bits whoever is beside it.

        A row counts ``MOST_OF_A_ROW`` at most.
        """
        member, loss, total = population.members(slice(i, i + 1)), self._losses[i], 0.0
        rows = torch.from_numpy(self._held_out[i])[None].to(self._table.values.device)
        for some in torch.split(rows, EVALUATION_ROWS, dim=1):
            losses = loss(member(self._table.take(some)), some, None).values["train_loss"]
            total += float(losses.double().clamp(max=MOST_OF_A_ROW).sum())
        return total / rows.shape[1]


class Means:
    """Means over an epoch's rows of every value that a loss gives, without those that are NaN."""

    AT_ONCE = 256

    def __init__(self) -> None:
        self._waiting: list[dict[str, Tensor]] = []
        self._batches = 0
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, losses: dict[str, Tensor]) -> None:
        """Take a batch's values.  Shape of each: (k, batch)."""
        self._waiting.append({name: value.detach() for name, value in losses.items()})
        self._batches += 1
        if self._batches % self.AT_ONCE == 0:
            self._reduce()

    def result(self) -> dict[str, Tensor]:
        """Mean values so far; NaN where there was none.  Shape of each: (k,)."""
        self._reduce()
        return {name: total / self._counts[name] for name, total in self._sums.items()}

    @property
    def state(self) -> Arrays:
        """Sums, counts and what waits to be added.  Axis 0 is the member."""
        names = self._waiting[0] if self._waiting else ()
        waiting = {n: torch.cat([one[n] for one in self._waiting], dim=1) for n in names}
        parts = {SUM: self._sums, COUNT: self._counts, WAITING: waiting}
        return {
            f"{part}{name}": value.cpu().numpy()
            for part, values in parts.items()
            for name, value in values.items()
        }

    def restore(self, state: Mapping[str, NDArray[Any]], *, batches: int) -> None:
        """Go back to a ``state`` after so many batches."""
        self._batches = batches
        self._sums, self._counts, waiting = (
            {
                name.removeprefix(part): torch.from_numpy(values.copy())
                for name, values in state.items()
                if name.startswith(part)
            }
            for part in (SUM, COUNT, WAITING)
        )
        self._waiting = [waiting] if waiting else []

    def _reduce(self) -> None:
        for name in self._waiting[0] if self._waiting else ():
            values = torch.cat([losses[name] for losses in self._waiting], dim=1)
            whole = name == "train_loss"  # exists for every row: NaN there means divergence
            known = torch.ones_like(values) if whole else (~values.isnan()).to(values.dtype)
            total = (values if whole else values.nan_to_num(0.0)).sum(dim=1)
            self._sums[name] = self._sums.get(name, 0) + total
            self._counts[name] = self._counts.get(name, 0) + known.sum(dim=1)
        self._waiting = []


def numbered(name: str, tensors: Sequence[Tensor]) -> Arrays:
    """Name tensors as arrays by one word and their numbers: weight0, weight1 ..."""
    return {f"{name}{i}": tensor.detach().cpu().numpy() for i, tensor in enumerate(tensors)}


def fill(tensors: Sequence[Tensor], name: str, state: Mapping[str, NDArray[Any]]) -> None:
    """Overwrite tensors with what ``numbered`` made of others like them."""
    with torch.no_grad():
        for i, tensor in enumerate(tensors):
            tensor.copy_(torch.from_numpy(state[f"{name}{i}"]))
