"""Decisions about production: a version gated and promoted, a way back, who was there when."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from kd_mlflow.config.entry_points import PromoteConfig, RollbackConfig
from kd_mlflow.distillation.identity import fingerprint
from kd_mlflow.errors import RegistryError, RunError, StoreError, first_line
from kd_mlflow.evaluation.gate import verdict
from kd_mlflow.local_state import held, remove_dead, state_folder
from kd_mlflow.models.processes import CleanProcess
from kd_mlflow.registry import moves, versions
from kd_mlflow.registry.lock import alias_of, known_model
from kd_mlflow.registry.moves import periods
from kd_mlflow.registry.records import GATE, PROMOTE, ROLLBACK, cut
from kd_mlflow.report import notes
from kd_mlflow.report.command_results import History, Rollback
from kd_mlflow.report.decision import Decision, decision_page
from kd_mlflow.steps.examine import Candidate, Submitted, ask_gate, examine, identity_of
from kd_mlflow.steps.work import REPORT, page_of
from kd_mlflow.table.dataset import Dataset
from kd_mlflow.tracking.failures import FAILURES, masked
from kd_mlflow.tracking.open_run import TrackedRun
from kd_mlflow.tracking.provenance import data_set_input
from kd_mlflow.tracking.runs import Run, Tracker

_log = logging.getLogger(__name__)

ROUNDS = 50
"""How often the gate is asked anew where others move production meanwhile."""


def promote_step(
    config: PromoteConfig,
    submitted: Submitted,
    tracker: Tracker,
    parent: TrackedRun | None = None,
    *,
    clean: CleanProcess,
) -> Decision:
    """Gate a version on the test rows of the table that it was trained on.

    The version is scored in the clean process. Raises RegistryError, and moves nothing, where an
    artifact or what is in production cannot be had or does not score.
    """
    if config.dry_run:
        candidate = examine(config, submitted, tracker, clean=clean)
        return answered(config, candidate, tracker, moves_it=False)[0]
    number = str(submitted.version.version)
    with decision_run(tracker, "promotion", f"promotion v{number}", parent) as run:
        _describe(run, config, submitted)
        candidate = examine(config, submitted, tracker, clean=clean)
        for _ in range(ROUNDS):
            decision, standing = answered(config, candidate, tracker, moves_it=True)
            _record(run, decision, standing, tracker, candidate.digest)
            if not decision.passed:
                break
            given = {"reason": decision.reason, "run_id": run.id, "digest": candidate.digest}
            move = moves.new_move(PROMOTE, standing, decision.version, **given)
            if moves.make(tracker.client, decision.model_name, move) is None:
                break  # else others moved production since it was seen
        else:
            raise RegistryError(
                f"production of {config.model_name!r} was moved by others {ROUNDS} times while the "
                "gate was asked; nothing was moved: try again"
            )
        _conclude(tracker, run, decision, submitted)
    return replace(decision, page=page_of(tracker, run))


def answered(
    config: PromoteConfig, candidate: Candidate, tracker: Tracker, *, moves_it: bool
) -> tuple[Decision, str | None]:
    """What the gate answers now, and the version in production; nothing is recorded or moved."""
    checks, standing = ask_gate(config, candidate, tracker)
    passed, reason = verdict(checks)
    name, number = config.model_name, candidate.number
    decision = Decision(
        model_name=name,
        version=number,
        passed=passed,
        promoted=passed and moves_it,
        reason=reason,
        checks=checks,
        replaced=standing if passed else None,
        note=notes.promotion_note(name, number, passed=passed, reason=reason, standing=standing),
    )
    return decision, standing


def _describe(run: TrackedRun, config: PromoteConfig, submitted: Submitted) -> None:
    """Log what every run has, and the version."""
    data, identity = submitted.data, identity_of(submitted.run)
    marks = {
        "fingerprint": fingerprint(identity, config.as_text()),
        "model_version": str(submitted.version.version),
        **identity._asdict(),
    }
    run.log(params=config.as_text(), tags={f"kd.{k}": v for k, v in marks.items()})
    if isinstance(data, Dataset):
        run.data_set(data_set_input(data.table, data.table.digest, data.split))


def _record(
    run: TrackedRun, decision: Decision, standing: str | None, tracker: Tracker, digest: str
) -> None:
    """Log what the gate answered before anything moves: what is moved then has its reason."""
    numbers: dict[str, float] = {}
    for check in decision.checks:
        if check.passed is not None:
            numbers |= {f"gate.{check.name}": float(check.passed), **check.metrics}
    model = known_model(tracker.client, decision.model_name)
    said = {
        GATE: "passed" if decision.passed else "rejected",
        **moves.about(model, standing, digest),
    }
    run.log(metrics=numbers, tags={f"kd.{k}": v for k, v in said.items()})
    document = {
        "model_name": decision.model_name,
        "version": decision.version,
        "in_production": standing,
        "time": moves.now(),
        "passed": decision.passed,
        "reason": decision.reason,
        "checks": [asdict(check) for check in decision.checks],
    }
    page = decision_page(decision, standing).encode()
    run.files({"promotion.json": document, "promotion.md": page})


def _conclude(tracker: Tracker, run: TrackedRun, decision: Decision, submitted: Submitted) -> None:
    """Write a decision where it is looked for: on its run, the version, its card, its report.

    A candidate whose table could not be had stays one: the same command judges it later.
    """
    client, name, number = tracker.client, decision.model_name, decision.version
    answer = "promoted" if decision.promoted else "rejected"
    if not decision.promoted:
        moves.tell(client, name, {number: answer}, reason=decision.reason, run_id=run.id)
        if isinstance(submitted.data, Dataset):
            moves.retire_candidate(client, name, number)
    page = f"#/experiments/{run.experiment_id}/runs/{run.id}"
    said = "" if decision.promoted else notes.rejection_text(decision.reason, page)
    before = client.get_model_version(name, number).description or ""
    if (after := notes.decided_card(before, said)) != before:
        client.update_model_version(name, number, after)
    _say_in_report(tracker, submitted.run, decision)
    run.log(
        tags={"kd.promotion": answer, "kd.promotion_reason": cut(decision.reason)},
        note=decision.note,
    )


def _say_in_report(tracker: Tracker, candidate_run: Run, decision: Decision) -> None:
    """Put the gate's answer on the first screen of the report, where the version's run has one."""
    from kd_mlflow.report.page import with_decision

    run_id = candidate_run.info.run_id
    try:
        report = tracker.download(run_id, REPORT).read_text(encoding="utf-8")
        tracker.opened(candidate_run).files({REPORT: with_decision(report, decision).encode()})
    except RunError:
        return
    except (*FAILURES, StoreError, OSError) as error:  # the decision stands all the same
        _log.warning("the report does not show the decision: %s", masked(first_line(error)))


def rollback_step(config: RollbackConfig, tracker: Tracker) -> Rollback:
    """Move production back, in a run that says why; errors before it need no run."""
    client, model_name = tracker.client, config.model_name
    settle_step(model_name, tracker)
    restored, replaced, digest = versions.find_rollback(client, model_name, config.version)
    found = Rollback(model_name=model_name, restored=restored, replaced=replaced)
    reason = config.reason or "no reason given"
    with decision_run(tracker, "rollback", f"rollback to v{found.restored}") as run:
        model = known_model(client, model_name)
        about = {"model_version": found.restored, **moves.about(model, found.replaced, digest)}
        run.log(params=config.as_text(), tags={f"kd.{k}": v for k, v in about.items()})
        given = {"reason": reason, "run_id": run.id, "digest": digest}
        move = moves.new_move(ROLLBACK, found.replaced, found.restored, **given)
        meanwhile = moves.make(client, model_name, move)
        if meanwhile is not None:
            now = alias_of(meanwhile, moves.PRODUCTION)
            raise RegistryError(
                f"production of {model_name!r} moved meanwhile, from version {found.replaced} to "
                f"{now}; nothing was changed: roll back again if that is meant"
            )
        note = notes.rollback_note(
            model_name, restored=found.restored, replaced=found.replaced, reason=config.reason
        )
        run.log(tags={"kd.promotion": "rolled_back", "kd.promotion_reason": reason}, note=note)
    return found


def settle_step(model_name: str, tracker: Tracker) -> str | None:
    """Finish or undo a move that was left half done; say which, None where there was none."""
    settled = moves.settle(tracker.client, model_name)
    try:
        end_dead(tracker)
    except OSError as error:  # another user's folder
        _log.warning("runs of killed processes are not looked for: %s", error)
    if settled is not None:
        _log.warning("%s: %s", model_name, settled)
    return settled


def history_step(model_name: str, tracker: Tracker) -> History:
    """Read who was in production, once nothing is half done."""
    settled = settle_step(model_name, tracker)
    return History(
        model_name=model_name,
        production=alias_of(known_model(tracker.client, model_name), moves.PRODUCTION),
        periods=periods(tracker.client, model_name),
        settled=settled,
    )


@contextmanager
def decision_run(
    tracker: Tracker, kind: str, name: str, parent: TrackedRun | None = None
) -> Iterator[TrackedRun]:
    """A run of a decision, which this machine can tell from one whose process has died.

    Its tag ``kd.opened`` names a lock that is held as long as the process lives.
    """
    opened = uuid.uuid4().hex
    place = _folder(tracker) / opened
    with ExitStack() as holding:
        try:
            end_dead(tracker)
            holding.enter_context(held(place))
        except OSError as error:
            _log.warning("a run that is killed will stay RUNNING: %s", error)
        with tracker.run(kind, name, parent=parent, opened=opened) as run:
            yield run
        with suppress(OSError):  # another user's folder
            place.with_suffix(".lock").unlink(missing_ok=True)


def end_dead(tracker: Tracker) -> None:
    """End the runs of decisions whose processes died here, as KILLED; their files go too."""
    remove_dead(state_folder("scratch"))
    remove_dead(_folder(tracker), bury=tracker.end_dead)


def _folder(tracker: Tracker) -> Path:
    """Where locks of decisions in this store and experiment lie."""
    return state_folder("decisions") / hashlib.sha256(tracker.place.encode()).hexdigest()[:16]
