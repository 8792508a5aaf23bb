"""Requests wait for a store that does not answer, as long as they should, and are made once."""

import threading
import time

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED, UNAUTHENTICATED

from kd_mlflow.errors import StoreError
from kd_mlflow.tracking import failures
from kd_mlflow.tracking.failures import DOUBLINGS, PAUSE_S, Patience


class Clock:
    """A clock that stands still but for pauses."""

    def __init__(self):
        self.shown, self.pauses = 0.0, []

    def now(self):
        return self.shown

    def pause(self, seconds):
        self.pauses.append(seconds)
        self.shown += seconds


class Store:
    """A store that fails so many times; what was asked of it."""

    def __init__(self, failures, error=None):
        self.failures, self.error, self.asked = failures, error or OSError("no way"), 0

    def ask(self):
        self.asked += 1
        if self.asked <= self.failures:
            raise self.error
        return "made"


@pytest.fixture
def clock():
    """The time of a test."""
    return Clock()


def patient(clock, seconds=900.0):
    """Patience by a test's clock."""
    return Patience(seconds, now=clock.now, pause=clock.pause)


def test_pauses_grow_to_a_bound(clock):
    """The pause between two tries doubles up to a quarter of a minute; then all goes on."""
    assert patient(clock).make(Store(8).ask) == "made"
    assert clock.pauses == [0.5, 1, 2, 4, 8, 16, 16, 16]
    assert PAUSE_S * 2**DOUBLINGS == 16


@pytest.mark.parametrize("seconds", [0, 3, 900])
def test_patience_ends(clock, seconds, caplog):
    """After so many seconds and a last try StoreError says why and how long; one warning before."""
    store = Store(10**6)
    with pytest.raises(StoreError, match=rf"no way.* waited {seconds} seconds"):
        patient(clock, seconds).make(store.ask)
    assert clock.shown == seconds
    assert store.asked == len(clock.pauses) + 1
    assert len(caplog.records) == (seconds > 0)


def test_what_is_over_is_over_for_all(clock):
    """Once a request has waited in vain no other is made."""
    tired, store = patient(clock, 3), Store(0)
    with pytest.raises(StoreError):
        tired.make(Store(99).ask)
    with pytest.raises(StoreError, match="waited 3 seconds"):
        tired.make(store.ask)
    assert store.asked == 0


@pytest.mark.parametrize("code", [PERMISSION_DENIED, INVALID_PARAMETER_VALUE])
def test_what_is_refused_for_good_waits_for_nothing(clock, code):
    """A user without the permission, or a wrong request, is one line at the first try."""
    store = Store(1, MlflowException("no", error_code=code))
    with pytest.raises(StoreError, match="no"):
        patient(clock).make(store.ask)
    assert clock.pauses == []


def test_a_login_that_has_expired_may_come_back(clock):
    """Who is not let in waits: somebody may renew the login."""
    store = Store(2, MlflowException("who?", error_code=UNAUTHENTICATED))
    assert patient(clock).make(store.ask) == "made"


def test_what_was_made_is_not_made_again(clock):
    """Where an answer was lost, what the request has made is found; before it nothing is sought."""
    store, sought = Store(1), []

    def find():
        sought.append(store.asked)
        return "found"

    assert patient(clock).make(store.ask, find=find) == "found"
    assert (store.asked, sought) == (1, [1])


@pytest.mark.parametrize(
    ("error", "seconds"), [(ValueError(), 10), (StoreError("x"), 0), (SystemExit(), 0)]
)
def test_a_command_that_fails_waits_no_longer_than_it_must(clock, error, seconds):
    """Its runs are ended within ten seconds; at the first try where the store or a user ends it."""
    hurried = patient(clock)
    hurried.hurry(error)
    with pytest.raises(StoreError, match=f"waited {seconds} seconds"):
        hurried.make(Store(99).ask)


def test_who_waits_in_another_thread_is_woken(monkeypatch):
    """Hurry ends a pause that would last for minutes."""
    monkeypatch.setattr(failures, "PAUSE_S", 600)
    waiting, store, raised = Patience(900), Store(99), []

    def work():
        try:
            waiting.make(store.ask)
        except StoreError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not waiting.away:
        time.sleep(0.01)
    waiting.hurry(KeyboardInterrupt())
    thread.join(5)
    assert len(raised) == 1
    assert store.asked == 2
