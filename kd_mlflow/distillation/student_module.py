"""The student as one module: encoded columns in, logits out; its arrays are what is served."""

from __future__ import annotations

import hashlib
import json
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from kd_mlflow.table.encoding import Encoding, Scaler


class StudentModule(nn.Module):
    """A student with its scaler.  Shape: encoded columns (n, columns) -> logits (n, classes).

    ``network`` takes the inputs of ``encoding``. Where columns are piecewise linear, its first
    layer's weights on their bins become a ``Lookup``.
    """

    def __init__(self, encoding: Encoding, network: nn.Sequential) -> None:
        super().__init__()
        self.encoding = encoding
        self.network, self.lookup, self.scaler = network, None, Scaler(encoding)
        if bins := self.scaler.bin_number.numel():
            first = cast(nn.Linear, network[0])
            weight, width = first.weight.detach(), first.in_features - bins
            flat, binned = weight[:, :width], weight[:, width:]
            rest = nn.Linear(flat.shape[1], first.out_features)
            with torch.no_grad():
                rest.weight.copy_(flat)
                rest.bias.copy_(first.bias)
            self.lookup = Lookup(self.scaler, binned)
            self.scaler = self.scaler.without_bins()
            self.network = nn.Sequential(rest, *list(network)[1:])

    def content_digest(self) -> str:
        """SHA-256 of its numbers and encoding: equal where two score alike, bit for bit."""
        encoding = json.dumps(self.encoding.to_dict(), sort_keys=True)
        sha = hashlib.sha256(encoding.encode())
        for name, values in sorted(self.arrays.items()):
            sha.update(f"{name} {values.shape} {values.dtype}".encode())
            sha.update(values.tobytes())
        return sha.hexdigest()

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Weights and buffers by name, of which ``scoring.Network`` is made."""
        return {name: values.cpu().numpy() for name, values in self.state_dict().items()}

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.network
        h: Tensor = first(self.scaler(x))
        if self.lookup is not None:
            h = h + self.lookup(x)
        for layer in others:
            h = layer(h)
        return h


class Lookup(nn.Module):
    """What a linear layer makes of piecewise-linear columns, by one bin per column.

    Between two edges it is linear in the value, so it interpolates between its values at the edges:
    as much work for 64 bins as for 4. ``at_edges`` holds those, for each column's edges but its
    first, where it is 0.

    Shape: encoded columns (n, columns) -> (n, d_out).
    """

    numbers: Tensor
    median: Tensor
    edges: Tensor
    last: Tensor
    start: Tensor

    def __init__(self, scaler: Scaler, weight: Tensor) -> None:
        """Shape: weight (d_out, bins of all columns)."""
        super().__init__()
        counts = torch.bincount(scaler.bin_number, minlength=len(scaler.numbers))
        binned = counts.nonzero()[:, 0]
        parts = torch.split(weight.T, counts[binned].tolist())
        self.at_edges = nn.Parameter(torch.cat([part.cumsum(dim=0) for part in parts]))
        edges = [column.edges for column in scaler.encoding.columns if column.edges]
        padded = torch.full((len(edges), max(map(len, edges))), torch.inf)
        for row, own in zip(padded, edges, strict=True):
            row[: len(own)] = torch.tensor(own)
        self.register_buffer("numbers", scaler.numbers[binned])
        self.register_buffer("median", scaler.median[binned])
        self.register_buffer("edges", padded)
        self.register_buffer("last", counts[binned, None] - 1)
        self.register_buffer("start", (counts[binned].cumsum(dim=0) - counts[binned])[:, None])

    def forward(self, x: Tensor) -> Tensor:
        numbers = x.index_select(1, self.numbers)
        values = torch.where(torch.isnan(numbers), self.median, numbers).T.contiguous()
        place = torch.searchsorted(self.edges, values, right=True) - 1
        place = torch.minimum(place.clamp(min=0), self.last)
        low, high = self.edges.gather(1, place), self.edges.gather(1, place + 1)
        come = ((values - low) / (high - low)).clamp(0.0, 1.0)
        upper = self.start + place
        lower = (upper - 1).clamp(min=0)
        shares = torch.cat([come, (1 - come) * (place > 0)])
        rows = torch.cat([upper, lower])
        return embedding_bag(rows.T, self.at_edges, per_sample_weights=shares.T, mode="sum")
