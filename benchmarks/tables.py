"""Measure the ensemble and its student on real tables, against what one would take instead.

    python benchmarks/tables.py --out FILE [--tables a,b] [--splits 3] [--rows N] [--models a,b]
                                [--recipe best,reference] [--students 5] [--plot FILE]
    python benchmarks/tables.py --out FILE --summary-only

Every model sees the same training and validation rows and is measured on the same test rows. A
line is appended to the file for each model as soon as it is measured; what stands there already is
not measured again, so a run that was stopped goes on. The summary is made of the file alone.

``--export FOLDER`` writes the rows of each table and split as Parquet files, for a tool that needs
an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from measured import Measured
from own_models import OWN, STEPS, ensemble_step, own_models, own_names
from rank_figure import critical_difference_figure
from real_tables import GROUPS, TABLES, partition
from rivals import RIVALS, rival
from standings import mean_ranks, pack, read, summary

from kd_mlflow.figures.style import png
from kd_mlflow.table.dataset import Dataset

ROOT = Path(__file__).parents[1]
SEED = 42
SMALLEST = np.finfo(np.float64).eps
"""The least probability that counts, as in scikit-learn's log loss."""

Line = dict[str, Any]


class MisuseError(Exception):
    """Options that do not fit the file or each other."""


def labelled(model: str, recipe: str) -> str:
    """What a model of ours is called in the results: the default recipe goes without saying."""
    return model if recipe == "best" else f"{model}, {recipe}"


def scored(measured: Measured, labels: np.ndarray) -> Line:
    """A model's figures on the test rows, means over its seeds, and each row's loss and hit."""
    rows = np.arange(len(labels))
    own = measured.probabilities[:, rows, labels]
    losses = -np.log(np.clip(own, SMALLEST, 1.0)).mean(axis=0)
    hits = (measured.probabilities.argmax(axis=2) == labels).mean(axis=0)
    return {
        "accuracy": float(hits.mean()),
        "log_loss": float(losses.mean()),
        "train_s": round(measured.train_s, 3),
        "latency_ms": round(measured.latency_ms, 4),
        "size_bytes": measured.size_bytes,
        "fitted_numbers": measured.fitted_numbers,
        "row_losses": pack(losses),
        "row_hits": pack(hits),
    }


Training = Callable[[Dataset, int], dict[str, Measured]]
"""Trains one model, or those that are trained together; by name."""


def trainings(options: argparse.Namespace, rows: int) -> Iterator[tuple[list[str], Training]]:
    """The names of models that are trained together on so many training rows, and how."""
    for recipe in options.recipe:
        wanted = [name for name in own_names(recipe, rows) if name in options.models]

        def ours(dataset: Dataset, seed: int, recipe: str = recipe) -> dict[str, Measured]:
            found = own_models(dataset, recipe=recipe, seed=seed, students=options.students)
            return {labelled(name, recipe): measured for name, measured in found.items()}

        yield [labelled(name, recipe) for name in wanted], ours
    for step in STEPS:
        if (name := f"ensemble:{step}") in options.models:
            yield (
                [name],
                lambda data, seed, name=name, step=step: {
                    name: ensemble_step(data, step, seed=seed)
                },
            )
    for name in RIVALS:
        if name in options.models:
            yield [name], lambda data, seed, name=name: {name: rival(name, data, seed=seed)}


def measure(options: argparse.Namespace, done: set[tuple[str, int, str]]) -> None:
    """Train and append whatever is not done yet; a unit is a table, a split and a model."""
    at = {**conditions(options), "commit": commit()}
    for name in options.tables:
        table = TABLES[name].load()
        for split in range(options.splits):
            dataset = partition(table, split, rows=options.rows)
            unit = {"table": name, "split": split, **_sizes(dataset), **at}
            for names, train in trainings(options, unit["train_rows"]):
                missing = [model for model in names if (name, split, model) not in done]
                found = train(dataset, SEED + split) if missing else {}
                for model in missing:
                    line = {**unit, "model": model, "day": today()}
                    append(options.out, line | scored(found[model], dataset.labels("test")))


def conditions(options: argparse.Namespace) -> Line:
    """What all lines of a file have in common; 0 rows: all there are."""
    return {"rows": options.rows, "students": options.students}


def _sizes(dataset: Dataset) -> Line:
    sides = {f"{side}_rows": len(dataset.labels(side)) for side in ("train", "val", "test")}
    return {**sides, "classes": len(dataset.table.classes)}


def append(path: Path, line: Line) -> None:
    """Write one line at the end of the results and say what it holds."""
    with path.open("ab", buffering=0) as file:  # in one piece: a run may be stopped at any time
        file.write(f"{json.dumps(line)}\n".encode())
    unit = f"{line['table']} {line['split']} {line['model']}"
    figures = f"log loss {line['log_loss']:.4f}, accuracy {100 * line['accuracy']:.2f} %"
    print(f"{unit}: {figures}, {line['train_s']:.1f} s", flush=True)


def commit() -> str:
    """The commit that is measured, with a mark where the package differs from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "kd_mlflow")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("-changed" if changed else "")


def today() -> str:
    """The date, in UTC."""
    return datetime.now(UTC).date().isoformat()


def export(options: argparse.Namespace) -> None:
    """Write each unit's rows: train.parquet, val.parquet, test.parquet, and unit.json."""
    for name in options.tables:
        table = TABLES[name].load()
        for split in range(options.splits):
            dataset = partition(table, split, rows=options.rows)
            folder = options.export / f"{name}-{split}"
            folder.mkdir(parents=True, exist_ok=True)
            for side in ("train", "val", "test"):
                labels = dataset.labels(side)
                frame = dataset.features(side).assign(**{table.target: labels})
                frame.to_parquet(folder / f"{side}.parquet", index=False)
            unit = {"table": name, "split": split, "target": table.target, **_sizes(dataset)}
            unit |= {**conditions(options), "commit": commit()}
            (folder / "unit.json").write_text(json.dumps(unit))


def names_from(
    known: Sequence[str], groups: Mapping[str, list[str]] = MappingProxyType({})
) -> Callable[[str], list[str]]:
    """A reader of names with commas, each of which must be known; or of groups of names."""

    def names(text: str) -> list[str]:
        found = [name for word in text.split(",") for name in groups.get(word, [word])]
        if unknown := set(found) - set(known):
            raise argparse.ArgumentTypeError(
                f"no {', '.join(sorted(unknown))}; there is {', '.join([*groups, *known])}"
            )
        return found

    return names


def parse() -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    models, recipes = [*OWN, *RIVALS], ["best", "reference"]
    steps = [f"ensemble:{step}" for step in STEPS]
    parser.add_argument("--out", type=Path, help="results, one JSON line per unit and model")
    tables = names_from(list(TABLES), GROUPS)
    parser.add_argument("--tables", type=tables, default=GROUPS["benchmark"])
    parser.add_argument("--models", type=names_from([*models, *steps]), default=models)
    parser.add_argument("--recipe", type=names_from(recipes), default=["best"])
    parser.add_argument("--splits", type=int, default=3, help="partitions of each table")
    parser.add_argument("--rows", type=int, default=0, help="training rows at most; 0 for all")
    parser.add_argument("--students", "--seeds", type=int, default=5, help="of each kind")
    parser.add_argument("--plot", type=Path, help="critical differences of ranks, as PNG")
    parser.add_argument("--summary-only", action="store_true", help="measure nothing")
    parser.add_argument("--export", type=Path, help="write the rows into this folder instead")
    options = parser.parse_args()
    if not options.out and not options.export:
        parser.error("--out is needed: the file that results are appended to")
    return options, parser


def finished(path: Path) -> pd.DataFrame | None:
    """The results so far; None where there are none."""
    return read(path) if path.exists() and path.stat().st_size else None


def units(lines: pd.DataFrame | None, options: argparse.Namespace) -> set[tuple[str, int, str]]:
    """What a file holds already.  Raises MisuseError where that was measured otherwise."""
    if lines is None:
        return set()
    for name, value in conditions(options).items():
        if not lines[name].eq(value).all():
            others = ", ".join(map(str, sorted(lines[name].unique())))
            raise MisuseError(
                f"{options.out} has --{name} {others}, not {value}: name another file in --out"
            )
    return set(lines[["table", "split", "model"]].itertuples(index=False, name=None))


def show(lines: pd.DataFrame, plot: Path | None) -> None:
    """Print the summary and write the picture.  Raises MisuseError where ranks do not exist."""
    print(summary(lines))
    if plot:
        known = lines.groupby("model")["table"].nunique()
        everywhere = known.index[known == lines["table"].nunique()]
        ranks, tables = mean_ranks(lines[lines["model"].isin(everywhere)], "log_loss")
        if len(ranks) < 2:
            raise MisuseError("--plot needs two models that all tables have")
        plot.write_bytes(png(critical_difference_figure(ranks, tables)))


def main() -> None:
    """Measure what is missing, then sum up the file."""
    options, parser = parse()
    if options.export:
        return export(options)
    start = time.monotonic()
    try:
        if not options.summary_only:
            measure(options, units(finished(options.out), options))
            print(f"\n{time.monotonic() - start:.0f} s\n")
        lines = finished(options.out)
        if lines is None:
            raise MisuseError(f"{options.out} holds no results")
        show(lines, options.plot)
    except MisuseError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
