"""Closing tables as lines of text: names to the left, columns below each other."""

from __future__ import annotations

from collections.abc import Sequence

Row = tuple[str, str]
"""A line of a closing table: what it is called, and what it says."""


def table_text(rows: Sequence[Row]) -> str:
    """Put names and what they say into two columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)


def aligned(lines: Sequence[tuple[str, Sequence[str]]]) -> list[Row]:
    """Put the columns of several lines under each other."""
    widths = [max(map(len, column)) for column in zip(*(line for _, line in lines), strict=True)]
    return [
        (name, "   ".join(f"{text:<{w}}" for text, w in zip(line, widths, strict=True)).rstrip())
        for name, line in lines
    ]
