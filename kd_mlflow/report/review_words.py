"""What a reviewer asks, as phrases: what to send. Values in, words out."""

from __future__ import annotations

from collections.abc import Sequence

from kd_mlflow.report.words import one_line, percent, safe
from kd_mlflow.table.schema import CallerSchema, SentColumn

KINDS = {
    "numeric": "number",
    "boolean": "true or false",
    "date": "date, ISO 8601, UTC",
    "category": "category",
}

LISTED_CATEGORIES = 8
CARD_COLUMNS, CARD_CATEGORIES = 8, 3
CARD_TABLE = 900
"""Characters of the card's table of columns, at most: the rest of the card must fit beside it."""


def range_text(column: SentColumn, categories: int = LISTED_CATEGORIES, length: int = 30) -> str:
    """Say what the training rows held of a column: its range, or its categories.

    ``categories`` are listed at most, each cut to so many characters.
    """
    if column.kind == "boolean":
        return "true, false"
    if column.kind == "category":
        names = [one_line(name, length) for name in column.categories[:categories]]
        more = len(column.categories) - len(names)
        return ", ".join([*names, *([f"and {more:,} more"] if more else [])]) or "no value"
    if not column.least:
        return "no value"
    return column.least if column.least == column.largest else f"{column.least} to {column.largest}"


def gaps_text(column: SentColumn) -> str:
    """Say how many training rows had no value; - where it is not known any more."""
    if column.gaps is None:
        return "-"
    if not column.gaps:
        return "none"
    return "below 0.01 %" if column.gaps < 1e-4 else percent(column.gaps)


def sent_table(schema: CallerSchema) -> str:
    """The columns that a caller sends as a Markdown table, the first ones of many."""
    lines = ["| column | takes | in training | empty |", "|---|---|---|---|"]
    for column in schema.columns[:CARD_COLUMNS]:
        held = safe(range_text(column, CARD_CATEGORIES, 16), 70)
        cells = [safe(column.name, 30), KINDS[column.kind], held, gaps_text(column)]
        line = f"| {' | '.join(cells)} |"
        if sum(map(len, lines)) + len(line) > CARD_TABLE:
            break
        lines.append(line)
    more = len(schema.columns) - len(lines) + 2
    return "\n".join([*lines, *_rest(schema.columns, more)])


def _rest(columns: Sequence[SentColumn], more: int) -> list[str]:
    if not more:
        return []
    return [f"| and {more:,} more of {len(columns):,} | see `schema.json` | | |"]
