"""Moves of ``production``: the intention recorded first, then the move, then what follows of it.

MLflow sets one alias at a time. A move is done when ``production`` points to its version: that one
write decides, and whoever finds an intention recorded later sees by it what to do. Before it
nothing else was written, and the intention is dropped; after it the rest is written again, which
changes nothing that was written already.
"""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel

from kd_mlflow.registry.lock import Lease, alias_of, is_locked, known_model, locked
from kd_mlflow.registry.records import (
    FILES,
    INTENTION,
    MODEL_MADE,
    NONE,
    PROMOTE,
    REPLACED,
    ROLLBACK,
    Move,
    confirmed_moves,
    cut,
    intended,
    record_key,
)
from kd_mlflow.tracking.failures import FAILURES

CANDIDATE, PRODUCTION, PREVIOUS = "candidate", "production", "previous"


class Settled(NamedTuple):
    """Whether a move that somebody left half done is finished now, and all of it in words."""

    finished: bool
    said: str


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_move(
    kind: str, origin: str | None, version: str, *, reason: str, run_id: str, digest: str = ""
) -> Move:
    """A move that this user is about to make."""
    return Move(
        kind=kind,
        origin=origin,
        version=version,
        reason=reason,
        run_id=run_id,
        digest=digest,
        by=getpass.getuser(),
        time=now(),
    )


def about(model: RegisteredModel, replaced: str | None, digest: str) -> dict[str, str]:
    """What a run says of the move that it is about to ask for, as tags without ``kd.``."""
    files = {FILES: digest} if digest else {}
    return {MODEL_MADE: str(model.creation_timestamp), REPLACED: replaced or NONE, **files}


def make(client: MlflowClient, model_name: str, move: Move) -> RegisteredModel | None:
    """Move ``production``, unless it is no longer at the move's origin.

    Returns None where it was moved, else the model as it is. Raises RegistryError where the lock
    cannot be had or kept.
    """
    with locked(client, model_name) as lease:
        _settle(client, model_name, lease)
        model = known_model(client, model_name)
        if alias_of(model, PRODUCTION) != move.origin:
            return model
        numbered = replace(move, number=lease.number, time=now())
        client.set_registered_model_tag(model_name, INTENTION, numbered.written())
        if move.digest:  # before the move: who loads by the alias checks by it
            client.set_model_version_tag(model_name, move.version, f"kd.{FILES}", move.digest)
        lease.check()
        try:
            client.set_registered_model_alias(model_name, PRODUCTION, move.version)
        except FAILURES:
            settled = _settle(client, model_name, lease)  # an answer may be lost, and not the write
            if settled is None or not settled.finished:
                raise
        else:
            _follow(client, model_name, numbered, lease)
    return None


def settle(client: MlflowClient, model_name: str) -> str | None:
    """Finish or undo what a process that died, or lost its store, left half done; say which.

    A lock that it left goes too: who holds one is waited for, and the dead for a lease.
    """
    model = known_model(client, model_name)
    if INTENTION not in model.tags and not is_locked(client, model_name):
        return None
    with locked(client, model_name) as lease:
        settled = _settle(client, model_name, lease)
        return settled.said if settled else None


def retire_candidate(client: MlflowClient, model_name: str, version: str) -> None:
    """Take the alias ``candidate`` from a version that has its decision, if it is there still."""
    if alias_of(known_model(client, model_name), CANDIDATE) == version:
        client.delete_registered_model_alias(model_name, CANDIDATE)


def _settle(client: MlflowClient, model_name: str, lease: Lease) -> Settled | None:
    model = known_model(client, model_name)
    if INTENTION not in model.tags:
        return None
    try:
        move = intended(client, model)
    except ValueError as error:
        lease.check()
        client.delete_registered_model_tag(model_name, INTENTION)
        return Settled(False, f"the tag kd.moving told of no move and is gone: {error}")
    finished = alias_of(model, PRODUCTION) == move.version
    if finished:
        _follow(client, model_name, move, lease)
    else:
        lease.check()
        client.delete_registered_model_tag(model_name, INTENTION)
    outcome = {PROMOTE: "promoted", ROLLBACK: "rolled_back"}[move.kind] if finished else "undone"
    with suppress(*FAILURES):  # the run that asked for it may be gone
        run = client.get_run(move.run_id)
        client.set_tag(move.run_id, "kd.promotion", outcome)
        if finished or run.info.status == "RUNNING":
            client.set_terminated(move.run_id, "FINISHED" if finished else "KILLED")
    done = "finished" if finished else "undone: production had not moved"
    what = f"a {move.kind} to version {move.version} by {move.by} on {move.time}"
    return Settled(finished, f"{what} was left half done and is {done}")


def _follow(client: MlflowClient, model_name: str, move: Move, lease: Lease) -> None:
    """Write what follows of a move that is done, and last of all that nothing is under way."""
    lease.check()
    if move.origin:
        client.set_registered_model_alias(model_name, PREVIOUS, move.origin)
    client.set_model_version_tag(model_name, move.version, record_key(move), move.written())
    decided = {move.version: "promoted"}
    if move.kind == ROLLBACK and move.origin:
        decided[move.origin] = "rolled_back"
    tell(client, model_name, decided, reason=move.reason, run_id=move.run_id)
    lease.check()
    retire_candidate(client, model_name, move.version)
    client.delete_registered_model_tag(model_name, INTENTION)


def tell(
    client: MlflowClient, model_name: str, decided: Mapping[str, str], *, reason: str, run_id: str
) -> None:
    """Tag versions, by their numbers, with what was decided, why, when, and by which run."""
    for version, decision in decided.items():
        told = {"": decision, "_reason": cut(reason), "_time": now(), "_run_id": run_id}
        for name, value in told.items():
            client.set_model_version_tag(model_name, version, f"kd.promotion{name}", value)


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
    """Every time in production, the oldest first.  Raises RegistryError for an unknown model.

    Each move begins a period and ends the one before; what no move explains has no beginning.
    """
    model = known_model(client, model_name)
    made, production = confirmed_moves(client, model), alias_of(model, PRODUCTION)
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
