"""What a table's own columns say of its rows: which belong together, and when each was.

Neither is an input of a model: a group of tomorrow was never seen, and every time of tomorrow lies
beyond those of training.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kd_mlflow.errors import DataError
from kd_mlflow.serving import scoring
from kd_mlflow.table.hashing import Codes, row_hashes
from kd_mlflow.table.kinds import option_of, typed

LEAST_GROUPS = 10
"""A fifth of them are test rows, and one group alone has no interval."""

LEAST_TIMES = 3
"""One to train, one to validate and one to test on."""

ENOUGH = {
    "group": (LEAST_GROUPS, "groups", "row: name a column that differs"),
    "time": (LEAST_TIMES, "different values", "row, or of every group: nothing is later"),
}
"""How many groups or times there must be, what they are, and where they are all the same."""


class GroupSizes(NamedTuple):
    """How many groups there are, and how many rows the largest and the middle one have."""

    groups: int
    largest: int
    median: float

    @classmethod
    def of(cls, groups: NDArray[np.generic]) -> GroupSizes:
        """Count the rows of each group.  Shape: (n,)."""
        _, rows = np.unique(groups, return_counts=True)
        return cls(len(rows), int(rows.max()), float(np.median(rows)))


def column_names(text: str, columns: Collection[str]) -> list[str]:
    """The columns that an option names with commas, each once; one whose own name has commas.

    >>> column_names("house, person", ["house", "person"])
    ['house', 'person']
    """
    if text in columns:
        return [text]
    return [name for name in dict.fromkeys(part.strip() for part in text.split(",")) if name]


def check_named(names: Sequence[str], option: str, columns: Sequence[str], target: str) -> None:
    """Raise DataError where an option names what is no column, or the target."""
    for name in names:
        if name == target:
            raise DataError(f"{option} {name!r} is the target; name another column")
        if name not in columns:
            has = ", ".join(map(repr, columns))
            raise DataError(f"{option} {name!r} is not a column; the table has: {has}")


def group_hashes(columns: pd.DataFrame, rows: Codes) -> Codes:
    """Hash each row's group by its values alone, of one column whatever it is called.

    A row without any is a group of its own, by its own hash among ``rows``.  Shape: (n,).
    """
    named = columns if columns.shape[1] > 1 else columns.set_axis(["group"], axis=1)
    none = row_hashes(pd.DataFrame({name: [None] for name in named.columns}))
    hashes = row_hashes(named)
    return np.where(hashes == none, rows, hashes)


def check_enough(option: str, name: str, values: NDArray[np.generic]) -> None:
    """Raise DataError where there are too few groups, or times of groups' latest, to divide."""
    (least, what, everywhere), found = ENOUGH[option], len(np.unique(values))
    if found == 1:
        raise DataError(f"{option} {name!r} is the same in every {everywhere}")
    if found < least:
        raise DataError(
            f"{option} {name!r} has {found} {what}, too few to train, validate and test on: at "
            f"least {least} are needed"
        )


def row_times(column: pd.Series) -> NDArray[np.float64]:
    """When each row was: microseconds since 1970 of dates, numbers as they are.  Shape: (n,).

    Raises DataError where that is not known of every row.
    """
    name, (values, kind, *_) = column.name, typed(column)
    if kind == "date":
        stamps = scoring.timestamps(values)
        known = stamps.notna().to_numpy()
        times = stamps.astype("int64").to_numpy().astype(np.float64)
    elif kind == "numeric":
        times = pd.to_numeric(values).to_numpy(np.float64, na_value=np.nan)
        known = np.isfinite(times)
    else:
        example = column.dropna().iloc[0] if column.notna().any() else None
        raise DataError(
            f"time {name!r} cannot be read as dates or numbers, such as {str(example)[:40]!r}; "
            f"write dates as 2024-03-31, or say how: {option_of(name, 'date:%d/%m/%Y')}"
        )
    if not known.all():
        rows = np.flatnonzero(~known)
        raise DataError(
            f"time {name!r} is not known in {len(rows):,} rows, the first is row {rows[0]} "
            "(counted from 0); fill it in or remove those rows"
        )
    return times
