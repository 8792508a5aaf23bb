"""What ``predict`` returns, and its closing table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kd_mlflow.report.closing import Shown, table_text
from kd_mlflow.report.words import one_line, percent

NAME_LENGTH, SHOWN_CLASSES = 40, 8
"""Characters of a name, and classes that are shown."""


@dataclass(frozen=True, kw_only=True, repr=False)
class PredictResult(Shown):
    """Rows that were scored, and where their answers are.

    Fields:
        table: what the table is called
        rows: how many it has
        out: the file with the answers
        model: what answered, by name, version and aliases
        resolved: its address, an alias resolved to its version
        predicted: rows by the class that was predicted
        reasons: columns named for each row
        seconds: how long it took, without loading the model
    """

    table: str
    rows: int
    out: str
    model: str
    resolved: str
    predicted: Mapping[str, int]
    reasons: int
    seconds: float

    def __repr__(self) -> str:
        """What answered, what it said, and where that is."""
        shares = [
            f"{one_line(name, NAME_LENGTH)} {percent(count / self.rows)}"
            for name, count in list(self.predicted.items())[:SHOWN_CLASSES]
        ]
        more = len(self.predicted) - SHOWN_CLASSES
        shares += [f"{more} classes more"] if more > 0 else []
        speed = f"{self.rows / self.seconds:,.0f} a second" if self.seconds else ""
        lines = [
            ("scored", f"{self.rows:,} rows of {one_line(self.table, NAME_LENGTH)}, {speed}"),
            ("by", self.model),
            ("predicted", ", ".join(shares)),
        ]
        if self.reasons:
            why = (
                f"{self.reasons} per row: the predicted class's log odds, less those with that "
                "column at its training median or most frequent category"
            )
            lines.append(("reasons", why))
        return table_text([*lines, ("written to", self.out)])
