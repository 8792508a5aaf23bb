"""Columns that look as if rows belonged together, the label moved with time, or stood there."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.stats import chi2_contingency

from kd_mlflow.serving import scoring
from kd_mlflow.table.groups import LEAST_GROUPS
from kd_mlflow.table.hashing import NAMES_ROWS
from kd_mlflow.table.kinds import Ints, option_of
from kd_mlflow.table.loading import Table

NAMES_WHOM = re.compile(
    r"(?i)(.*[\s_.-])?(customer|client|patient|subject|person|user|member|household|account)"
    r"([\s_.-]?(no|nr|number|key|code|name))?"
)
"""Names of columns that say who a row is about, beside those of ``NAMES_ROWS``."""

MOST_ROWS = 100
"""Rows of a value on average, at most, for a column to be an identifier by its name."""

LEAST_VALUES, FEW_ROWS = 50, (2, 50)
"""Values that a column has at least, and rows of each on average, to be one without such a name."""

SHARED = 0.5
"""Least share of the test rows whose value training rows have too."""

BEYOND_CHANCE, MORE_ALIKE = 4.0, 0.05
"""Standard errors, and share, by which rows of one value are alike more often than of the next."""

STRETCHES, LEAST_ROWS, MOST_CLASSES = 10, 50, 10
"""Stretches of time that labels are counted in, of so many rows at least; classes that are."""

LEVEL = 1e-4

COPIES = 0.1
"""Share of the rows that are equal to another, from which on it is said."""

TOLD_ROWS, TOLD, OF_A_TEXT = (50, 5_000), 0.99, 10
"""Rows beyond the commonest class that are enough to judge by, and rows that are looked at; the
share of the former that a column alone gets right where it is the label in other words; rows of a
text that are enough to tell.
"""


def suspects(table: Table, train: Ints, test: Ints) -> Iterator[str]:
    """Say, a line each, which column may need the option ``group`` or ``time``, or be left out.

    The first two are asked of what the table is not split by.  Shape: row numbers of two sides.
    """
    if table.groups is None and table.row_hashes is not None:
        every = pd.DataFrame({"row": table.row_hashes, "label": table.labels})
        equal, copies = every.duplicated("row").sum(), every.duplicated().sum()
        if copies > COPIES * len(every) and copies >= TOLD * equal:  # strangers differ in the label
            yield (
                f"{copies:,} of {len(every):,} rows are equal to others: they stay on one side, "
                "but each counts in the intervals; leave copies out, or name whose they are: "
                "group=..."
            )
    some = train[:: -(-len(train) // TOLD_ROWS[1])]  # a table may be sorted by its label
    for name, kind in table.kinds.items():
        column = table.features[name]
        if _tells(column.iloc[some], kind, table.labels[some]):
            yield (
                f"{name}: by itself it tells the label of nearly every row; if it is known only "
                f"once the label is, leave it out: {option_of(name, 'leave_out')}"
            )
        if table.groups is None and kind in ("category", "numeric"):
            codes = _codes(column, kind)
            if codes is not None and _is_group(name, codes, table.labels, train, test):
                rows = np.bincount(codes[codes >= 0])
                yield (
                    f"{name}: {len(rows):,} values of {rows.mean():.3g} rows each, on both sides "
                    f"of the split; if rows of one value belong together, test on others: "
                    f"group={name}"
                )
        if table.times is None and kind == "date" and _label_moves(column, table.labels):
            yield (
                f"{name}: the share of the classes moves along it beyond chance; to test on the "
                f"latest rows, as in production: time={name}"
            )


def _codes(column: pd.Series, kind: str) -> Ints | None:
    """A column's values by number, ascending where they are numbers, -1 for gaps.

    None where it has fractions.  Shape: (n,).
    """
    if kind == "category":
        return pd.factorize(column)[0]
    values = pd.to_numeric(column).to_numpy(np.float64, na_value=np.nan)
    if (np.nan_to_num(values) % 1).any():
        return None
    return pd.factorize(values, sort=True)[0]


def _is_group(name: str, codes: Ints, labels: Ints, train: Ints, test: Ints) -> bool:
    """Whether a column says who or what rows are about, and both sides have rows of the same."""
    known = codes >= 0
    values = int(codes.max(initial=-1)) + 1
    if values < LEAST_GROUPS or not known[test].any():
        return False
    each = known.sum() / values
    shared = np.isin(codes[test][known[test]], codes[train]).mean()
    if shared < SHARED or each > MOST_ROWS:
        return False
    if NAMES_ROWS.fullmatch(name.strip()) or NAMES_WHOM.fullmatch(name.strip()):
        return True
    few = values >= LEAST_VALUES and FEW_ROWS[0] <= each <= FEW_ROWS[1]
    return few and _alike(codes[known], labels[known])


def _alike(codes: Ints, labels: Ints) -> bool:
    """Whether rows of one value have one label more often than rows of the next value do.

    What only measures something has like labels at neighbouring values too.  Shape: (n,) each.
    """
    order = np.random.default_rng(0).permutation(len(codes))  # a table may be sorted by its label
    order = order[np.argsort(codes[order], kind="stable")]
    same = codes[order][1:] == codes[order][:-1]
    alike = labels[order][1:] == labels[order][:-1]
    share = alike.mean()
    error = np.sqrt(share * (1 - share) * (1 / same.sum() + 1 / (~same).sum()))
    more = alike[same].mean() - alike[~same].mean()
    return bool(more > max(MORE_ALIKE, BEYOND_CHANCE * error))


def _tells(column: pd.Series, kind: str, labels: Ints) -> bool:
    """Whether a column is the label in other words: by its values, or by where its numbers lie.

    A text that seldom occurs tells nothing.  Shape: (n,) each.
    """
    by_class = np.bincount(labels)
    beyond, classes = len(labels) - by_class.max(), np.count_nonzero(by_class)
    if beyond < TOLD_ROWS[0]:
        return False
    wrong = (1 - TOLD) * beyond
    if kind == "category":
        counts = pd.crosstab(pd.factorize(column)[0], labels).to_numpy()
        right = counts.max(axis=1)[counts.sum(axis=1) >= OF_A_TEXT].sum()
        return bool(len(labels) - right <= wrong)
    values = scoring.timestamps(column).astype("int64") if kind == "date" else pd.to_numeric(column)
    order = np.random.default_rng(0).permutation(len(labels))  # of rows with one value too
    numbers = values.to_numpy(np.float64, na_value=-np.inf)[order]
    ordered = labels[order][np.argsort(numbers, kind="stable")]
    turns = np.count_nonzero(ordered[1:] != ordered[:-1])
    return bool(turns <= 2 * classes + 2 * wrong)


def _label_moves(column: pd.Series, labels: Ints) -> bool:
    """Whether the classes' shares differ between stretches of a column of dates beyond chance."""
    stamps = scoring.timestamps(column)
    known = stamps.notna().to_numpy()
    common = np.argsort(-np.bincount(labels))[:MOST_CLASSES]
    known = known & np.isin(labels, common)
    times, labels = stamps[known].astype("int64").to_numpy(), labels[known]
    stretches = min(STRETCHES, len(times) // LEAST_ROWS)
    if stretches < 2:
        return False
    place = np.searchsorted(np.quantile(times, np.arange(1, stretches) / stretches), times)
    counts = pd.crosstab(place, labels).to_numpy()
    return min(counts.shape) > 1 and bool(chi2_contingency(counts).pvalue < LEVEL)
