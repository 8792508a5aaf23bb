"""Rows that belong together: what is reported, beside what new customers and the next month get.

    python benchmarks/together.py          # three tables of each kind, a minute each

Prints a line of each: the student's accuracy on its test rows with its 95 % interval, split by
rows and by ``group`` or ``time``, and its accuracy on many rows of customers, or of a month, that
nobody saw.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd

import kd_mlflow as kd
from kd_mlflow.evaluation.intervals import mean_share

CUSTOMERS, VISITS, MONTHS, ROWS = 600, 8, 24, 200

TEACHERS: dict[str, Any] = {
    "n_teachers": 2,
    "n_boosted": 2,
    "teacher_hidden": (64, 32),
    "teacher_epochs": 15,
    "boosting_rounds": 150,
}
STUDENT: dict[str, Any] = {
    "student_hidden": (32, 16),
    "student_bins": 0,
    "temperature": 3.0,
    "augment_factor": 2,
    "student_epochs": 15,
}
"""Trained within seconds: how far reports are off hardly depends on it."""


def visits(rng: np.random.Generator, customers: int, first: int = 0) -> pd.DataFrame:
    """Customers with several visits each; who somebody is counts for much of the label."""
    of = np.repeat(np.arange(customers), VISITS)
    who, visit = rng.normal(size=(customers, 5))[of], rng.normal(size=(len(of), 4))
    liking = rng.normal(0, 1.5, customers)[of]
    chance = 1 / (1 + np.exp(-(0.5 * who[:, 0] + visit[:, 0] - 0.6 * visit[:, 1] + liking)))
    columns = {f"customer_{i}": who[:, i].round(3) for i in range(5)}
    columns |= {f"visit_{i}": visit[:, i].round(3) for i in range(4)}
    label = (rng.random(len(of)) < chance).astype(int)
    return pd.DataFrame({"customer_id": of + first, **columns, "y": label})


def months(rng: np.random.Generator, first: int, count: int, *, often: int = 1) -> pd.DataFrame:
    """Months whose level of the label drifts, and is a little of its own each; some ways each."""
    month = np.repeat(np.arange(first, first + count), ROWS * often)
    x = rng.normal(size=(len(month), 5))
    own = np.repeat(rng.normal(0, 0.8, count * often), ROWS)
    value = x[:, 0] + 0.7 * x[:, 1] - 0.5 + month / MONTHS + own
    label = (rng.random(len(month)) < 1 / (1 + np.exp(-value))).astype(int)
    days = rng.integers(0, 28, len(month))
    day = pd.Timestamp("2022-01-01") + pd.to_timedelta(30 * month + days, "D")
    columns = {f"x{i}": x[:, i].round(3) for i in range(5)}
    return pd.DataFrame({"day": day, **columns, "y": label})


def measured(table: pd.DataFrame, later: pd.DataFrame, **options: str) -> str:
    """A row of the printed table: what is reported, what later rows show."""
    ensemble = kd.fit_ensemble(table, target="y", **TEACHERS, **options)
    student = kd.fit_student(ensemble, **STUDENT)
    tested = kd.split(data=table, target="y", **options).test.index
    hits, new = (
        student.predict(rows) == rows["y"].to_numpy() for rows in (table.loc[tested], later)
    )
    groups = table.loc[tested, options["group"]].to_numpy() if "group" in options else None
    own, share = mean_share(hits, groups), float(new.mean())
    by = ", ".join(options) or "rows"
    return (
        f"{by:5} reported {100 * own.value:.1f} % ({100 * own.low:.1f} to {100 * own.high:.1f}), "
        f"new rows {100 * share:.1f} %: {100 * (own.value - share):+.1f} points, "
        f"{'within' if own.low <= share <= own.high else 'outside'} the interval"
    )


def main(tables: int) -> None:
    """Print what is reported of some tables of each kind, split in both ways."""
    for seed in range(tables):
        rng = np.random.default_rng(seed)
        table, later = visits(rng, CUSTOMERS), visits(rng, 4000, CUSTOMERS)
        print("customers", seed, measured(table, later), flush=True)
        print("customers", seed, measured(table, later, group="customer_id"), flush=True)
        table, later = months(rng, 0, MONTHS), months(rng, MONTHS, 1, often=100)
        print("months   ", seed, measured(table, later), flush=True)
        print("months   ", seed, measured(table, later, time="day"), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
