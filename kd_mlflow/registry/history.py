"""Who was in production, read from the tags of a registered model's versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlflow import MlflowClient

from kd_mlflow.registry.moves import read_aliases
from kd_mlflow.registry.records import Move, confirmed_moves


@dataclass(frozen=True, kw_only=True)
class Period:
    """A time that a version was in production.

    What has no record is None: the alias was set by other means, or the version with the record was
    deleted.

    Fields:
        version: the number of the version
        since: when it came (ISO 8601, UTC)
        until: when it left, None while it is in production
        kind: whether it came by a promote or a rollback
        reason: why
        by: who moved it
        run_id: the run that moved it
    """

    version: str
    since: str | None = None
    until: str | None = None
    kind: str | None = None
    reason: str | None = None
    by: str | None = None
    run_id: str | None = None


def periods(client: MlflowClient, model_name: str) -> tuple[Period, ...]:
    """Every time in production, the oldest first.  Raises RegistryError for an unknown model."""
    aliases = read_aliases(client, model_name)
    return _periods(confirmed_moves(client, aliases.model), aliases.production)


def _periods(made: Sequence[Move], production: str | None) -> tuple[Period, ...]:
    """Each move begins a period and ends the one before; what no move explains has no beginning."""
    found: list[Period] = []
    for place, move in enumerate(made):
        before = made[place - 1].version if place else None
        if move.origin and move.origin != before:
            found.append(Period(version=move.origin, until=move.time))
        after = made[place + 1] if place + 1 < len(made) else None
        found.append(
            Period(
                version=move.version,
                since=move.time,
                until=after.time if after else None,
                kind=move.kind,
                reason=move.reason,
                by=move.by,
                run_id=move.run_id,
            )
        )
    if production and (not made or made[-1].version != production):
        found.append(Period(version=production))
    return tuple(found)
