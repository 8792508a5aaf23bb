"""Back to a version that was in production before, and who was there when."""

from __future__ import annotations

import logging

from kd_mlflow.config.entry_points import RollbackConfig
from kd_mlflow.errors import RegistryError
from kd_mlflow.registry import moves, versions
from kd_mlflow.registry.history import periods
from kd_mlflow.registry.moves import Settled
from kd_mlflow.registry.records import ROLLBACK
from kd_mlflow.report import notes
from kd_mlflow.report.history_result import History, Rollback
from kd_mlflow.steps.decision_run import decision_run, end_dead
from kd_mlflow.tracking.runs import Tracker

_log = logging.getLogger(__name__)


def rollback_step(config: RollbackConfig, tracker: Tracker) -> Rollback:
    """Move production back, in a run that says why; errors before it need no run."""
    client, model_name = tracker.client, config.model_name
    settle_step(model_name, tracker)
    restored, replaced, digest = versions.find_rollback(client, model_name, config.version)
    found = Rollback(model_name=model_name, restored=restored, replaced=replaced)
    reason = config.reason or "no reason given"
    with decision_run(tracker, "rollback", f"rollback to v{found.restored}") as run:
        model = moves.read_aliases(client, model_name).model
        about = {"model_version": found.restored, **moves.about(model, found.replaced, digest)}
        run.log(params=config.as_text(), tags={f"kd.{k}": v for k, v in about.items()})
        move = moves.new_move(
            ROLLBACK,
            origin=found.replaced,
            version=found.restored,
            reason=reason,
            run_id=run.id,
            digest=digest,
        )
        meanwhile = moves.make(client, model_name, move)
        if meanwhile is not None:
            raise RegistryError(
                f"production of {model_name!r} moved meanwhile, from version {found.replaced} to "
                f"{meanwhile.production}; nothing was changed: roll back again if that is meant"
            )
        note = notes.rollback_note(
            model_name, restored=found.restored, replaced=found.replaced, reason=config.reason
        )
        run.log(tags={"kd.promotion": "rolled_back", "kd.promotion_reason": reason}, note=note)
    return found


def settle_step(model_name: str, tracker: Tracker) -> str | None:
    """Finish or undo a move that was left half done; say which, None where there was none."""
    versions.require_model(tracker.client, model_name)
    settled = moves.settle(tracker.client, model_name)
    try:
        end_dead(tracker)
    except OSError as error:  # another user's folder
        _log.warning("runs of killed processes are not looked for: %s", error)
    if settled is None:
        return None
    said = _settled_text(settled)
    _log.warning("%s: %s", model_name, said)
    return said


def _settled_text(settled: Settled) -> str:
    if (move := settled.move) is None:
        return f"the tag kd.moving told of no move and is gone: {settled.doubt}"
    what = f"a {move.kind} to version {move.version} by {move.by} on {move.time}"
    done = "finished" if settled.finished else "undone: production had not moved"
    return f"{what} was left half done and is {done}"


def history_step(model_name: str, tracker: Tracker) -> History:
    """Read who was in production, once nothing is half done."""
    settled = settle_step(model_name, tracker)
    return History(
        model_name=model_name,
        production=moves.read_aliases(tracker.client, model_name).production,
        periods=periods(tracker.client, model_name),
        settled=settled,
    )
