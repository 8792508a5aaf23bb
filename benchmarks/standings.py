"""What benchmarks/tables.py found, summed up: differences, wins beyond noise, ranks, costs.

Lines of a results file in, text out; nothing is trained here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata, studentized_range

from kd_mlflow.evaluation.intervals import standard_error

LARGE = 8_000
"""Tables of so many training rows are summed up apart from smaller ones."""

NOISE = 2.0
"""A difference of more standard errors than this, over test rows, is beyond noise."""

COMPARED, PLAIN = ("LightGBM", "CatBoost", "ensemble"), "baseline"
"""What every model is compared with, where they were measured."""

Floats = NDArray[np.float64]


def pack(values: Floats) -> str:
    """Write numbers of rows as text, to three digits.  Shape: (n,).

    >>> unpack(pack(np.array([0.5, 2.0])))
    array([0.5, 2. ])
    """
    return base64.b64encode(values.astype("<f2").tobytes()).decode()


def unpack(text: str) -> Floats:
    """Read what ``pack`` wrote.  Shape: (n,)."""
    return np.frombuffer(base64.b64decode(text), "<f2").astype(np.float64)


def read(path: Path) -> pd.DataFrame:
    """One line per table, split and model; ``row_losses`` and ``row_hits`` are arrays (n,)."""
    lines = pd.DataFrame([json.loads(line) for line in path.read_text().splitlines()])
    for name in ("row_losses", "row_hits"):
        lines[name] = lines[name].map(unpack)
    return lines


def models_of(lines: pd.DataFrame) -> list[str]:
    """The models in the order in which they were measured first."""
    return list(dict.fromkeys(lines["model"]))


def differences(lines: pd.DataFrame, model: str, other: str) -> pd.DataFrame:
    """What a model has over another, by table: means over the splits that both have.

    ``log_loss`` in nats, ``accuracy`` in points; their ``_z`` are paired over the test rows of all
    those splits, in standard errors.
    """
    sides = [lines[lines["model"] == name] for name in (model, other)]
    both = sides[0].merge(sides[1], on=["table", "split"], suffixes=("", "_other"))
    found = {}
    for table, splits in both.groupby("table", sort=False):
        losses, hits = (_by_row(splits, name) for name in ("row_losses", "row_hits"))
        found[table] = {
            "log_loss": (splits["log_loss"] - splits["log_loss_other"]).mean(),
            "accuracy": 100 * (splits["accuracy"] - splits["accuracy_other"]).mean(),
            "log_loss_z": z_score(losses),
            "accuracy_z": z_score(hits),
        }
    return pd.DataFrame.from_dict(found, orient="index")


def _by_row(splits: pd.DataFrame, name: str) -> Floats:
    """Differences on the test rows of all splits, one after the other."""
    pairs = zip(splits[name], splits[f"{name}_other"], strict=True)
    return np.concatenate([mine - other for mine, other in pairs])


def z_score(values: Floats) -> float:
    """A mean in standard errors; 0 where every value is 0.

    >>> round(z_score(np.array([1.0, 2.0, 3.0])), 2)
    3.46
    """
    mean, error = float(values.mean()), standard_error(values)
    if mean == 0:
        return 0.0
    return mean / error if error else float(np.copysign(np.inf, mean))


def beyond_noise(z: pd.Series, *, more_is_better: bool) -> tuple[int, int]:
    """On how many tables a model is better, and on how many worse, beyond noise."""
    signed = z if more_is_better else -z
    return int((signed > NOISE).sum()), int((signed < -NOISE).sum())


def mean_ranks(lines: pd.DataFrame, metric: str) -> tuple[dict[str, float], int]:
    """Mean rank of each model, 1 the best, and over how many tables: those that all have.

    Models with the same value share the mean of their ranks.
    """
    values = lines.pivot_table(index="table", columns="model", values=metric)[models_of(lines)]
    values = values.dropna()
    signed = -values if metric == "accuracy" else values
    ranks = rankdata(signed.to_numpy(), axis=1) if len(values) else signed.to_numpy()
    means = ranks.mean(axis=0) if len(values) else np.full(len(values.columns), np.nan)
    return dict(zip(values.columns, map(float, means), strict=True)), len(values)


def critical_difference(models: int, tables: int) -> float:
    """Least difference of two mean ranks that is no chance at 5 %, over all pairs of models.

    Nemenyi's test: Demsar (2006), J. Mach. Learn. Res. 7, section 3.2.2.

    >>> round(critical_difference(4, 14), 2)  # his example
    1.25
    """
    q = float(studentized_range.ppf(0.95, models, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(models * (models + 1) / (6 * tables)))


def cliques(ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """First and last of each longest run of ascending ranks that lie within a difference.

    >>> cliques([1.0, 1.5, 2.2, 4.0], 1.0)
    [(0, 1), (1, 2)]
    """
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(i for i, other in enumerate(ranks) if other - rank < difference)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def summary(lines: pd.DataFrame) -> str:
    """All that a results file says, as Markdown."""
    parts = [_conditions(lines)]
    for name, some in by_size(lines).items():
        tables = some["table"].nunique()
        others = [other for other in (*COMPARED, plain_of(some)) if other in set(some["model"])]
        parts += [f"## {name}: {tables}", *(against(some, other) for other in others)]
        parts += [standings(some), by_table(some)]
    return "\n\n".join([*parts, "## Costs, medians over tables", costs(lines)])


def plain_of(lines: pd.DataFrame) -> str:
    """The plain baseline of whichever recipe was measured first."""
    names = [model for model in models_of(lines) if model.partition(",")[0] == PLAIN]
    return names[0] if names else ""


def by_size(lines: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Lines of small and of large tables, without a part that is empty."""
    large = lines["train_rows"] >= LARGE
    parts = {
        f"Tables below {LARGE:,} training rows": lines[~large],
        f"Tables of {LARGE:,} training rows or more": lines[large],
    }
    return {name: some for name, some in parts.items() if len(some)}


def _conditions(lines: pd.DataFrame) -> str:
    commits, days = (sorted(lines[name].unique()) for name in ("commit", "day"))
    rows, students = lines["rows"].iloc[0], lines["students"].iloc[0]
    limit = f"at most {rows:,} training rows" if rows else "all training rows"
    return (
        f"{limit}; splits: {lines['split'].nunique()}; students of each kind: {students}; "
        f"commit {', '.join(commits)}; measured {' and '.join(dict.fromkeys([days[0], days[-1]]))}"
    )


def against(lines: pd.DataFrame, other: str) -> str:
    """Every model minus one of them, over tables: means ± standard errors, a median, wins."""
    rows = []
    for model in (m for m in models_of(lines) if m != other):
        found = differences(lines, model, other)
        if found.empty:
            continue
        losses, points = found["log_loss"].to_numpy(), found["accuracy"].to_numpy()
        wins = (
            beyond_noise(found["log_loss_z"], more_is_better=False),
            beyond_noise(found["accuracy_z"], more_is_better=True),
        )
        rows.append(
            [
                model,
                str(len(found)),
                with_error(losses, digits=4),
                f"{np.median(losses):+.4f}",
                with_error(points, digits=2),
                *(f"{better} / {worse}" for better, worse in wins),
            ]
        )
    wins_head = ["log loss better / worse", "accuracy better / worse"]
    head = ["tables", "log loss", "its median", "accuracy, points", *wins_head]
    return markdown([f"minus {other}", *head], rows)


def with_error(values: Floats, *, digits: int) -> str:
    """A mean and its standard error, which a single value does not have.

    >>> with_error(np.array([0.25]), digits=2), with_error(np.array([0.0, 2.0]), digits=1)
    ('+0.25', '+1.0 ± 1.0')
    """
    error = f" ± {standard_error(values):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():+.{digits}f}{error}"


def standings(lines: pd.DataFrame) -> str:
    """Mean ranks of all models, best log loss first, and what difference is no chance."""
    by_loss, tables = mean_ranks(lines, "log_loss")
    by_accuracy, _ = mean_ranks(lines, "accuracy")
    if not tables or len(by_loss) < 2:
        return "No ranks: they need two models, and a table that has all models."
    rows = [
        [name, f"{by_loss[name]:.2f}", f"{by_accuracy[name]:.2f}"]
        for name in sorted(by_loss, key=lambda name: by_loss[name])
    ]
    least = critical_difference(len(by_loss), tables)
    text = markdown(["mean rank", "log loss", "accuracy"], rows)
    return f"{text}\n\nOver {tables} tables; critical difference (5 %): {least:.2f}"


def by_table(lines: pd.DataFrame) -> str:
    """Log loss and accuracy of each model on each table, means over splits."""
    models, rows = models_of(lines), []
    for table, some in lines.groupby("table", sort=False):
        means = some.groupby("model")[["log_loss", "accuracy"]].mean()
        cells = [
            f"{means.log_loss[m]:.4f} / {100 * means.accuracy[m]:.2f}" if m in means.index else "-"
            for m in models
        ]
        rows.append([str(table), f"{some['train_rows'].iloc[0]:,}", *cells])
    return markdown(["log loss / accuracy, %", "training rows", *models], rows)


def costs(lines: pd.DataFrame) -> str:
    """What each model costs: to train, to ask for one row, to store."""
    rows = []
    for model in models_of(lines):
        some = lines[lines["model"] == model].groupby("table").median(numeric_only=True).median()
        rows.append(
            [
                model,
                f"{some['train_s']:.1f}",
                f"{some['latency_ms']:.2f}",
                f"{some['size_bytes'] / 1000:,.0f}",
                f"{some['fitted_numbers']:,.0f}",
            ]
        )
    return markdown(["model", "train, s", "one row, ms", "size, kB", "fitted numbers"], rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
