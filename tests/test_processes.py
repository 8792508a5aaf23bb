"""Processes that train small networks: the same bits, heard and stopped as threads are."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from conftest import ROOT

from kd_mlflow.errors import TrainingError
from kd_mlflow.population.checkpoints import NOWHERE, Checkpoints
from kd_mlflow.population.losses import DistillationLoss
from kd_mlflow.population.network import Population
from kd_mlflow.population.sampling import Inputs, Sampling
from kd_mlflow.population.training import Rows, Schedule, Task
from kd_mlflow.population.workers import Workers

pytestmark = pytest.mark.slow

N, SEEDS = 90, (1, 2, 3, 4)
GENERATOR = torch.Generator().manual_seed(3)
X, VAL_X = torch.randn(N, 4, generator=GENERATOR), torch.randn(30, 4, generator=GENERATOR)
LABELS = torch.randint(3, (N,), generator=GENERATOR)


class Deadly(DistillationLoss):
    """A loss whose process is killed, as by a machine without memory."""

    def __call__(self, logits, rows, weight):
        if os.getpid() != int(os.environ["TRAINER"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(logits, rows, weight)


def task(epochs=5, loss=DistillationLoss):
    """A short training of two kinds of members."""
    schedule = Schedule(epochs=epochs, batch_size=16, learning_rate=0.02, weight_decay=0.0)
    muon = Schedule(
        epochs=epochs, batch_size=16, learning_rate=0.02, weight_decay=0.0, optimizer="muon"
    )
    return Task(
        population=Population.initialised((4, 16, 8, 3), seeds=SEEDS, dropout=0.2),
        rows=Rows(train=Inputs(X), val=Inputs(VAL_X)),
        loss=loss(
            torch.zeros(N, 3), LABELS, temperature=torch.ones(4), alpha=torch.tensor([0.0] * 4)
        ),
        schedule=(schedule, schedule, schedule, muon),
        seeds=SEEDS,
        sampling=Sampling.whole(N, 4),
        evaluate=lambda logits: {"val_mean": logits.mean(dim=(1, 2))},
    )


@pytest.fixture(autouse=True)
def worth_it(monkeypatch):
    """The smallest training is worth two processes."""
    monkeypatch.setattr("kd_mlflow.population.workers.PROCESS_WORK", 1)
    monkeypatch.setenv("TRAINER", str(os.getpid()))


def fitted(workers, checkpoints=NOWHERE, **parts):
    """Train; the weights, the curves, and the epochs that the listener heard."""
    own, heard = task(**parts), []
    curves = own.fit(
        Workers(count=workers),
        lambda members, epoch, values: heard.append((members.start, epoch, *values["train_loss"])),
        checkpoints,
    )
    return [p.detach().numpy() for p in own.population.parameters()], curves, heard


def test_processes_give_the_same_bits_and_every_epoch_is_heard(tmp_path):
    """Weights and curves are those of one thread; each chunk's epochs come in their order."""
    (mine, curves, _), (theirs, others, heard) = fitted(1), fitted(2, Checkpoints(tmp_path))
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    for name, values in curves.items():
        np.testing.assert_allclose(values, others[name], rtol=1e-6)
    by_chunk = {start: [e for first, e, *_ in heard if first == start] for start, *_ in heard}
    assert list(by_chunk.values()) == [[1, 2, 3, 4, 5]] * len(by_chunk)
    assert len(by_chunk) > 2
    assert sum(len(losses) for _, epoch, *losses in heard if epoch == 5) == 4
    assert len(list(tmp_path.glob("members-*.npz"))) == len(by_chunk)


def test_a_listener_that_fails_stops_them_and_loses_nothing(tmp_path):
    """Each process keeps what it has reached; the next training goes on from there."""
    checkpoints = Checkpoints(tmp_path, every_s=1000)

    def broken(members, epoch, values):
        if epoch == 3:
            raise KeyError("store")

    with pytest.raises(KeyError, match="store"):
        task(epochs=2000).fit(Workers(count=2), broken, checkpoints)
    found = checkpoints.owned_by(**task(epochs=2000)._description()).found(4)
    reached = [snapshot.reached for snapshot in found if snapshot]
    assert reached
    assert all(not done and epochs < 2000 for done, epochs, _ in reached)
    assert max(epochs for _, epochs, _ in reached) > 2


def test_a_killed_process_is_one_clear_line():
    """Where memory is short the kernel kills: the line says what helps."""
    with pytest.raises(TrainingError, match=r"was killed.*workers=1"):
        fitted(2, loss=Deadly)
    assert fitted(2)[2]  # the next training has processes again


def test_a_machine_without_semaphores_trains_in_threads(monkeypatch):
    """Where no process can be had, the same training is made here."""

    def none(count):
        raise OSError(38, "Function not implemented")

    mine = fitted(1)[0]
    monkeypatch.setattr("kd_mlflow.population.workers.opened", none)
    task().warm(Workers(count=2))
    for one, other in zip(mine, fitted(2)[0], strict=True):
        np.testing.assert_array_equal(one, other)


SCRIPT = """
import signal
import kd_mlflow as kd
import kd_mlflow.population.workers as workers
workers.PROCESS_WORK = 1
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
print("begun", flush=True)
kd.fit_ensemble(kd_rows, target="y", workers=2, teacher_families="mlp", n_teachers=4,
    teacher_epochs=EPOCHS, teacher_patience=0)
print("ended", flush=True)
"""


def script(folder, epochs):
    """A user's script that trains, without a guard of its main part."""
    rows = "import pandas as pd, numpy as np\nx = np.random.default_rng(0).normal(size=300)\n"
    rows += "kd_rows = pd.DataFrame({'x': x, 'z': x[::-1], 'y': np.arange(300) % 2})\n"
    path = Path(folder) / "script.py"
    path.write_text(rows + SCRIPT.replace("EPOCHS", str(epochs)), encoding="utf-8")
    return [sys.executable, str(path)]


def until(condition):
    """Wait for something for a minute at most."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}


def test_a_plain_script_trains_once(tmp_path):
    """A script without ``if __name__ ...`` runs once, says nothing more, and leaves no process."""
    marked = ENVIRONMENT | {"STARTED_BY": str(tmp_path)}
    done = subprocess.run(
        script(tmp_path, 2),
        env=marked,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("begun\nended\n", "")
    own = [each for each in psutil.process_iter(["environ"]) if each.info["environ"]]
    left = [each for each in own if each.info["environ"].get("STARTED_BY") == str(tmp_path)]
    assert not psutil.wait_procs(left, timeout=10)[1]


def test_rows_that_are_too_many_to_be_sent_stay_here(monkeypatch):
    """Processes are no gain where each chunk is sent hundreds of megabytes."""
    monkeypatch.setattr("kd_mlflow.population.training.SENT_BYTES", X.nbytes - 1)
    monkeypatch.setattr("kd_mlflow.population.workers.opened", None)  # nobody asks for one
    for one, other in zip(fitted(1)[0], fitted(2)[0], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_its_trainer(tmp_path, number):
    """Interrupted at the terminal or killed: those that train for it end within seconds."""
    with subprocess.Popen(
        script(tmp_path, 100_000),
        env=ENVIRONMENT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as trainer:
        try:
            until(lambda: len(psutil.Process(trainer.pid).children()) > 2)  # and one that tidies up
            own = psutil.Process(trainer.pid).children()
            until(lambda: sum(each.cpu_times().user for each in own) > 5)  # they train
            if number == signal.SIGINT:
                os.killpg(trainer.pid, number)  # as a terminal does
            else:
                trainer.kill()
            assert not psutil.wait_procs(own, timeout=60)[1]
        finally:  # or a failure would wait for it for ever
            trainer.kill()
        said = trainer.stderr.read()
    assert said.count("Traceback") == (1 if number == signal.SIGINT else 0), said
