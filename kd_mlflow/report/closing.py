"""Closing tables as lines of text: names to the left, columns below each other; what to do next."""

from __future__ import annotations

import json
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


def next_steps(page: str | None, student: str | None = None) -> str:
    """Where to look at a run, on the server that has it, and how to pull its student by its URI."""
    if page:
        lines = [f"look at it:  {page}"]
    else:
        lines = ["look at it:  mlflow ui", "             then open http://127.0.0.1:5000"]
    if student:
        uri = json.dumps(student, ensure_ascii=False)
        lines.append(f"pull it:     mlflow.pyfunc.load_model({uri})")
    return "\n".join(["", "", *lines])
