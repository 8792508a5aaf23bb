"""Time populations against ordinary loops, in alternating pairs.

    python benchmarks/speed.py [--pairs 5] [--stages teachers,sweep]

The ordinary loop is what a tutorial does: one model after the other, DataLoader, batch 64, Adam,
torch's default number of threads. Both sides train on the reference data's training rows.

teachers: twelve teachers x 30 epochs, against twelve loops. sweep: a grid of 25 settings x 2 seeds,
fifty students x 50 epochs, against loops of three students.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kd_mlflow.config import StudentRecipe, TeachersConfig
from kd_mlflow.dataset import Dataset, read_dataset
from kd_mlflow.models import Population
from kd_mlflow.students import Member, student_task, transfer_set
from kd_mlflow.teachers import Ensemble
from kd_mlflow.teaching import teacher_task, teachers_encoding

BATCH, LEARNING_RATE, TEMPERATURE, ALPHA = 64, 1e-3, 3.0, 0.7
GRID = [(t, alpha) for t in (1.0, 2.0, 3.0, 5.0, 10.0) for alpha in (0.3, 0.5, 0.7, 0.9, 1.0)]
SEEDS = (1, 2)


def ordinary(sizes: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """One network as a tutorial writes it."""
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(sizes):
        layers += [nn.Linear(d_in, d_out), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])


def teachers_in_turn(x: Tensor, y: Tensor, models: int, epochs: int) -> None:
    """Train one teacher after the other on labels."""
    for seed in range(models):
        torch.manual_seed(seed)
        model = ordinary((x.shape[1], 256, 128, 64, 2), 0.3)
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)
        for _ in range(epochs):
            for rows, labels in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(rows), labels).backward()
                optimizer.step()


def students_in_turn(x: Tensor, y: Tensor, logits: Tensor, models: int, epochs: int) -> None:
    """Distil one student after the other."""
    for seed in range(models):
        torch.manual_seed(seed)
        model = ordinary((x.shape[1], 64, 32, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
        loader = DataLoader(TensorDataset(x, y, logits), batch_size=BATCH, shuffle=True)
        for _ in range(epochs):
            for rows, labels, teacher in loader:
                answer = model(rows)
                soft = nn.functional.kl_div(
                    torch.log_softmax(answer / TEMPERATURE, dim=1),
                    torch.softmax(teacher / TEMPERATURE, dim=1),
                    reduction="batchmean",
                )
                hard = nn.functional.cross_entropy(answer, labels)
                optimizer.zero_grad()
                (ALPHA * TEMPERATURE**2 * soft + (1 - ALPHA) * hard).backward()
                optimizer.step()


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


Pair = tuple[Callable[[], object], Callable[[], object]]


def stages(dataset: Dataset) -> dict[str, Pair]:
    """The ordinary side and ours of each stage."""
    config = TeachersConfig(recipe="reference").resolved(len(dataset.split.train))
    encoding = teachers_encoding(config, dataset)
    x = encoding.inputs(dataset.features("train"))
    y = torch.from_numpy(dataset.labels("train"))
    seeds = list(range(config.n_teachers))
    sizes = (x.shape[1], *config.teacher_hidden, 2)
    ensemble = Ensemble(encoding=encoding, population=Population.initialised(sizes, seeds=seeds))
    recipe = StudentRecipe(recipe="reference").resolved(len(x))
    lessons = transfer_set(recipe, dataset, ensemble)
    members = [Member(seed=s, temperature=t, alpha=alpha) for t, alpha in GRID for s in SEEDS]
    return {
        "teachers": (
            lambda: teachers_in_turn(x, y, config.n_teachers, config.teacher_epochs),
            lambda: teacher_task(config, encoding, dataset).fit(),
        ),
        "sweep": (
            lambda: students_in_turn(x, y, lessons.logits, 3, recipe.student_epochs),
            lambda: student_task(recipe, lessons, members, recipe.student_hidden).fit(),
        ),
    }


def main() -> None:
    """Print each pair, the medians and the ratio's spread, stage by stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--stages", default="teachers,sweep")
    options = parser.parse_args()
    known = stages(read_dataset(TeachersConfig()))
    for stage in options.stages.split(","):
        ordinary_side, ours = known[stage]
        print(f"{stage}\npair  ordinary s  population s  ratio")
        slow, fast = [], []
        for pair in range(1, options.pairs + 1):
            slow.append(seconds(ordinary_side))
            fast.append(seconds(ours))
            print(f"{pair:>4}  {slow[-1]:>10.1f}  {fast[-1]:>12.1f}  {slow[-1] / fast[-1]:>5.1f}")
        ratios = [a / b for a, b in zip(slow, fast, strict=True)]
        print(
            f"median {statistics.median(slow):.1f} s against {statistics.median(fast):.1f} s: "
            f"{statistics.median(ratios):.1f} times ({min(ratios):.1f} to {max(ratios):.1f})\n"
        )


if __name__ == "__main__":
    main()
