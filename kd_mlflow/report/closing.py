"""Closing tables as lines of text that fit a terminal; what to do next."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH = 80
"""Columns of the narrowest terminal that people have."""

LEAST_TEXT = 24
"""Columns that a text has beside its name at least; the name stands on a line of its own else."""

Row = tuple[str, str]
"""A line of a closing table: what it is called, and what it says."""

Table = tuple[Sequence[str], Sequence[tuple[str, Sequence[str]]]]
"""The heads of a table's columns but the first; each line's name and cells."""


def wrapped(text: str, width: int = WIDTH) -> list[str]:
    """Break a text between words alone; what is longer than a line, as an address, stays whole."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def table_text(rows: Sequence[Row]) -> str:
    """Put names and what they say into two columns; a name that says nothing is left out."""
    said = [(name, text) for name, text in rows if text]
    width = min(max(len(name) for name, _ in said), WIDTH - LEAST_TEXT)
    lines = []
    for name, text in said:
        first, *more = wrapped(text, WIDTH - width - 2)
        lines += [f"{name:<{width}}  {first}", *(f"{'':<{width}}  {line}" for line in more)]
    return "\n".join(line.rstrip() for line in lines)


def aligned(
    lines: Sequence[tuple[str, Sequence[str]]], *, to: str = "<", gap: str = "   "
) -> list[Row]:
    """Put the columns of several lines under each other, flush left or to the right, ``>``."""
    widths = [max(map(len, column)) for column in zip(*(line for _, line in lines), strict=True)]
    return [
        (name, gap.join(f"{text:{to}{w}}" for text, w in zip(line, widths, strict=True)).rstrip())
        for name, line in lines
    ]


def numbers_text(table: Table) -> str:
    """A table whose cells are numbers, flush right, as a text."""
    heads, rows = table
    lines = [("", heads), *rows]
    first = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{first}}  {line}" for name, line in aligned(lines, to=">", gap="  "))


def html_text(*texts: str) -> str:
    """Texts as paragraphs of HTML, the first one in bold."""
    first, *more = map(escape, texts)
    return f"<p><b>{first}</b></p>" + "".join(f"<p>{text}</p>" for text in more)


def html_table(table: Table) -> str:
    """A table in HTML; the first column has the names."""
    heads, rows = table
    top = "".join(f"<th>{escape(head)}</th>" for head in ("", *heads))
    lines = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table>"


class Shown:
    """A result as notebooks show it: as it prints, unless it has more to show."""

    def html(self) -> str:
        """What a notebook shows."""
        return f"<pre>{escape(repr(self))}</pre>"

    def _repr_html_(self) -> str:
        return self.html()


class Page(NamedTuple):
    """Where a run is shown, its models and runs beside it; what starts the pages first, if any."""

    address: str | None
    command: str | None = None
    models: str | None = None
    runs: str | None = None


def next_steps(page: Page | None, student: str | None = None) -> str:
    """Where to look at a run, and how to pull its student by its URI: each line can be pasted."""
    lines = [line for line in (page.command, page.address) if line] if page else []
    rows = [("" if i else "see", line) for i, line in enumerate(lines)]
    lists = [("each", page.models), ("all", page.runs)] if page else []
    rows += [(name, address) for name, address in lists if address]
    if student:
        uri = json.dumps(student, ensure_ascii=False)
        rows.append(("use", f"mlflow.pyfunc.load_model({uri})"))
    return "\n".join(["", "", *(f"{name:4}  {line}" for name, line in rows)]) if rows else ""
