"""Delivers to a store what processes kept back while it was away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import mlflow
from mlflow import MlflowClient
from mlflow.entities import RunStatus

from kd_mlflow.errors import StoreError
from kd_mlflow.tracking.operations import perform
from kd_mlflow.tracking.outbox import Answer, Outbox, left_behind, taken
from kd_mlflow.tracking.store import (
    absent_ok,
    answered,
    answers,
    check_stores,
    impatient,
    masked,
    passing,
    store_error,
    without_links,
)


@dataclass(frozen=True)
class Delivery:
    """What became of what one process kept: so many requests made, and why others were refused.

    ``busy``: the process is running still and delivers it itself.
    """

    name: str
    delivered: int = 0
    refused: tuple[str, ...] = ()
    busy: bool = False


def deliver() -> Iterator[Delivery]:
    """Deliver all that was kept for the store in use, oldest first; each request once.

    Raises StoreError where the store is away, or something was kept for another one.
    """
    outboxes = left_behind()
    if not outboxes:
        return
    check_stores()
    for outbox in outboxes:
        with taken(outbox) as ours:
            if not ours:
                yield Delivery(outbox.folder.name, busy=True)
                continue
            if outbox.store != (here := masked(mlflow.get_tracking_uri())):
                raise StoreError(
                    f"{outbox.folder.name} was kept for {outbox.store}, not for {here}; "
                    "set MLFLOW_TRACKING_URI"
                )
            yield _deliver(outbox, MlflowClient())


def _deliver(outbox: Outbox, client: MlflowClient) -> Delivery:
    entries = outbox.entries()
    known = {e.operation.id: a.made for e, a in entries if e.operation.id and a and a.made}
    delivered, refused = 0, []
    for (number, operation), before in entries:
        if before and not before.refused:
            continue
        try:
            with impatient():
                made = perform(client, operation.with_ids(known), again=True)
        except Exception as error:
            if passing(error) and not (answered(error) and answers()):
                raise store_error(error) from None
            refused.append(str(store_error(error)))
            outbox.answer(number, Answer(refused=refused[-1]))
            continue
        known |= {operation.id: made} if operation.id else {}
        outbox.answer(number, Answer(made=made))
        delivered += 1
    _end_open_runs(outbox, known, client)
    if not refused:
        outbox.remove()
    return Delivery(outbox.folder.name, delivered, tuple(refused))


def _end_open_runs(outbox: Outbox, known: dict[str, str], client: MlflowClient) -> None:
    """End as KILLED what a process that died did not end."""
    operations = [entry.operation.with_ids(known) for entry, _ in outbox.entries()]
    ended = {o.arguments["run"] for o in operations if o.name == "end"}
    opened = {known[o.id] for o in operations if o.name == "open_run" and o.id in known}
    for run_id in sorted((outbox.runs | opened) - ended):
        run = absent_ok(partial(client.get_run, run_id))
        if run and run.info.status == RunStatus.to_string(RunStatus.RUNNING):
            with without_links():
                client.set_terminated(run_id, status="KILLED")
