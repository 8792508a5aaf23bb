"""The tables of docs/faults.md: what is promised of each fault, and what was seen of it.

A test that keeps a promise of the page says so with the fixture ``fault``; ``pytest --faults FILE``
writes what all tests saw as Markdown, and which promises none of them tried.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "faults.md"
"""What is promised of each fault."""

PROPERTY = "fault"


class Fault(NamedTuple):
    """A row of the table."""

    where: str
    what: str
    expected: str
    seen: str


@pytest.fixture
def fault(record_property: Callable[[str, Any], None]) -> Callable[..., None]:
    """Keep a promise of the page: ``fault(where, what, expected=..., seen=...)``, once seen."""

    def row(where: str, what: str, *, expected: str, seen: str) -> None:
        assert (where, what, expected) in promises(), "docs/faults.md does not promise that"
        record_property(PROPERTY, list(Fault(where, what, expected, seen)))

    return row


def promises() -> set[tuple[str, ...]]:
    """Rows of the page's tables of three columns: where, what happens, what holds."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [tuple(line[2:-2].split(" | ")) for line in lines if line.startswith("| ")]
    return {row for row in rows if len(row) == 3 and row[0] != "where"}


def table(faults: list[Fault]) -> str:
    """All rows as Markdown."""
    lines = ["| where | what | expected | seen |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(fault).replace("\n", " ") + " |" for fault in sorted(faults)]
    return "\n".join(lines) + "\n"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Write the table where ``--faults`` says."""
    path: Path | None = config.getoption("faults")
    if path is None:
        return
    faults = [
        Fault(*value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == PROPERTY
    ]
    path.write_text(table(faults), encoding="utf-8")
    terminalreporter.write_line(f"{len(faults)} faults: {path}")
    for untried in sorted(promises() - {fault[:3] for fault in faults}):
        terminalreporter.write_line(f"not tried: {' | '.join(untried)}")
