"""How each column of a table is read, in one line: for whoever is about to train on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kd_mlflow.errors import listed
from kd_mlflow.table.forms import PLAIN, words
from kd_mlflow.table.kinds import Note, Typed, alike, option_of

MOST = 3
"""The most frequent values that are named."""

LINES = 12
"""Lines, at most, that are printed before anything is trained."""

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ColumnReport:
    """What a column holds and what becomes of it.

    Fields:
        name: the column's
        kind: numeric, boolean, date or category
        form: how its texts are read, empty where there is nothing to say
        gaps: share of cells without a value
        gap_texts: texts that became gaps
        beyond: share of texts beyond the categories that are kept
        low: the least number or date
        high: the largest
        frequent: the most frequent texts
        left_out: why it is no input, empty where it is one
        notes: what deserves attention
    """

    name: str
    kind: str
    form: str = ""
    gaps: float = 0.0
    gap_texts: tuple[str, ...] = ()
    beyond: float = 0.0
    low: str = ""
    high: str = ""
    frequent: tuple[str, ...] = ()
    left_out: str = ""
    notes: tuple[Note, ...] = ()

    def line(self) -> str:
        """All of it in one line."""
        parts = [self.kind, *([self.form] if self.form else [])]
        parts += [f"gaps {self.gaps:.1%}"] if self.gaps else []
        parts += [f"gaps are {', '.join(map(repr, self.gap_texts))}"] if self.gap_texts else []
        parts += [f"{self.low} to {self.high}"] if self.low else []
        parts += [f"mostly {', '.join(self.frequent)}"] if self.frequent else []
        parts += [f"{self.beyond:.1%} beyond the kept categories"] if self.beyond else []
        parts += [f"left out: {self.left_out}"] if self.left_out else []
        told = (note.text for note in self.notes if note.weight >= 1)
        return "; ".join([*parts, *told])


def column_report(
    name: str, column: Typed, *, left_out: str = "", max_categories: int
) -> ColumnReport:
    """Describe one column as training takes it."""
    values, notes = column.values, column.notes
    held: dict[str, Any] = {}
    if column.kind in ("category", "boolean"):
        counts = values.value_counts()
        counts = counts[counts > 0]
        beyond = float(counts.iloc[max_categories:].sum() / max(1, counts.sum()))
        held = {"frequent": tuple(map(_short, counts.index[:MOST])), "beyond": beyond}
        if doubled := alike(counts.index[:max_categories]):
            text = f"categories that differ in case or blanks alone: {', '.join(doubled[:MOST])}"
            notes = (*notes, Note(1, f"{text}; make one of them where they mean one"))
        if beyond > 0.5 and not left_out:
            leave = option_of(name, "leave_out")
            text = f"{beyond:.0%} of its texts are beyond the {max_categories} categories kept"
            notes = (*notes, Note(3 + beyond, f"{text}; give max_categories, or {leave}"))
    elif values.notna().any():
        present = values.dropna()
        held = {"low": _short(present.min()), "high": _short(present.max())}
    return ColumnReport(
        name=name,
        kind=column.kind,
        form=words(column.kind, column.form) if column.form != PLAIN else "",
        gaps=float(values.isna().mean()),
        gap_texts=column.gap_texts,
        left_out=left_out,
        notes=notes,
        **held,
    )


def worst_first(columns: Sequence[ColumnReport]) -> list[str]:
    """What deserves attention of the columns, a few lines at most."""
    notes = [(note, column.name) for column in columns for note in column.notes]
    notes.sort(key=lambda each: -each[0].weight)
    lines = [f"column {name!r}: {note.text}" for note, name in notes]
    for why, names in left_out(columns).items():
        lines.insert(0, f"left out, {why}: {', '.join(names)}")
    if len(lines) <= LINES:
        return lines
    return [*lines[: LINES - 1], f"{len(lines) - LINES + 1} more: kd-mlflow columns shows all"]


def left_out(columns: Sequence[ColumnReport]) -> dict[str, list[str]]:
    """Names of the columns that are no inputs, by why."""
    found: dict[str, list[str]] = {}
    for column in columns:
        if column.left_out:
            found.setdefault(column.left_out, []).append(column.name)
    return found


def left_out_text(columns: Sequence[ColumnReport]) -> str:
    """Which columns are no inputs, and why, in a phrase; empty where all are."""
    parts = [f"{listed(names)} ({why})" for why, names in left_out(columns).items()]
    return f"left out: {'; '.join(parts)}" if parts else ""


def columns_document(columns: Sequence[ColumnReport]) -> dict[str, Any]:
    """The JSON document."""
    rows = [asdict(column) | {"notes": [n.text for n in column.notes]} for column in columns]
    return {"format": FORMAT, "columns": rows}


def _short(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    text = str(value).removesuffix(" 00:00:00")
    return text if len(text) <= 40 else f"{text[:37]}..."
