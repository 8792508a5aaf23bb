"""What ``columns`` returns, and how it shows it."""

from __future__ import annotations

from dataclasses import dataclass

from kd_mlflow.report.closing import Shown, table_text
from kd_mlflow.report.words import one_line
from kd_mlflow.table.columns import ColumnReport

NAME_LENGTH, LINE_LENGTH = 40, 400
"""Characters of a column's name and of its line."""


@dataclass(frozen=True, kw_only=True, repr=False)
class ColumnsResult(Shown):
    """How each column of a table is read.

    Fields:
        table: what the table is called
        rows: how many it has
        columns: each column, in the table's order
    """

    table: str
    rows: int
    columns: tuple[ColumnReport, ...]

    def __repr__(self) -> str:
        """One line a column, in the table's order."""
        lines = [
            (one_line(column.name, NAME_LENGTH), one_line(column.line(), LINE_LENGTH))
            for column in self.columns
        ]
        return table_text([(one_line(self.table, NAME_LENGTH), f"{self.rows:,} rows"), *lines])
