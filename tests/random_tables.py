"""Tables of any mixture of types, gaps, names and class sizes, drawn by hypothesis."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from hypothesis import strategies as st

SWAPPED = str.maketrans(",.", ".,")

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "integers": st.integers(-(2**40), 2**40),
    "small integers": st.integers(0, 5),
    "floats": st.floats(-1e30, 1e30),
    "any floats": st.floats(),
    "booleans": st.booleans(),
    "letters": st.sampled_from(["a", "b", "B", "é", " ", "007", "7", "True", "2024-01-01"]),
    "texts": st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    "days": st.dates(datetime.date(1990, 1, 1), datetime.date(2040, 1, 1)).map(str),
    "times": st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1)),
    "mixed": st.one_of(st.integers(0, 3), st.sampled_from(["x", "3"]), st.booleans()),
    "one value": st.just("same"),
    "durations": st.timedeltas(datetime.timedelta(0), datetime.timedelta(9)),
    "sentinels": st.one_of(st.floats(0, 5), st.sampled_from([-999, 1e12, 2**63 - 1])),
    "strays": st.one_of(st.integers(0, 10**6), st.sampled_from([5, 6, 7, 8, "?"])),
    "far whole numbers": st.integers(1_700_000_000, 1_700_000_060),
    "huge whole numbers": st.integers(-(2**63), 2**63 - 1),
    "far days": st.dates().map(str),
    "uuids": st.uuids(),
    "decimals": st.decimals(-100, 100, places=2),
    "customers": st.integers(0, 19).map("customer {}".format),
    "money": st.floats(-1e6, 1e6).map(lambda x: f"${x:,.2f}" if x >= 0 else f"(${-x:,.2f})"),
    "foreign money": st.floats(0, 1e6).map(lambda x: f"{x:,.2f} €".translate(SWAPPED)),
    "units": st.one_of(st.floats(0, 99).map(lambda x: f"{x:.1f} kg"), st.just("heavy")),
    "percent": st.integers(0, 100).map("{}%".format),
    "foreign days": st.dates(datetime.date(1990, 1, 1)).map(lambda day: day.strftime("%d.%m.%Y")),
    "American days": st.dates(datetime.date(1990, 1, 1)).map(lambda day: day.strftime("%m/%d/%Y")),
    "zero days": st.one_of(st.just("0000-00-00"), st.dates(datetime.date(1990, 1, 1)).map(str)),
    "gap words": st.sampled_from(["NA", "None", "null", "", "n/a", "a", "3", "$4"]),
    "lists": st.lists(st.integers(0, 2), max_size=2),
}
NAMES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    st.sampled_from(["a\nb", "a|b", "`x`", "<b>x</b>", "# h", "prediction", "probability_a", "id"]),
    st.integers(0, 9),
)
LABELS = st.sampled_from(
    [["no", "yes"], [0, 1], [False, True], [3.0, 4.0, 5.0], ["a|b", "b\n# c", "<i>`c`"]]
)


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """A table of 40 to 80 rows with a column ``label`` and one to five others, with gaps.

    One table in four has a class of a few rows.
    """
    n = draw(st.integers(40, 80))
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique_by=str))
    classes = draw(LABELS)
    columns: dict[Any, Any] = {}
    for name in names:
        values = VALUES[draw(st.sampled_from(sorted(VALUES)))]
        pool = draw(st.lists(values, min_size=1, max_size=n))
        if draw(st.booleans()):
            pool.append(None)
        columns[name] = [pool[i % len(pool)] for i in range(n)]
    labels = [classes[i % len(classes)] for i in range(n)]
    rare = draw(st.sampled_from([0, 0, 0, 1, 3, 4]))
    if rare and len(classes) > 2:
        labels = [classes[i % (len(classes) - 1)] for i in range(n - rare)] + [classes[-1]] * rare
    columns["label"] = labels
    return pd.DataFrame(columns)


@st.composite
def questions(draw: st.DrawFn) -> tuple[pd.DataFrame, dict[str, str]]:
    """A table, and options that say which of its columns are groups and times; mostly none.

    One in four that name groups or times has columns made to be them.
    """
    table = draw(tables())
    made = draw(st.sampled_from([False, False, False, True]))
    if made:
        n = len(table)
        table["whose"] = draw(st.lists(VALUES["customers"], min_size=n, max_size=n))
        table["when"] = draw(st.lists(VALUES["days"], min_size=n, max_size=n))
    named = st.sampled_from([str(name) for name in table.columns])
    options = {}
    for option, own in (("group", "whose"), ("time", "when")):
        if draw(st.sampled_from([False, False, True])):
            options[option] = own if made else draw(named)
    return table, options


def written(table: pd.DataFrame, folder: Path, suffix: str) -> Path | None:
    """Write a table as a user's own tools would; None where that format cannot hold it."""
    path = folder / f"table{suffix}"
    try:
        if suffix == ".parquet":
            table.set_axis(table.columns.map(str), axis=1).to_parquet(path)
        else:
            table.to_csv(path, index=False)
    except (ValueError, TypeError, OverflowError, ArithmeticError):
        return None
    return path
