"""What tags say of moves of ``production``, believed where the run that asked for it says the same.

Whoever may write tags may write these, and MLflow copies them to other models. A run of a decision
names its registered model, by the time that it was made, the version and what the gate said; on a
server with roles releasers alone make such runs.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import datetime

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion, RegisteredModel

from kd_mlflow.tracking.failures import absent_ok

_log = logging.getLogger(__name__)

INTENTION = "kd.moving"
"""Tag of a registered model while a move is under way: what moves, from where, to where, why."""

RECORD = "kd.production."
"""Tags of a version, one for each time that it came into production; the move's number follows."""

PROMOTE, ROLLBACK = "promote", "rollback"
RUN_KINDS = {PROMOTE: "promotion", ROLLBACK: "rollback"}
"""The kind of the run that asks for a move."""

GATE, REPLACED, MODEL_MADE = "gate", "replaced", "model_made"
"""Tags of such a run, after ``kd.``: what the gate said, which version stood in production (or
``none``), and when its registered model was made, in ms since 1970: a name can be given again."""

FILES = "files_digest"
"""Tag of such a run and of the version, after ``kd.``: SHA-256 of the files that were judged."""

NONE = "none"
REASON_LENGTH = 600

NUMBER = re.compile(r"[0-9]{1,9}")
"""A version's number: more digits are more than a database's integers, which stores refuse
unclearly."""

RUN_ID = re.compile(r"[0-9a-f]{32}")
LONGEST = 5000
NAMED = 3
"""Tags that a warning names one by one."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """One move of ``production``: the versions, why, who and when (UTC), and the run that asked.

    ``digest`` is that of the version's files; early moves have none. ``number`` grows with every
    move of a registered model, 0 until it has one.
    """

    kind: str
    origin: str | None
    version: str
    reason: str
    run_id: str
    by: str
    time: str
    digest: str = ""
    number: int = 0

    @classmethod
    def read(cls, text: str) -> Move:
        """A move as a tag has it.  Raises ValueError for anything else."""
        try:
            move = cls(**dict(json.loads(text if len(text) <= LONGEST else "")))
            texts = [getattr(move, each.name) for each in fields(cls) if each.type == "str"]
            right = (
                all(isinstance(each, str) for each in texts)
                and move.kind in RUN_KINDS
                and NUMBER.fullmatch(move.version)
                and (move.origin is None or NUMBER.fullmatch(move.origin))
                and RUN_ID.fullmatch(move.run_id)
                and type(move.number) is int
                and datetime.fromisoformat(move.time).tzinfo
            )
        except (TypeError, ValueError, RecursionError):
            right = False
        if not right:
            raise ValueError("it cannot be read as a move")
        return move

    def written(self) -> str:
        """The move as a tag has it; short enough for every database."""
        return json.dumps({**asdict(self), "reason": cut(self.reason)}, ensure_ascii=False)


def cut(reason: str) -> str:
    """A reason as tags have it, with a mark where its end is left out."""
    return reason if len(reason) <= REASON_LENGTH else f"{reason[: REASON_LENGTH - 1]}…"


def named(version: ModelVersion) -> str:
    """What a version is called in messages."""
    return f"version {version.version} of {version.name!r}"


def address(version: ModelVersion) -> str:
    """Where MLflow finds a version."""
    return f"models:/{version.name}/{version.version}"


def every_version(client: MlflowClient, model_name: str) -> Iterator[ModelVersion]:
    """Every version of a registered model."""
    token = None
    while True:
        page = client.search_model_versions(
            f"name='{model_name}'", max_results=1000, page_token=token
        )
        yield from page
        if not (token := page.token):
            return


def confirmed_moves(client: MlflowClient, model: RegisteredModel) -> list[Move]:
    """The moves of a registered model that a run confirms, in their order; others are named."""
    found, odd = [], []
    for version in every_version(client, model.name):
        for key in sorted(key for key in version.tags if key.startswith(RECORD)):
            try:
                found.append(_believed(client, model, version, key))
            except ValueError as error:
                odd.append(f"{key} of version {version.version} ({error})")
    if odd:
        more = f" and {len(odd) - NAMED} more" if len(odd) > NAMED else ""
        _log.warning("%s: passed over %s%s", model.name, ", ".join(odd[:NAMED]), more)
    return sorted(found, key=lambda move: move.number)


def _believed(
    client: MlflowClient, model: RegisteredModel, version: ModelVersion, key: str
) -> Move:
    move = Move.read(version.tags[key])
    if (key, str(version.version)) != (record_key(move), move.version):
        raise ValueError("it is another version's")
    confirm(client, model, move)
    return move


def record_key(move: Move) -> str:
    """The tag that a move is recorded in."""
    return f"{RECORD}{move.number:06d}"


def intended(client: MlflowClient, model: RegisteredModel) -> Move:
    """The move under way by a model's tag; ValueError where its run is not about to do it."""
    move = Move.read(model.tags[INTENTION])
    run = confirm(client, model, move)
    if run.data.tags.get(f"kd.{REPLACED}") != (move.origin or NONE):
        raise ValueError(f"its run {move.run_id} replaces another version")
    if run.info.status == "FINISHED":
        raise ValueError(f"its run {move.run_id} has ended")
    return move


def confirm(client: MlflowClient, model: RegisteredModel, move: Move) -> Run:
    """The run that asked for a move.  Raises ValueError where it does not say the same."""
    run = _run(client, move.run_id)
    tags = run.data.tags
    if tags.get("kd.kind") != RUN_KINDS[move.kind] or not _is_of(run, model):
        raise ValueError(f"its run {move.run_id} is of something else")
    if tags.get("kd.model_version") != move.version:
        raise ValueError(f"its run {move.run_id} is of another version")
    if tags.get(f"kd.{FILES}", "") != move.digest:
        raise ValueError(f"its run {move.run_id} is of other files")
    passed = tags.get(f"kd.{GATE}") == "passed" or tags.get("kd.promotion") == "promoted"
    if move.kind == PROMOTE and not passed:
        raise ValueError(f"the gate of its run {move.run_id} was not passed")
    return run


def outcome(client: MlflowClient, version: ModelVersion) -> str | None:
    """What came of a version, ``promoted`` or ``rolled_back``, if a run of its model says so."""
    state, number = version.tags.get("kd.promotion"), str(version.version)
    about = {"promoted": "kd.model_version", "rolled_back": f"kd.{REPLACED}"}.get(state or "")
    if about is None:
        return None
    try:
        run = _run(client, version.tags.get("kd.promotion_run_id", ""))
    except ValueError:
        return None
    ours = _is_of(run, client.get_registered_model(version.name))
    return state if ours and run.data.tags.get(about, number) == number else None


def _is_of(run: Run, model: RegisteredModel) -> bool:
    """Whether a run is of a registered model; runs of before have its name alone."""
    made = run.data.tags.get(f"kd.{MODEL_MADE}")
    if made is None:
        return bool(run.data.params.get("kd.model_name") == model.name)
    return bool(made == str(model.creation_timestamp))


def _run(client: MlflowClient, run_id: str) -> Run:
    run = absent_ok(lambda: client.get_run(run_id)) if RUN_ID.fullmatch(run_id) else None
    if run is None:
        raise ValueError(f"its run {run_id[:40]!r} is not there")
    return run
