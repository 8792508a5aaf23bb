"""Time twelve teachers as one population against twelve ordinary loops, in alternating pairs.

    python benchmarks/speed.py [--pairs 5] [--epochs 30]

The ordinary loop is what a tutorial does: one model after the other, DataLoader, batch 64, Adam,
torch's default number of threads. Both train on the reference data's training rows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kd_mlflow.config import TeachersConfig
from kd_mlflow.dataset import read_dataset
from kd_mlflow.encoding import fit_encoding
from kd_mlflow.losses import LabelLoss
from kd_mlflow.metrics import agreements
from kd_mlflow.models import Population
from kd_mlflow.training import Rows, Schedule, fit

SIZES = (20, 256, 128, 64, 2)
TEACHERS = 12
DROPOUT = 0.3
BATCH = 64
LEARNING_RATE = 1e-3


def sequential(x: torch.Tensor, y: torch.Tensor, epochs: int) -> None:
    """Train one model after the other."""
    for seed in range(TEACHERS):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for d_in, d_out in pairwise(SIZES):
            layers += [nn.Linear(d_in, d_out), nn.ReLU(), nn.Dropout(DROPOUT)]
        model = nn.Sequential(*layers[:-2])
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)
        for _ in range(epochs):
            for rows, labels in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(rows), labels).backward()
                optimizer.step()


def population(x: torch.Tensor, y: torch.Tensor, epochs: int) -> None:
    """Train all models as one population, validation after each epoch included."""
    seeds = list(range(TEACHERS))
    fit(
        Population.initialised(SIZES, seeds=seeds, dropout=DROPOUT),
        Rows(train=x, val=x[:400]),
        LabelLoss(y),
        schedule=Schedule(epochs=epochs, batch_size=BATCH, learning_rate=LEARNING_RATE),
        seeds=seeds,
        evaluate=lambda logits: {"val_accuracy": agreements(logits, y[:400])},
    )


def seconds(work: Callable[..., None], *args: object) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work(*args)
    return time.perf_counter() - start


def main() -> None:
    """Print each pair, the medians and the ratio's spread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    dataset = read_dataset(TeachersConfig())
    features = dataset.features("train")
    encoding = fit_encoding(
        features, target="label", classes=dataset.table.classes, max_categories=64
    )
    x = encoding.inputs(features)
    y = torch.from_numpy(dataset.labels("train"))
    population(x, y, 1)
    print(f"{TEACHERS} teachers x {options.epochs} epochs, {len(x)} rows")
    print("pair  sequential s  population s  ratio")
    slow, fast = [], []
    for pair in range(1, options.pairs + 1):
        slow.append(seconds(sequential, x, y, options.epochs))
        fast.append(seconds(population, x, y, options.epochs))
        print(f"{pair:>4}  {slow[-1]:>12.1f}  {fast[-1]:>12.1f}  {slow[-1] / fast[-1]:>5.1f}")
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    print(
        f"median {statistics.median(slow):.1f} s against {statistics.median(fast):.1f} s: "
        f"{statistics.median(ratios):.1f} times faster ({min(ratios):.1f} to {max(ratios):.1f})"
    )


if __name__ == "__main__":
    main()
