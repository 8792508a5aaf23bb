"""The fault table: what was broken, what was expected of it, what was seen; made by the tests.

A test writes its rows with the fixture ``fault``; ``pytest --faults FILE`` writes the table of all
tests that ran as Markdown.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PROPERTY = "fault"


class Fault(NamedTuple):
    """A row of the table."""

    where: str
    what: str
    expected: str
    seen: str


@pytest.fixture
def fault(record_property: Callable[[str, Any], None]) -> Callable[..., None]:
    """Write a row: ``fault(where, what, expected=..., seen=...)``, once it was seen."""

    def row(where: str, what: str, *, expected: str, seen: str) -> None:
        record_property(PROPERTY, list(Fault(where, what, expected, seen)))

    return row


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
