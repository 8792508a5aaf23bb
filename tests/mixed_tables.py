"""Tables of mixed columns as people have them, with gaps: for answers that must not differ."""

from __future__ import annotations

import numpy as np
import pandas as pd

ROWS = 120

GAPS = ("NA", "None", "null", "n/a", "", "NaN", "<NA>", "NULL")
"""What systems write for no value; a CSV reader takes each for none."""


def mixed_table(seed: int) -> pd.DataFrame:
    """A table of ROWS rows, a label ``y``, and eight columns, each in one of several clothes."""
    rng = np.random.default_rng(seed)
    amount, days = rng.uniform(1000, 90_000, ROWS).round(2), rng.integers(0, 4000, ROWS)
    stamps = pd.Timestamp("2014-03-01") + pd.to_timedelta(days, "D")
    money = ["${:,}", "{:,} €", "CHF {}", "{:,}", "{}%"][seed % 5]
    layout = ["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%Y/%m/%d", "%d-%b-%Y"][(seed + 2) % 5]
    columns = {
        "money": [money.format(x) for x in amount],
        "unit": [f"{x:.1f} kg" for x in amount / 100],
        "day": stamps.strftime(layout),
        "region": rng.choice(["north", "south", "AP", "é, ü"], ROWS),
        "code": rng.choice(["007", "012", "700"], ROWS),
        "flag": rng.random(ROWS) < 0.5,
        "count": rng.integers(0, 40, ROWS),
        "size": rng.normal(size=ROWS).round(3),
    }
    table = pd.DataFrame({k: pd.Series(cells, dtype=object) for k, cells in columns.items()})
    for name in table:
        table.loc[rng.random(ROWS) < 0.1, name] = None
    return table.assign(y=np.where(amount > 45_000, "much", "little"))


COLUMN = "code=text"
"""What of such a table a CSV file does not say: that its codes keep their zeros."""


def with_gap_texts(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows as a database may hand them out: words for its gaps."""
    words = pd.Series([GAPS[i % len(GAPS)] for i in range(len(rows))], index=rows.index)
    return rows.astype(object).apply(lambda cells: cells.where(cells.notna(), words))
