"""What ``history`` and ``rollback`` return, and how they show it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from kd_mlflow.registry.history import Period
from kd_mlflow.registry.records import PROMOTE
from kd_mlflow.report.closing import Shown, aligned, table_text
from kd_mlflow.report.words import one_line

WHY_LENGTH = 200
"""Characters of a reason in a history; the version's tags and its promotion's run have all."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Rollback:
    """What a rollback did.

    Fields:
        model_name: the registered model
        restored: the version that is in production again
        replaced: the version that was there before
    """

    model_name: str
    restored: str
    replaced: str

    def __iter__(self) -> Iterator[str]:
        """The two versions, for ``restored, replaced = kd.rollback()``."""
        return iter((self.restored, self.replaced))

    def __repr__(self) -> str:
        """What moved, as a sentence."""
        return (
            f"{self.model_name}: production is version {self.restored} again; version "
            f"{self.replaced} is now previous, and rolled_back: no plain promote takes it again"
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class History(Shown):
    """Who was in production under a registered model, and who is.

    Fields:
        model_name: the registered model
        production: the version in production, None where there is none
        periods: each time in production, the oldest first
        settled: what was found half done and finished or undone, None where nothing was
    """

    model_name: str
    production: str | None
    periods: tuple[Period, ...]
    settled: str | None = None

    def __repr__(self) -> str:
        """Who was in production, the newest first: since when, for how long, and why."""
        now = datetime.now(UTC)
        lines = [("", ["since (UTC)", "for", "why"])]
        for period in reversed(self.periods):
            mark = " (now)" if period.until is None and period.version == self.production else ""
            since = period.since[:19].replace("T", " ") if period.since else "not recorded"
            lines.append(
                (f"version {period.version}{mark}", [since, _lasted(period, now), _why(period)])
            )
        rows = aligned(lines) if self.periods else [("", "nothing was in production yet")]
        settled = [("settled", self.settled)] if self.settled else []
        return table_text([("registered model", self.model_name), *settled, *rows])


def _lasted(period: Period, now: datetime) -> str:
    """How long a period lasted, or lasts, in its largest two units."""
    if period.since is None:
        return "not known"
    end = datetime.fromisoformat(period.until) if period.until else now
    duration = end - datetime.fromisoformat(period.since)
    minutes, seconds = divmod(max(0, int(duration.total_seconds())), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = {"d": days, "h": hours, "min": minutes, "s": seconds}
    first = next((i for i, n in enumerate(parts.values()) if n), len(parts) - 1)
    return " ".join(f"{n} {unit}" for unit, n in list(parts.items())[first : first + 2])


def _why(period: Period) -> str:
    """Why a version came into production, and by whom."""
    if period.kind is None:
        return "no record: set by other means, or its record was deleted"
    verb = "promoted" if period.kind == PROMOTE else "rolled back to"
    return f"{verb} by {period.by}: {one_line(period.reason or '', WHY_LENGTH)}"
