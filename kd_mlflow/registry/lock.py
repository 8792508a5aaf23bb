"""One holder at a time of a registered model's aliases, among all processes of this package.

MLflow has no lock and no compare-and-set. It has one atomic operation: making a registered model of
a given name fails where there is one. A lock is such a model, made for the second that aliases move
and deleted after, since a deleted experiment would stay in the database for ever.

Names carry a number that grows with every lock and stands in a tag of the model that is locked: no
name is used twice, so that deleting one's own never deletes another's. Who waits for a holder that
has died takes the next number, once it has seen the same lock for ``LEASE_S`` by its own clock;
clocks of different machines are never compared.
"""

from __future__ import annotations

import getpass
import hashlib
import logging
import os
import random
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

from kd_mlflow.errors import RegistryError, listed
from kd_mlflow.registry.records import NUMBER as SHORT
from kd_mlflow.registry.records import RECORD, every_version
from kd_mlflow.tracking.failures import (
    ABSENT,
    FAILURES,
    PATIENCE_S,
    absent_ok,
    impatient,
    store_error,
)

LEASE_S = 30.0
"""How long a lock is respected after it was first seen; its holder stops well before."""

SAFETY_S = 10.0
"""A holder writes nothing in the last seconds of its lease: a request may take some."""

WAIT_S = 300.0
"""How long to wait for a lock, at most."""

POLL_S = 0.1
LONGEST_POLL_S = 2.0
"""Waiting begins with the first and grows to the second: many who wait ask too much."""

NUMBER = "kd.lock"
"""Tag of a registered model: the number of its newest lock, which is that of its newest move."""

KIND = "kd.kind"

NONCE = "kd.nonce"
"""Tag of a lock: who made it knows it by this where the answer to making it was lost."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lease:
    """A lock that is held: its number, and when it was made by this process's clock."""

    client: MlflowClient
    name: str
    number: int
    since: float
    nonce: str

    def check(self) -> None:
        """Raise RegistryError where the lock is no longer surely held: ask before each write."""
        late = time.monotonic() - self.since > LEASE_S - SAFETY_S
        if late or not _is_ours(self.client, self.name, self.nonce):
            raise RegistryError(
                f"the registry was too slow: the lock {self.name!r} is over after {LEASE_S:g} "
                "seconds; what is half done is settled by the next promote, rollback or history"
            )


@contextmanager
def locked(client: MlflowClient, model_name: str) -> Iterator[Lease]:
    """Hold the lock of a registered model; RegistryError where others hold it for too long."""
    with impatient(retries=1, timeout_s=PATIENCE_S):
        lease = _acquire(client, model_name)
        try:
            yield lease
        finally:
            _delete(client, lease.name)  # a lock that stays is taken over


def is_locked(client: MlflowClient, model_name: str) -> bool:
    """Whether somebody, alive or dead, holds the lock of a registered model."""
    _, holder = _newest_lock(client, model_name, _last_number(client, model_name))
    return holder is not None


def find_model(client: MlflowClient, name: str) -> RegisteredModel | None:
    """The registered model of a name, if there is one."""
    return absent_ok(lambda: client.get_registered_model(name))


def known_model(client: MlflowClient, name: str) -> RegisteredModel:
    """The registered model of a name.  Raises RegistryError where there is none; names others."""
    model = find_model(client, name)
    if model is None:
        known = known_models(client)
        raise RegistryError(
            f"no registered model {name!r}; the registry has: "
            f"{f'{listed(known)}: give model_name' if known else 'none; distil a student first'}"
        )
    return model


def alias_of(model: RegisteredModel, alias: str) -> str | None:
    """The version that an alias of a registered model points to, if it is set."""
    number = model.aliases.get(alias)
    return None if number is None else str(number)


def known_models(client: MlflowClient) -> list[str]:
    """Names of the registered models; a lock is none."""
    found = client.search_registered_models()
    return [model.name for model in found if model.tags.get(KIND) != "lock"]


def lock_name(model_name: str, number: int) -> str:
    """The registered model that is a lock: its first words are the name that it locks."""
    digest = hashlib.sha256(model_name.encode()).hexdigest()[:8]
    return f"{model_name[:200]}.lock-{digest}-{number}"


def _acquire(client: MlflowClient, model_name: str) -> Lease:
    """Take the next number, when nobody holds the newest one or who does has outlived its lease."""
    deadline, seen, since = time.monotonic() + WAIT_S, "", time.monotonic()
    pause = POLL_S
    while time.monotonic() < deadline:
        last = _last_number(client, model_name)
        newest, holder = _newest_lock(client, model_name, last)
        if holder is not None and (mark := f"{newest} {holder.creation_timestamp}") != seen:
            seen, since = mark, time.monotonic()
        if holder is None or time.monotonic() - since > LEASE_S:
            lease = _take(client, model_name, newest + 1)
            if lease is not None:
                if holder is not None:  # delete what the dead have left
                    for number in range(max(1, last - 1), newest + 1):
                        _delete(client, lock_name(model_name, number))
                return lease
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(1.5 * pause, LONGEST_POLL_S)
    raise RegistryError(
        f"{model_name!r} is being moved by others since {WAIT_S:g} seconds; try again"
    )


def _last_number(client: MlflowClient, model_name: str) -> int:
    text = str(known_model(client, model_name).tags.get(NUMBER, 0))
    if SHORT.fullmatch(text):
        return int(text)
    _warn(f"{model_name}: the tag {NUMBER} is {text[:40]!r}, no number, and is passed over")
    keys = [key for version in every_version(client, model_name) for key in version.tags]
    used = [key.removeprefix(RECORD) for key in keys if key.startswith(RECORD)]
    return max((int(number) for number in used if SHORT.fullmatch(number)), default=0)


@cache  # once, however often it is asked
def _warn(text: str) -> None:
    _log.warning(text)


def _newest_lock(
    client: MlflowClient, model_name: str, last: int
) -> tuple[int, RegisteredModel | None]:
    """The number of the newest lock, ``last`` or more, and the lock itself where it is held."""
    number, holder = last, find_model(client, lock_name(model_name, last)) if last else None
    while (found := find_model(client, lock_name(model_name, number + 1))) is not None:
        number, holder = number + 1, found
    return number, holder


def _take(client: MlflowClient, model_name: str, number: int) -> Lease | None:
    """Make the lock of a number; None where another was faster, or the number was used already."""
    name, since, nonce = lock_name(model_name, number), time.monotonic(), uuid.uuid4().hex
    owner = f"{getpass.getuser()} on {socket.gethostname()}, process {os.getpid()}"
    about = f"{model_name} is being moved by {owner}. This lock goes by itself."
    try:
        client.create_registered_model(name, tags={KIND: "lock", NONCE: nonce}, description=about)
    except MlflowException as error:
        if error.error_code not in (*ABSENT, "RESOURCE_ALREADY_EXISTS"):
            raise store_error(error) from None
        if not _is_ours(client, name, nonce):  # another's, or just deleted
            return None
    try:
        if _last_number(client, model_name) < number:
            client.set_registered_model_tag(model_name, NUMBER, str(number))
            return Lease(client, name, number, since, nonce)
    except BaseException:
        _delete(client, name)
        raise
    _delete(client, name)
    return None


def _is_ours(client: MlflowClient, name: str, nonce: str) -> bool:
    """Whether a lock is there, and the one that was made with this nonce."""
    found = find_model(client, name)
    return found is not None and found.tags.get(NONCE) == nonce


def _delete(client: MlflowClient, name: str) -> None:
    with suppress(*FAILURES):
        client.delete_registered_model(name)
