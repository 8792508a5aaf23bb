"""One holder at a time of a registered model's aliases; a dead one stops nobody for long."""

import threading
import time

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from kd_mlflow.errors import RegistryError, StoreError
from kd_mlflow.registry import lock
from kd_mlflow.registry.lock import lock_name, locked

NAME = "kd-student"


@pytest.fixture
def client(store, monkeypatch):
    """A registry with one registered model; leases of half a second."""
    for name, value in (("LEASE_S", 0.5), ("SAFETY_S", 0.1), ("POLL_S", 0.02)):
        monkeypatch.setattr(lock, name, value)
    found = MlflowClient()
    found.create_registered_model(NAME)
    return found


def locks(client):
    """Names of the locks that are there."""
    return [model.name for model in client.search_registered_models() if model.name != NAME]


def test_a_lock_is_there_for_its_block_alone(client):
    """It is a registered model that says whose it is, and goes when the block ends or raises."""
    with locked(client, NAME) as lease:
        assert locks(client) == [lease.name] == [lock_name(NAME, 1)]
        assert "is being moved by" in client.get_registered_model(lease.name).description
    assert not locks(client)
    with pytest.raises(ZeroDivisionError), locked(client, NAME):
        raise ZeroDivisionError
    assert not locks(client)


def test_numbers_grow(client):
    """No lock's name is used twice: what is deleted is never another's."""
    numbers = []
    for _ in range(3):
        with locked(client, NAME) as lease:
            numbers.append(lease.number)
    assert numbers == [1, 2, 3]


@pytest.mark.slow
def test_the_second_waits_for_the_first(client, monkeypatch):
    """Two threads are never inside at once."""
    monkeypatch.setattr(lock, "LEASE_S", 60)
    inside, most, taken = [], [], []

    def work():
        with locked(client, NAME) as lease:
            inside.append(lease.number)
            most.append(len(inside))
            time.sleep(0.1)
            inside.remove(lease.number)
            taken.append(lease.number)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
    assert len(set(taken)) == 3


@pytest.mark.slow
def test_a_dead_holder_is_succeeded_once_its_lease_is_over(client):
    """Its lock stays; who has watched it for a lease takes the next number, and deletes it."""
    client.create_registered_model(lock_name(NAME, 1), tags={lock.KIND: "lock"})
    client.set_registered_model_tag(NAME, lock.NUMBER, "1")
    start = time.monotonic()
    with locked(client, NAME) as lease:
        assert time.monotonic() - start >= 0.5
        assert lease.number == 2
    assert not locks(client)


@pytest.mark.slow
def test_a_holder_that_is_late_stops_itself(client):
    """It asks before each write, and writes nothing near the end of its lease."""
    with locked(client, NAME) as lease:
        lease.check()
        time.sleep(0.45)
        with pytest.raises(RegistryError, match="too slow"):
            lease.check()


def test_a_holder_whose_lock_was_taken_stops_itself(client):
    """A lock that another has cleared is no longer held."""
    with locked(client, NAME) as lease:
        client.delete_registered_model(lease.name)
        with pytest.raises(RegistryError, match="is over"):
            lease.check()


@pytest.mark.slow
def test_waiting_has_an_end(client, monkeypatch):
    """A lock that others hold for too long is one clear line."""
    monkeypatch.setattr(lock, "WAIT_S", 0.3)
    monkeypatch.setattr(lock, "LEASE_S", 60)
    client.create_registered_model(lock_name(NAME, 1), tags={lock.KIND: "lock"})
    with pytest.raises(RegistryError, match="is being moved by others"), locked(client, NAME):
        pass


def test_a_lock_whose_answer_was_lost_is_held(client, monkeypatch):
    """Who made it knows it by its nonce, and does not wait for itself."""
    make = MlflowClient.create_registered_model

    def lose(*given, **named):
        make(*given, **named)
        return make(*given, **named)  # as MLflow's client tries again, and finds its own

    monkeypatch.setattr(MlflowClient, "create_registered_model", lose)
    monkeypatch.setattr(lock, "LEASE_S", 60)
    with locked(client, NAME) as lease:
        assert lease.number == 1
        lease.check()


def test_who_waits_asks_ever_less_often(client, monkeypatch):
    """Pauses grow, up to the longest."""
    pauses = []
    client.create_registered_model(lock_name(NAME, 1), tags={lock.KIND: "lock"})

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 20:
            client.delete_registered_model(lock_name(NAME, 1))

    monkeypatch.setattr(lock.time, "sleep", sleep)
    monkeypatch.setattr(lock, "LEASE_S", 60)
    with locked(client, NAME):
        pass
    assert pauses[0] <= lock.POLL_S
    assert lock.LONGEST_POLL_S / 2 <= pauses[-1] <= lock.LONGEST_POLL_S


def test_who_may_make_no_registered_models_gets_the_stores_words(client, monkeypatch):
    """The lock cannot be made, which is an error and no endless wait."""

    def refuse(*given, **named):
        raise MlflowException("no permission", error_code=7)  # PERMISSION_DENIED

    monkeypatch.setattr(MlflowClient, "create_registered_model", refuse)
    with pytest.raises(StoreError, match="no permission"), locked(client, NAME):
        pass
