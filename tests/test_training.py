"""The training loop: equal to training alone, to plain torch, to itself; it learns and it stops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from kd_mlflow.distillation.logits import agreements
from kd_mlflow.errors import TrainingError
from kd_mlflow.population.epochs import MOST_OF_A_ROW
from kd_mlflow.population.history import HELD_OUT, best_epochs
from kd_mlflow.population.losses import UNLABELLED, DistillationLoss, LabelLoss
from kd_mlflow.population.network import Population
from kd_mlflow.population.sampling import (
    DROPOUT_STREAM,
    MIXUP_STREAM,
    ORDER_STREAM,
    Batches,
    Inputs,
    MixupWeights,
    RowOrders,
    Sampling,
)
from kd_mlflow.population.training import Rows, Schedule, Task
from kd_mlflow.population.workers import Workers

SIZES = (4, 16, 8, 3)
N = 90
SCHEDULE = Schedule(epochs=4, batch_size=32, learning_rate=0.01, weight_decay=1e-3)


def table(n=N, seed=0):
    """Rows and labels that have nothing to do with each other."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, SIZES[0], generator=generator)
    return x, torch.randint(SIZES[-1], (n,), generator=generator)


def numbers(n):
    """The numbers of the first n rows."""
    return np.arange(n, dtype=np.int32)


X, LABELS = table()
VAL_X, VAL_LABELS = table(40, seed=1)


def evaluate(logits):
    """Follow the accuracy on the validation rows."""
    return {"val_accuracy": agreements(logits, VAL_LABELS)}


def trained(seeds, *, dropout=0.0, sizes=SIZES, fit=None, **parts):
    """Draw and train a population; return it and its curves."""
    population = Population.initialised(sizes, seeds=seeds, dropout=dropout)
    ordinary = {
        "rows": Rows(train=Inputs(X), val=Inputs(VAL_X)),
        "loss": LabelLoss(LABELS),
        "schedule": SCHEDULE,
        "seeds": seeds,
        "sampling": Sampling.whole(N, len(seeds)),
        "evaluate": evaluate,
    }
    task = Task(**{"population": population, **ordinary, **parts})
    return population, task.fit(**fit or {})


def assert_same_member(population, index, other, other_index, **tolerance):
    """Compare two members weight by weight."""
    mine, theirs = population.member(index), other.member(other_index)
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.fixture
def three_threads():
    """Give torch three intra-op threads, and what it had before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


def test_members_trained_together_equal_members_trained_alone():
    """With dropout on, each member ends with the weights that it has when trained alone."""
    seeds = [11, 12, 13]
    together, curves = trained(seeds, dropout=0.3)
    for i, seed in enumerate(seeds):
        alone, own = trained([seed], dropout=0.3)
        assert_same_member(together, i, alone, 0, atol=0, rtol=0)
        np.testing.assert_allclose(curves["train_loss"][:, i], own["train_loss"][:, 0], rtol=1e-4)


def test_distilled_members_keep_their_own_alpha_and_temperature():
    """A member of a mixed population is trained with its own alpha and temperature."""
    ensemble = torch.randn(N, SIZES[-1], generator=torch.Generator().manual_seed(4))
    temperature, alpha = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0.0, 0.7, 1.0])
    seeds = [1, 2, 3]
    loss = DistillationLoss(ensemble, LABELS, temperature=temperature, alpha=alpha)
    together, _ = trained(seeds, loss=loss)
    for i, seed in enumerate(seeds):
        alone, _ = trained([seed], loss=loss.members(slice(i, i + 1)))
        assert_same_member(together, i, alone, 0, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("sizes", [SIZES, (4, 37, 11, 3)])
@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5])
def test_chunks_give_the_same_bits(monkeypatch, sizes, workers):
    """However a population is shared out, its members learn the same, to the last bit."""
    monkeypatch.setattr("kd_mlflow.population.workers.THREAD_WORK", 1)
    seeds = [1, 2, 3, 4, 5]
    whole, curves = trained(seeds, dropout=0.3, sizes=sizes, fit={"workers": Workers(count=1)})
    cut, again = trained(seeds, dropout=0.3, sizes=sizes, fit={"workers": Workers(count=workers)})
    for i in range(5):
        assert_same_member(whole, i, cut, i, atol=0, rtol=0)
    for name, values in curves.items():
        np.testing.assert_allclose(values, again[name], rtol=1e-6)


def test_each_member_has_its_own_schedule(monkeypatch):
    """It ends where one ends that is trained alone with that schedule, whatever its neighbours'."""
    seeds, plain = [1, 2, 3, 4], Schedule(epochs=4, batch_size=32, learning_rate=0.01)
    muon = replace(plain, optimizer="muon", batch_size=50, learning_rate=0.02)
    schedules = (muon, muon, plain, replace(plain, weight_decay=3e-3))
    together, _ = trained(seeds, schedule=schedules)
    for i, (seed, schedule) in enumerate(zip(seeds, schedules, strict=True)):
        alone, _ = trained([seed], schedule=schedule)
        assert_same_member(together, i, alone, 0, atol=1e-6, rtol=1e-5)
    monkeypatch.setattr("kd_mlflow.population.training.CHUNK_PARAMETERS", 1)
    cut, _ = trained(seeds, schedule=schedules)
    for i in range(len(seeds)):
        assert_same_member(together, i, cut, i, atol=0, rtol=0)


def test_large_members_are_trained_a_few_at_a_time(monkeypatch):
    """One worker takes members in chunks that its cache holds; they learn the same."""
    heard = []
    whole, _ = trained([1, 2, 3, 4, 5])
    monkeypatch.setattr(
        "kd_mlflow.population.training.CHUNK_PARAMETERS", 2 * whole.parameters_per_member
    )
    options = {"workers": Workers(count=1), "on_epoch": lambda *call: heard.append(call[0])}
    cut, _ = trained([1, 2, 3, 4, 5], fit=options)
    assert {members.stop - members.start for members in heard} == {1, 2}
    for i in range(5):
        assert_same_member(whole, i, cut, i, atol=0, rtol=0)


def plain_torch_loop(seed, schedule):
    """Train one ordinary network as a reader of the documentation would."""
    network = Population.initialised(SIZES, seeds=[seed]).member(0)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    bits = np.random.SFC64(np.random.SeedSequence(entropy=seed, spawn_key=(0,)))
    shuffle = np.random.Generator(bits)
    steps, step = schedule.epochs * math.ceil(N / schedule.batch_size), 0
    for _ in range(schedule.epochs):
        order = torch.from_numpy(shuffle.permutation(N))
        for batch in order.split(schedule.batch_size):
            if schedule.decay == "cosine":
                rate = schedule.learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
                optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(X[batch]), LABELS[batch]).backward()
            optimizer.step()
            step += 1
    return network


@pytest.mark.parametrize("decay", ["constant", "cosine"])
def test_one_member_equals_a_plain_torch_loop(decay):
    """One member ends where nn.Sequential and Adam end, on the same batches and learning rates."""
    schedule = Schedule(epochs=5, batch_size=32, learning_rate=0.01, weight_decay=1e-3, decay=decay)
    population, _ = trained([21], schedule=schedule)
    reference = plain_torch_loop(21, schedule)
    for a, b in zip(population.member(0).parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_cosine_ends_at_rest():
    """Under the cosine schedule the last epoch moves the logits far less than the first."""
    seen = []

    def watch(logits):
        seen.append(logits.clone())
        return evaluate(logits)

    schedule = Schedule(epochs=20, batch_size=8, learning_rate=0.01, decay="cosine")
    trained([1], schedule=schedule, evaluate=watch)
    first, last = (seen[1] - seen[0]).abs().mean(), (seen[-1] - seen[-2]).abs().mean()
    assert last < first / 20


def test_same_seeds_repeat_bit_for_bit():
    """Two trainings with the same seeds give identical weights and curves."""
    (first, curves), (second, again) = (trained([1, 2, 3], dropout=0.3) for _ in range(2))
    for i in range(3):
        assert_same_member(first, i, second, i, atol=0, rtol=0)
    for name, values in curves.items():
        np.testing.assert_array_equal(values, again[name])


def test_the_seed_decides_order_and_dropout():
    """From the same initial weights, another training seed ends elsewhere."""
    ends = []
    for seed in (1, 2):
        population = Population.initialised(SIZES, seeds=[5])
        trained([seed], population=population)
        ends.append(population.logits(VAL_X))
    assert not torch.allclose(*ends)


def test_training_leaves_the_global_generators_alone():
    """Training draws nothing from the global generators of torch and numpy."""
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    trained([1, 2], dropout=0.3)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(numpy_before, np.random.get_state()[1])


def test_a_separable_problem_is_learnt():
    """Two classes with a margin between them are told apart on every row."""
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    labels = (x[:, 0] > 0).long()
    x[:, 0] += torch.where(labels == 1, 1.0, -1.0)
    _, history = trained(
        [1, 2, 3],
        dropout=0.1,
        sizes=(4, 16, 2),
        rows=Rows(train=Inputs(x), val=Inputs(x)),
        loss=LabelLoss(labels),
        schedule=Schedule(epochs=20, batch_size=32, learning_rate=0.01),
        sampling=Sampling.whole(200, 3),
        evaluate=lambda logits: {"val_accuracy": agreements(logits, labels)},
    )
    assert history["val_accuracy"][-1].tolist() == [1.0, 1.0, 1.0]


def test_divergence_is_an_error():
    """A learning rate that makes the loss infinite raises TrainingError naming the option."""
    schedule = Schedule(epochs=3, batch_size=32, learning_rate=1e30)
    words = r"not a finite number .*1e\+30; use a lower learning_rate"
    with pytest.raises(TrainingError, match=words):
        trained([1, 2], schedule=schedule)


def test_curves_have_one_value_an_epoch_and_member():
    """Every curve, of the loss and of the evaluation, has shape (epochs, k)."""
    _, history = trained([1, 2, 3, 4, 5])
    assert {name: values.shape for name, values in history.items()} == {
        "train_loss": (SCHEDULE.epochs, 5),
        "val_accuracy": (SCHEDULE.epochs, 5),
    }


def test_train_loss_is_the_mean_over_rows():
    """The first epoch's loss at a learning rate near 0 is the untrained network's mean loss."""
    schedule = Schedule(epochs=1, batch_size=32, learning_rate=1e-12)
    population, history = trained([1, 2], schedule=schedule)
    logits = population.logits(X)
    expected = [float(nn.functional.cross_entropy(member, LABELS)) for member in logits]
    np.testing.assert_allclose(history["train_loss"][0], expected, rtol=1e-5)


def test_the_listener_hears_every_member_and_epoch_once():
    """on_epoch receives each member's values of each epoch exactly once, equal to the curves."""
    heard = []
    _, history = trained([1, 2, 3, 4, 5], fit={"on_epoch": lambda *call: heard.append(call)})
    cells = [
        (member, epoch, values["train_loss"][i])
        for members, epoch, values in heard
        for i, member in enumerate(range(members.start, members.stop))
    ]
    assert sorted(cells) == [
        (member, epoch, history["train_loss"][epoch - 1, member])
        for member in range(5)
        for epoch in range(1, SCHEDULE.epochs + 1)
    ]


def test_threads_are_given_back(three_threads):
    """Training leaves torch's number of intra-op threads as it was."""
    trained([1, 2])
    assert torch.get_num_threads() == three_threads


def test_threads_are_given_back_after_an_error(three_threads):
    """A training that fails leaves torch's number of threads as it was, too."""
    with pytest.raises(TrainingError):
        trained([1], schedule=Schedule(epochs=3, batch_size=32, learning_rate=1e30))
    assert torch.get_num_threads() == three_threads


def test_an_error_ends_the_other_chunks(monkeypatch):
    """An error in one chunk reaches the caller, and the others stop long before their end."""
    monkeypatch.setattr("kd_mlflow.population.workers.THREAD_WORK", 1)
    epochs = 2000
    heard = []

    def listener(members, epoch, values):
        heard.append(epoch)
        if members.start == 0:
            raise RuntimeError("listener broke")

    schedule = Schedule(epochs=epochs, batch_size=32, learning_rate=0.01)
    with pytest.raises(RuntimeError, match="listener broke"):
        trained([1, 2], schedule=schedule, fit={"on_epoch": listener, "workers": Workers(count=2)})
    assert max(heard) < epochs / 2


def test_mixup_is_what_its_paper_says():
    """One member with mixup follows a plain torch loop on mixed rows and mixed labels."""
    seed, schedule = 21, SCHEDULE
    sampling = Sampling.whole(N, 1, mixup=0.4)
    population, _ = trained([seed], sampling=sampling)
    network = Population.initialised(SIZES, seeds=[seed]).member(0)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    orders = RowOrders(seed, numbers(N), N)
    weights = MixupWeights([seed], sampling)
    one_hot = nn.functional.one_hot(LABELS).float()
    for _ in range(schedule.epochs):
        order, weight = torch.from_numpy(next(orders)), weights.draw(torch.device("cpu"))[0]
        assert 0 < weight.min() < 0.1
        assert weight.max() < 1
        for batch, share in zip(
            order.split(schedule.batch_size), weight.split(schedule.batch_size), strict=True
        ):
            other, share = batch.roll(1), share[:, None]
            x = share * X[batch] + (1 - share) * X[other]
            target = share * one_hot[batch] + (1 - share) * one_hot[other]
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), target).backward()
            optimizer.step()
    for a, b in zip(population.member(0).parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_each_purpose_draws_from_a_stream_of_its_own():
    """Order, dropout and mixup start from other seeds, and whether rows are mixed moves none."""
    assert len({ORDER_STREAM, DROPOUT_STREAM, MIXUP_STREAM}) == 3
    plain, mixed = (
        Batches(Inputs(X), Sampling.whole(N, 1, mixup=mixup), seeds=[7], batch_size=32)
        for mixup in (0.0, 0.4)
    )
    for _ in range(3):
        for (_, rows, _), (_, same, _) in zip(plain.epoch(), mixed.epoch(), strict=True):
            assert torch.equal(rows, same)


def test_members_of_unlike_sampling_are_as_if_alone():
    """A member that mixes and one with a smaller pool learn what each learns alone."""
    seeds = [5, 6, 7]
    pools = (numbers(N), numbers(30), numbers(N))
    sampling = Sampling(pools=pools, mixup=(0.0, 0.0, 0.4), epoch_rows=40)
    together, _ = trained(seeds, sampling=sampling)
    for i, seed in enumerate(seeds):
        alone, _ = trained([seed], sampling=sampling.members(slice(i, i + 1)))
        assert_same_member(together, i, alone, 0, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("pool", "epoch_rows"), [(10, 4), (4, 10), (6, 6)])
def test_every_row_of_a_pool_is_drawn_before_any_comes_again(pool, epoch_rows):
    """Epochs cut the stream of shuffled pools, whatever the two sizes."""
    orders = RowOrders(3, numbers(pool), epoch_rows)
    stream = np.concatenate([next(orders) for _ in range(10 * pool)])
    turns = stream[: len(stream) // pool * pool].reshape(-1, pool)
    assert (np.sort(turns, axis=1) == np.arange(pool)).all()
    assert len({tuple(turn) for turn in turns}) > 1


def test_curves_leave_out_rows_without_a_value():
    """A curve is the mean over the rows that have the value, NaN where none has."""
    ensemble = torch.randn(N, SIZES[-1], generator=torch.Generator().manual_seed(4))
    labels = LABELS.clone()
    labels[40:] = UNLABELLED
    loss = DistillationLoss(
        ensemble, labels, temperature=torch.ones(2), alpha=torch.tensor([0.5, 0.0])
    )
    sampling = Sampling(pools=(numbers(N), numbers(40)), mixup=(0.0, 0.4), epoch_rows=40)
    _, curves = trained([1, 2], loss=loss, sampling=sampling)
    assert np.isnan(curves["soft_loss"][:, 1]).all()
    assert np.isfinite(curves["soft_loss"][:, 0]).all()
    assert np.isfinite(curves["hard_loss"]).all()
    assert np.isfinite(curves["train_loss"]).all()


FOLDS = tuple(np.flatnonzero(np.arange(N) % 3 == i).astype(np.int32) for i in range(3))


def held_out_loss(population, i):
    """A member's mean cross-entropy on the rows that it left out."""
    rows = torch.from_numpy(FOLDS[i])
    logits = population.member(i).eval()(X[rows]).detach()
    return float(nn.functional.cross_entropy(logits, LABELS[rows]))


def stopping(patience=0, epochs=12, **parts):
    """Train three members that leave out a third of the rows each."""
    schedule = Schedule(epochs=epochs, batch_size=16, learning_rate=0.02, patience=patience)
    sampling = Sampling.leaving_out(N, FOLDS)
    ordinary = {"schedule": schedule, "sampling": sampling, "dropout": 0.2}
    return trained([1, 2, 3], **{**ordinary, **parts})


def test_members_keep_the_weights_of_their_best_epoch():
    """A trained member scores its left-out rows as in the epoch of its least held-out loss."""
    population, history = stopping()
    least = history[HELD_OUT].min(axis=0)
    assert (best_epochs(history) < 12).all()
    for i in range(3):
        assert held_out_loss(population, i) == pytest.approx(least[i], rel=1e-6)


def test_a_member_ends_when_its_patience_does():
    """Its curves stop so many epochs after its best one; the training ends with the last member."""
    _, history = stopping()
    _, short = stopping(patience=2)
    best = best_epochs(short)
    ended = np.isfinite(short["train_loss"]).sum(axis=0)
    assert (ended == np.minimum(best + 2, 12)).all()
    assert len(short["train_loss"]) == ended.max() < 12
    for name, values in short.items():
        np.testing.assert_array_equal(np.isnan(values), np.isnan(short["train_loss"]))
        np.testing.assert_array_equal(
            values[: ended.min()], history[name][: ended.min()], err_msg=name
        )


def test_one_far_row_does_not_say_when_training_ends():
    """A held-out row far from all others, which a network is the more wrong of the more it learns.

    Its loss is in the hundreds throughout; the member learns from epoch to epoch all the same.
    """
    x, labels = X.clone(), (X[:, 0] > 0).long()
    x[0], labels[0] = 1e4, 2  # a class that no other row has
    schedule = Schedule(epochs=20, batch_size=16, learning_rate=0.02, patience=4)
    held_out = (np.arange(0, N, 3, dtype=np.int32),)
    _, history = trained(
        [1],
        rows=Rows(train=Inputs(x), val=Inputs(VAL_X)),
        loss=LabelLoss(labels),
        schedule=schedule,
        sampling=Sampling.leaving_out(N, held_out),
    )
    assert len(history[HELD_OUT]) > 8
    assert history[HELD_OUT].max() < 2 + MOST_OF_A_ROW / len(held_out[0])


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_stopped_members_are_as_if_alone(monkeypatch, workers):
    """Whoever is trained beside it, a member stops at the same epoch with the same bits."""
    monkeypatch.setattr("kd_mlflow.population.workers.THREAD_WORK", 1)
    together, curves = stopping(patience=2, fit={"workers": Workers(count=workers)})
    for i, seed in enumerate([1, 2, 3]):
        alone, own = trained(
            [seed],
            dropout=0.2,
            schedule=Schedule(epochs=12, batch_size=16, learning_rate=0.02, patience=2),
            sampling=Sampling.leaving_out(N, FOLDS).members(slice(i, i + 1)),
        )
        assert_same_member(together, i, alone, 0, atol=0, rtol=0)
        assert best_epochs(curves)[i] == best_epochs(own)[0]
        length = len(own[HELD_OUT])
        np.testing.assert_array_equal(curves[HELD_OUT][:length, i], own[HELD_OUT][:, 0])


def test_left_out_rows_train_nobody():
    """Other labels on a member's left-out rows change when it stops, never what it learns."""
    labels = LABELS.clone()
    labels[torch.from_numpy(FOLDS[0])] = (labels[torch.from_numpy(FOLDS[0])] + 1) % SIZES[-1]
    _, history = stopping()
    _, other = stopping(loss=LabelLoss(labels))
    np.testing.assert_array_equal(history["train_loss"][:, 0], other["train_loss"][:, 0])
    assert (history[HELD_OUT][:, 0] != other[HELD_OUT][:, 0]).all()
    assert (history["train_loss"][:, 1] != other["train_loss"][:, 1]).any()


def test_rows_encoded_as_they_are_needed_train_the_same():
    """Inputs made batch by batch and inputs made at once give the same weights and curves."""

    def encode(values):
        return torch.cat([values, values.abs()], dim=1)

    sizes = (2 * SIZES[0], *SIZES[1:])
    dense = Rows(train=Inputs(encode(X)), val=Inputs(encode(VAL_X)))
    made = Rows(train=Inputs(X, encode), val=Inputs(VAL_X, encode))
    (first, curves), (second, again) = (stopping(rows=rows, sizes=sizes) for rows in (dense, made))
    for i in range(3):
        assert_same_member(first, i, second, i, atol=0, rtol=0)
    for name, values in curves.items():
        np.testing.assert_array_equal(values, again[name])
