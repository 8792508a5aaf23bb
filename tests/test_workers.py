"""A Dask cluster of real processes: the same figures, also when it loses a worker half-way."""

import os
import signal
import socket
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread

import distributed
import numpy as np
import pytest
import torch
from conftest import ROOT
from forks import Forked

from kd_mlflow.config.entry_points import TeachersConfig
from kd_mlflow.distillation.inputs import TeacherInputs
from kd_mlflow.distillation.teachers import teacher_trainings
from kd_mlflow.errors import ClusterError
from kd_mlflow.population.workers import Workers
from kd_mlflow.table.dataset import read_dataset

CONFIG = TeachersConfig(
    n_teachers=4, teacher_hidden=(32, 16), teacher_families="mlp", teacher_bins=0
).resolved(3600)


def task(epochs):
    """A short training of four teachers on the reference data."""
    config = replace(CONFIG, teacher_epochs=epochs)
    dataset = read_dataset(config)
    (training,) = teacher_trainings(TeacherInputs(config=config, dataset=dataset))
    return training.task


@contextmanager
def dask_process(*arguments):
    """A process of Dask's command line, stopped by its pid."""
    words = ("dask", *arguments, "--no-dashboard")
    process = Forked(*words, folder=ROOT, env=os.environ, log=Path(os.devnull))
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def scheduler():
    """The address of a scheduler without workers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with dask_process("scheduler", "--host", "127.0.0.1", "--port", str(port)):
        yield f"tcp://127.0.0.1:{port}"


@contextmanager
def workers(scheduler, count):
    """Worker processes of one thread, without a nanny that would start them again."""
    options = ("--nthreads", "1", "--no-nanny", "--host", "127.0.0.1")
    with ExitStack() as stack:
        started = [
            stack.enter_context(dask_process("worker", scheduler, *options)) for _ in range(count)
        ]
        with distributed.Client(scheduler, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=60)
        yield started


def assert_same_training(mine, theirs):
    """Compare two trained populations and their curves, bit for bit."""
    (population, curves), (other, others) = mine, theirs
    for a, b in zip(population.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    for name, values in curves.items():
        np.testing.assert_allclose(values, others[name], rtol=1e-6)


def fitted(training, **options):
    """Train; return the population and the curves."""
    history = training.fit(**options)
    return training.population, history


@pytest.mark.slow
def test_a_cluster_gives_the_same_weights_and_tells_every_epoch(scheduler):
    """Two worker processes over TCP train to the same bits, and the listener hears all epochs."""
    heard = []
    here = fitted(task(3))
    with workers(scheduler, 2):
        there = fitted(
            task(3),
            workers=Workers(dask_scheduler=scheduler),
            on_epoch=lambda members, epoch, values: heard.append((members.start, epoch)),
        )
    assert_same_training(here, there)
    assert sorted(heard) == [(start, epoch) for start in (0, 2) for epoch in (1, 2, 3)]


@pytest.fixture(scope="module")
def undisturbed():
    """A training that is long enough to be disturbed, and was not."""
    return fitted(task(40))


@pytest.mark.slow
def test_a_worker_killed_half_way_changes_nothing(scheduler, undisturbed):
    """One of two workers dies while both train: its chunk is trained again, to the same bits."""
    with workers(scheduler, 2) as processes, distributed.Client(scheduler) as client:
        killed = []

        def kill_a_busy_worker():
            while sum(map(len, client.processing().values())) < 2:
                time.sleep(0.01)
            time.sleep(0.5)
            killed.append(sum(map(len, client.processing().values())))
            os.kill(processes[0].pid, signal.SIGKILL)

        killer = Thread(target=kill_a_busy_worker)
        killer.start()
        there = fitted(task(40), workers=Workers(dask_scheduler=scheduler))
        killer.join()
        assert processes[0].wait(20) == -signal.SIGKILL
    assert killed == [2]
    assert_same_training(undisturbed, there)


@pytest.mark.slow
def test_the_only_worker_killed_changes_nothing_once_another_comes(scheduler, undisturbed):
    """With the last worker the rows are lost too: the next one gets them again."""
    with ExitStack() as stack:
        (only,) = stack.enter_context(workers(scheduler, 1))
        client = stack.enter_context(distributed.Client(scheduler))

        def replace_it_once_busy():
            while not any(client.processing().values()):
                time.sleep(0.01)
            os.kill(only.pid, signal.SIGKILL)
            stack.enter_context(workers(scheduler, 1))

        replacement = Thread(target=replace_it_once_busy)
        replacement.start()
        there = fitted(task(40), workers=Workers(dask_scheduler=scheduler))
        replacement.join()
        assert only.wait(20) == -signal.SIGKILL
    assert_same_training(undisturbed, there)


@pytest.mark.slow
def test_an_address_where_nothing_listens_is_an_error(monkeypatch):
    """A scheduler that does not answer is one clear line and exit code 1."""
    monkeypatch.setattr("kd_mlflow.population.workers.CONNECT_S", 0.2)
    with pytest.raises(ClusterError, match=r"address of a running scheduler.*'tcp://127.0.0.1:9'"):
        task(1).fit(Workers(dask_scheduler="tcp://127.0.0.1:9"))


def test_a_word_for_an_address_is_an_error(monkeypatch):
    """What is no address at all is refused likewise."""
    monkeypatch.setattr("kd_mlflow.population.workers.CONNECT_S", 0.2)
    with pytest.raises(ClusterError, match="address of a running scheduler"):
        task(1).fit(Workers(dask_scheduler="nowhere"))


@pytest.mark.slow
def test_a_cluster_without_workers_is_an_error(monkeypatch, scheduler):
    """A scheduler that nobody works for is told apart from one that does not answer."""
    monkeypatch.setattr("kd_mlflow.population.workers.CONNECT_S", 1)
    with pytest.raises(ClusterError, match="no worker after 1 s; start one with dask worker"):
        task(1).fit(Workers(dask_scheduler=scheduler))


def test_without_dask_the_extra_is_named(monkeypatch):
    """Where Dask is not installed the error says how to install it."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match=r"kd_mlflow\[dask\]"):
        task(1).fit(Workers(dask_scheduler="tcp://127.0.0.1:9"))
