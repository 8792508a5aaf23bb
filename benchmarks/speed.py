"""Time kd_mlflow against the ordinary way and against the bare matrix products.

    python benchmarks/speed.py [--pairs 5] [--stages teachers,students,targets,sweep,busy,run]

Every figure is a ratio of two times taken in turn within one run; printed are the medians over the
pairs and their spread. *In turn* is what a tutorial does: one model after the other, DataLoader,
batch 64, Adam, torch's default number of threads. *Products* are the matrix products of the same
training alone, forward and backward, at the same shapes and on the same threads. All train on the
reference data's training rows, by the recipe ``reference``.

teachers: twelve teachers x 30 epochs. students: five distilled and five baselines x 50 epochs,
against one of each in turn, by model. targets: twelve teachers score 40,000 rows. sweep: a grid of
25 settings x 2 seeds, fifty students, against three in turn. busy: twelve teachers while another
process keeps a core busy, against a quiet machine. run: ``mlflow run . -P recipe=reference`` with a
warm environment and an existing store, against twelve teachers and two students in turn that log
nothing; peak memory and the time spent in MLflow's client.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Thread

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.config.groups import StudentRecipe
from kd_mlflow.distillation.inputs import TeacherInputs
from kd_mlflow.distillation.networks import Networks, NetworkTraining
from kd_mlflow.distillation.students import (
    StudentSetting,
    TransferSet,
    student_groups,
    student_task,
    transfer_set,
)
from kd_mlflow.distillation.teachers import Ensemble, teacher_trainings
from kd_mlflow.population.losses import average_logits
from kd_mlflow.population.network import Population
from kd_mlflow.table.dataset import Dataset, read_dataset

ROOT = Path(__file__).parents[1]
BATCH, LEARNING_RATE, TEMPERATURE, ALPHA = 64, 1e-3, 3.0, 0.7
TEACHER, STUDENT = (256, 128, 64), (64, 32)
GRID = [(t, alpha) for t in (1.0, 2.0, 3.0, 5.0, 10.0) for alpha in (0.3, 0.5, 0.7, 0.9, 1.0)]
SEEDS = (1, 2)

Sides = dict[str, Callable[[], object]]
Ratio = tuple[str, str, str, float]
"""What it says, the slow side, the fast side, and what their ratio is multiplied by."""


def ordinary(sizes: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """One network as a tutorial writes it."""
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(sizes):
        layers += [nn.Linear(d_in, d_out), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])


def teachers_in_turn(x: Tensor, y: Tensor, models: int, epochs: int) -> list[nn.Module]:
    """Train one teacher after the other on labels."""
    trained: list[nn.Module] = []
    for seed in range(models):
        torch.manual_seed(seed)
        model = ordinary((x.shape[1], *TEACHER, 2), 0.3)
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)
        for _ in range(epochs):
            for rows, labels in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(rows), labels).backward()
                optimizer.step()
        trained.append(model.eval())
    return trained


def students_in_turn(
    x: Tensor, y: Tensor, logits: Tensor, alphas: Sequence[float], epochs: int
) -> None:
    """Train one student an alpha, one after the other."""
    for seed, alpha in enumerate(alphas):
        torch.manual_seed(seed)
        model = ordinary((x.shape[1], *STUDENT, 2))
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
                (alpha * TEMPERATURE**2 * soft + (1 - alpha) * hard).backward()
                optimizer.step()


def targets_in_turn(models: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Let one teacher after the other score all rows; average their logits."""
    loader = DataLoader(TensorDataset(x), batch_size=BATCH)
    with torch.no_grad():
        return torch.stack([torch.cat([m(rows) for (rows,) in loader]) for m in models]).mean(0)


def pipeline_in_turn() -> None:
    """Twelve teachers, their soft targets, a distilled student, a baseline; nothing is logged."""
    dataset, config = reference()
    x = network_training(dataset, config).task.rows.train.values
    y = torch.from_numpy(dataset.labels("train"))
    logits = targets_in_turn(teachers_in_turn(x, y, 12, 30), x)
    students_in_turn(x, y, logits, (ALPHA, 0.0), 50)


def products(k: int, steps: int) -> None:
    """Only the matrix products of a training: two threads with half of the members each."""

    def half() -> None:
        torch.set_num_threads(1)
        members, sizes = k // 2, (20, *TEACHER, 2)
        shapes = list(pairwise(sizes))
        weights = [torch.randn(members, a, b) for a, b in shapes]
        biases = [torch.randn(members, 1, b) for _, b in shapes]
        inputs = [torch.randn(members, BATCH, a) for a, _ in shapes]
        outputs = [torch.randn(members, BATCH, b) for _, b in shapes]
        gradients = [torch.empty_like(weight) for weight in weights]
        deltas = [torch.empty_like(values) for values in inputs]
        for _ in range(steps):
            for h, weight, bias, out in zip(inputs, weights, biases, outputs, strict=True):
                torch.baddbmm(bias, h, weight, out=out)
            for i in reversed(range(len(shapes))):
                torch.bmm(inputs[i].mT, outputs[i], out=gradients[i])
                if i:
                    torch.bmm(outputs[i], weights[i].mT, out=deltas[i])

    threads = [Thread(target=half) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def material() -> tuple[Tensor, Tensor, TransferSet, Population]:
    """Training rows, labels, what students learn from, and untrained teachers."""
    dataset, config = reference()
    training = network_training(dataset, config)
    family = Networks(encoding=training.encoding, population=training.task.population)
    ensemble = Ensemble(encoding=training.encoding, families=(family,))
    lessons = transfer_set(recipe(), dataset, ensemble)
    x, y = training.task.rows.train.values, torch.from_numpy(dataset.labels("train"))
    return x, y, lessons, family.population


def reference() -> tuple[Dataset, TeachersConfig]:
    """The reference data and its teachers."""
    dataset = read_dataset(TeachersConfig())
    return dataset, TeachersConfig(recipe="reference").resolved(len(dataset.split.train))


def recipe() -> StudentRecipe:
    """The reference data's students."""
    return StudentRecipe(recipe="reference").resolved(3600)


def train_teachers() -> None:
    """Train twelve teachers as one population."""
    dataset, config = reference()
    network_training(dataset, config).task.fit()


def network_training(dataset: Dataset, config: TeachersConfig) -> NetworkTraining:
    """The training of the reference ensemble: one population."""
    (training,) = teacher_trainings(TeacherInputs(config=config, dataset=dataset))
    assert isinstance(training, NetworkTraining)
    return training


def teachers_stage() -> tuple[Sides, list[Ratio]]:
    """Twelve teachers, against loops and against the products."""
    x, y, _, _ = material()
    steps = 30 * -(-len(x) // BATCH)
    sides: Sides = {
        "in turn": partial(teachers_in_turn, x, y, 12, 30),
        "population": train_teachers,
        "products": partial(products, 12, steps),
    }
    return sides, [
        ("times faster than in turn", "in turn", "population", 1.0),
        ("times the bare products", "population", "products", 1.0),
    ]


def students_stage() -> tuple[Sides, list[Ratio]]:
    """Ten students, by model."""
    x, y, lessons, _ = material()
    members = [m for group in student_groups(recipe(), range(5)).values() for m in group]
    sides: Sides = {
        "two in turn": partial(students_in_turn, x, y, lessons.logits, (ALPHA, 0.0), 50),
        "population": lambda: student_task(recipe(), lessons, members, STUDENT).fit(),
    }
    return sides, [("times faster a model", "two in turn", "population", len(members) / 2)]


def targets_stage() -> tuple[Sides, list[Ratio]]:
    """Soft targets of 40,000 rows."""
    x, _, _, teachers = material()
    rows = x.repeat(-(-40_000 // len(x)), 1)[:40_000]
    models = [teachers.member(i).eval() for i in range(12)]
    sides: Sides = {
        "in turn": partial(targets_in_turn, models, rows),
        "population": lambda: average_logits(teachers.logits(rows)),
    }
    return sides, [("times faster than in turn", "in turn", "population", 1.0)]


def sweep_stage() -> tuple[Sides, list[Ratio]]:
    """Fifty students."""
    x, y, lessons, _ = material()
    members = [
        StudentSetting(seed=s, temperature=t, alpha=alpha) for t, alpha in GRID for s in SEEDS
    ]
    sides: Sides = {
        "three in turn": partial(students_in_turn, x, y, lessons.logits, [ALPHA] * 3, 50),
        "fifty": lambda: student_task(recipe(), lessons, members, STUDENT).fit(),
    }
    return sides, [("times faster than three in turn", "three in turn", "fifty", 1.0)]


def busy_stage() -> tuple[Sides, list[Ratio]]:
    """Twelve teachers beside a busy process."""

    def busy() -> None:
        with competitor():
            train_teachers()

    sides: Sides = {"busy": busy, "quiet": train_teachers}
    return sides, [("times the quiet time", "busy", "quiet", 1.0)]


def run_stage() -> tuple[Sides, list[Ratio]]:
    """The whole line, as a user starts it."""
    folder = Path(tempfile.mkdtemp())
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**inherited, "MLFLOW_TRACKING_URI": uri, "PATH": path}
    project = ["mlflow", "run", str(ROOT), "--env-manager", "local"]
    options = ["--experiment-name", "speed", "-P", "recipe=reference", "-P", "force=true"]
    quietly = {"cwd": folder, "env": environment, "check": True, "capture_output": True}
    ours = partial(subprocess.run, [sys.executable, "-m", *project, *options], **quietly)
    in_turn = [sys.executable, str(Path(__file__).resolve()), "--in-turn"]
    ours()
    print(f"peak memory {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20:.2f} GiB")
    client = [sys.executable, str(Path(__file__).resolve()), "--client"]
    print(subprocess.run(client, **{**quietly, "text": True}).stdout.splitlines()[-1])
    sides: Sides = {"in turn": partial(subprocess.run, in_turn, **quietly), "mlflow run": ours}
    return sides, [("of the time in turn", "mlflow run", "in turn", 1.0)]


STAGES = {
    "teachers": teachers_stage,
    "students": students_stage,
    "targets": targets_stage,
    "sweep": sweep_stage,
    "busy": busy_stage,
    "run": run_stage,
}


@contextmanager
def competitor() -> Iterator[None]:
    """A process that keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def time_in_client() -> None:
    """Run ``main`` here and print how long it was inside MLflow's client, thread by thread."""
    from threading import current_thread

    from mlflow import MlflowClient

    from kd_mlflow.config.entry_points import MainConfig
    from kd_mlflow.pipeline import run_main

    spent: dict[str, float] = {}
    inside: set[str] = set()

    def timed(method: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            name = current_thread().name
            if name in inside:
                return method(*args, **kwargs)
            inside.add(name)
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                inside.discard(name)
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

        return call

    for name, method in list(vars(MlflowClient).items()):
        if callable(method) and not name.startswith("_"):
            setattr(MlflowClient, name, timed(method))
    whole = seconds(lambda: run_main(MainConfig(recipe="reference", force=True)))
    main = spent.pop("MainThread")
    print(
        f"in MLflow's client: {main:.1f} s of {whole:.1f} s of main ({main / whole:.0%}), "
        f"and {sum(spent.values()):.1f} s beside training, in a thread"
    )


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(stage: str, pairs: int) -> None:
    """Time the sides of a stage in turn; print each time, then the ratios' medians and spreads."""
    print(stage, flush=True)
    sides, ratios = STAGES[stage]()
    print("  ".join(["pair", *(f"{side:>12}" for side in sides)]), flush=True)
    times: dict[str, list[float]] = {side: [] for side in sides}
    for pair in range(1, pairs + 1):
        for side, work in sides.items():
            times[side].append(seconds(work))
        print("  ".join([f"{pair:>4}", *(f"{times[s][-1]:>10.2f} s" for s in sides)]), flush=True)
    for text, slow, fast, scale in ratios:
        each = [scale * a / b for a, b in zip(times[slow], times[fast], strict=True)]
        print(f"{statistics.median(each):.2f} {text} ({min(each):.2f} to {max(each):.2f})")
    medians = (f"{side} {statistics.median(values):.2f} s" for side, values in times.items())
    print(f"medians: {', '.join(medians)}\n", flush=True)


def main() -> None:
    """Measure the stages that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--in-turn", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_turn:
        pipeline_in_turn()
    elif options.client:
        time_in_client()
    else:
        for stage in options.stages.split(","):
            measure(stage, options.pairs)


if __name__ == "__main__":
    main()
