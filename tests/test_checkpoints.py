"""Trainings that are stopped and taken up again end where they would have ended."""

import json
import logging
import zipfile
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from kd_mlflow.population.checkpoints import NOWHERE, Checkpoints, Snapshot
from kd_mlflow.population.losses import DistillationLoss
from kd_mlflow.population.network import Population
from kd_mlflow.population.sampling import Inputs, RowOrders, Sampling
from kd_mlflow.population.training import Rows, Schedule, Task
from kd_mlflow.population.workers import Workers

N, VAL, SEEDS = 90, 30, (11, 12, 13, 14, 15)
GENERATOR = torch.Generator().manual_seed(3)
X, VAL_X = torch.randn(N, 4, generator=GENERATOR), torch.randn(VAL, 4, generator=GENERATOR)
LABELS = torch.randint(3, (N,), generator=GENERATOR)
ENSEMBLE = torch.randn(N, 3, generator=GENERATOR)
ROWS = np.arange(N, dtype=np.int32)
SCHEDULE = Schedule(epochs=7, batch_size=16, learning_rate=0.02, weight_decay=1e-3, decay="cosine")

WHOLE = Sampling.whole(N, 5)
MIXED = replace(WHOLE, mixup=(0.4, 0.0, 0.4, 0.0, 0.2))
SMALL_POOLS = replace(WHOLE, pools=(ROWS, ROWS[:25], ROWS[:40], ROWS, ROWS), epoch_rows=60)
LEFT_OUT = Sampling.leaving_out(N, [ROWS[i::5] for i in range(5)])

KINDS = {
    "whole": (WHOLE, SCHEDULE),
    "mixup": (MIXED, SCHEDULE),
    "pools": (SMALL_POOLS, SCHEDULE),
    "held out": (LEFT_OUT, replace(SCHEDULE, patience=1, learning_rate=0.2)),
    "own schedules": (WHOLE, (SCHEDULE, *[replace(SCHEDULE, optimizer="muon", batch_size=32)] * 4)),
}
"""Trainings that differ in what they must remember."""


class Killed(BaseException):
    """Ends a training as a killed process would: at any step, without a last word."""


class Mortal:
    """The loss of a training that is killed after so many batches, those judged among them."""

    def __init__(self, loss, batches):
        self.loss, self.left = loss, [batches] if isinstance(batches, int) else batches

    def __call__(self, logits, rows, weight):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise Killed
        return self.loss(logits, rows, weight)

    def members(self, members):
        return Mortal(self.loss.members(members), self.left)


def task(kind, *, batches=10**9, seeds=SEEDS):
    """A training that holds all its kinds of state, which is killed after so many batches."""
    sampling, schedule = KINDS[kind]
    loss = DistillationLoss(
        ENSEMBLE,
        LABELS,
        temperature=torch.tensor([1.0, 2, 3, 4, 5]),
        alpha=torch.tensor([0, 0.3, 0.5, 0.7, 1]),
    )
    return Task(
        population=Population.initialised((4, 16, 8, 3), seeds=seeds, dropout=0.2),
        rows=Rows(train=Inputs(X), val=Inputs(VAL_X)),
        loss=Mortal(loss, batches),
        schedule=schedule,
        seeds=seeds,
        sampling=sampling,
        evaluate=lambda logits: {"val_mean": logits.mean(dim=(1, 2))},
    )


def fitted(kind, checkpoints=NOWHERE, *, workers=1, **parts):
    """Train; the weights, the curves, and every value that the listener heard, in order."""
    heard, own = [], task(kind, **parts)

    def on_epoch(members, epoch, values):
        for i, member in enumerate(range(members.start, members.stop)):
            if not np.isnan(value := values["train_loss"][i]):  # who has ended has none
                heard.append((member, epoch, float(value)))

    curves = own.fit(Workers(count=workers), on_epoch, checkpoints)
    return [p.detach().numpy() for p in own.population.parameters()], curves, heard


@cache
def undisturbed(kind):
    """A training that nothing stops; each kind's is trained once."""
    return fitted(kind)


def assert_same(one, other):
    """Weights are equal bit for bit; each member's epochs are heard once; curves are equal."""
    for mine, theirs in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert one[1].keys() == other[1].keys()
    for name, curve in one[1].items():
        np.testing.assert_allclose(curve, other[1][name], rtol=1e-6)
    assert [key[:2] for key in sorted(one[2])] == [key[:2] for key in sorted(other[2])]


def killed(kind, checkpoints, batches, *, workers=1):
    """Train until the process is killed."""
    with pytest.raises(Killed):
        fitted(kind, checkpoints, workers=workers, batches=batches)


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch):
    """Small members are worth a thread too."""
    monkeypatch.setattr("kd_mlflow.population.workers.THREAD_WORK", 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batches", [3, 17, 24])
def test_a_killed_training_ends_as_if_it_had_not_been(tmp_path, kind, batches):
    """Killed after any number of batches, within an epoch or between two, it ends bit for bit."""
    checkpoints = Checkpoints(tmp_path, every_s=0)
    killed(kind, checkpoints, batches)
    assert_same(undisturbed(kind), fitted(kind, checkpoints))


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_survives_many_deaths(tmp_path, kind):
    """Killed every few batches, each time from where it was, it comes to its end all the same."""
    checkpoints, alive = Checkpoints(tmp_path, every_s=0), False
    for _ in range(30):
        try:
            found = fitted(kind, checkpoints, batches=8)
        except Killed:
            continue
        alive = True
        break
    assert alive
    assert_same(undisturbed(kind), found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("before", "after"), [(3, 1), (2, 5)])
def test_another_number_of_workers_changes_nothing(tmp_path, kind, before, after):
    """Members come from chunks of other sizes, which were not equally far, and lose no bit."""
    checkpoints = Checkpoints(tmp_path, every_s=0)
    killed(kind, checkpoints, 25, workers=before)
    assert_same(undisturbed(kind), fitted(kind, checkpoints, workers=after))


def test_a_finished_training_is_not_trained_again(tmp_path):
    """What ended before the process died takes no batch; its listener hears all of it."""
    checkpoints = Checkpoints(tmp_path, every_s=1000)
    whole = fitted("held out", checkpoints)
    assert_same(whole, fitted("held out", checkpoints, batches=0))


def test_stopping_keeps_what_was_reached(tmp_path):
    """A listener that breaks, as a store does that stays away, leaves a snapshot of all chunks."""
    checkpoints = Checkpoints(tmp_path, every_s=1000)

    def interrupted(members, epoch, values):
        if members.start == 0 and epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        task("mixup").fit(Workers(count=2), interrupted, checkpoints)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "members-0-2.npz",
        "members-2-5.npz",
    ]
    assert_same(undisturbed("mixup"), fitted("mixup", checkpoints))


def test_nothing_is_pickled(tmp_path):
    """Checkpoints are plain arrays: none of an object, whose reading would run code."""
    checkpoints = Checkpoints(tmp_path, every_s=0)
    killed("held out", checkpoints, 12)
    (path,) = tmp_path.glob("*.npz")
    with zipfile.ZipFile(path) as archive:
        headers = [archive.read(name)[:128] for name in archive.namelist()]
    assert len(headers) > 20
    assert all(header.startswith(b"\x93NUMPY") and b"|O" not in header for header in headers)


@pytest.mark.slow_cases
@pytest.mark.parametrize("damage", ["cut", "empty", "other", "half"])
def test_what_cannot_be_read_is_trained_anew(tmp_path, caplog, damage):
    """A damaged file, or one of another training, is passed over and said; nothing breaks."""
    checkpoints = Checkpoints(tmp_path, every_s=0)
    killed("whole", checkpoints, 20)
    (path,) = tmp_path.glob("*.npz")
    content = path.read_bytes()
    if damage == "other":
        fitted("mixup", checkpoints)
    elif damage == "half":
        path.rename(path.with_suffix(".half"))
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    assert_same(undisturbed("whole"), fitted("whole", checkpoints))
    assert ("cannot be read" in caplog.text) == (damage in ("cut", "empty"))


def test_a_full_disk_stops_no_training(tmp_path, monkeypatch, caplog):
    """A checkpoint that cannot be written is warned of; training goes on and ends the same."""

    def full(*arguments, **arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with caplog.at_level(logging.WARNING):
        found = fitted("whole", Checkpoints(tmp_path, every_s=0))
    assert "No space left on device" in caplog.text
    assert_same(undisturbed("whole"), found)


@pytest.mark.parametrize(("pool", "epoch_rows"), [(10, 4), (4, 10), (6, 6), (7, 3)])
@pytest.mark.parametrize("drawn", [0, 1, 2, 5])
def test_row_orders_go_on_from_their_state(pool, epoch_rows, drawn):
    """Whatever was drawn before, orders with another's state draw what that one would."""
    rows = np.arange(pool, dtype=np.int32)
    one, other = RowOrders(3, rows, epoch_rows), RowOrders(3, rows, epoch_rows)
    for _ in range(drawn):
        next(one)
    other.state = json.loads(json.dumps(one.state))
    for _ in range(7):
        np.testing.assert_array_equal(next(one), next(other))


@pytest.mark.parametrize("first", [1, 3])
def test_of_several_files_the_farthest_counts(tmp_path, first):
    """Of a member that chunks of two runs hold, whichever of their files is read first."""
    checkpoints = Checkpoints(tmp_path / "t").owned_by(seeds=[1, 2])
    for members, epochs in ((slice(0, 1), first), (slice(0, 2), 4 - first)):
        k = members.stop - members.start
        snapshot = Snapshot(epochs=epochs, arrays={"a": np.zeros((k, 1))}, documents=({},) * k)
        checkpoints.write(members, snapshot)
    found = checkpoints.found(2)
    assert [one.epochs for one in found] == [3, 4 - first]
