"""The training passes: autograd's gradients, dropout by seed, the same bits in any company."""

import numpy as np
import pytest
import torch

from kd_mlflow.population.backprop import DROPOUT_LEVELS, Backprop, DropoutStreams
from kd_mlflow.population.network import Population

SIZES = (6, 9, 5, 3)
SEEDS = [5, 6, 7]


def normal(*shape, seed=0):
    """Normal values, the same at each call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def masks(dropout, *, batch=400, width=256):
    """Logits that are dropout's mask, scaled.  Shape: (batch, width)."""
    population = Population.initialised((1, width, width), seeds=[1], dropout=dropout)
    first, last = population.stack
    with torch.no_grad():
        first.weight.zero_()
        first.bias.fill_(1.0)
        last.weight.copy_(torch.eye(width))
        last.bias.zero_()
        return Backprop(population, seeds=[3]).forward(torch.zeros(1, batch, 1))[0]


def dropout_by_hand(population, x, seeds):
    """The population's logits by autograd, with the masks that the seeds give."""
    threshold = round(population.dropout * DROPOUT_LEVELS)
    *hidden, last = population.stack
    widths = [layer.weight.shape[2] for layer in hidden]
    drawn = DropoutStreams(seeds).draw(x.shape[1], sum(widths))
    for layer, mask in zip(hidden, torch.split(drawn >= threshold, widths, dim=2), strict=True):
        x = torch.relu(layer(x)) * mask * DROPOUT_LEVELS / (DROPOUT_LEVELS - threshold)
    return last(x)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("batch", [1, 17])
def test_passes_are_autograds(dropout, batch):
    """Logits and every parameter's gradient are those of the written-out network."""
    x, upstream = normal(3, batch, SIZES[0]), normal(3, batch, SIZES[-1], seed=1)
    by_hand = Population.initialised(SIZES, seeds=SEEDS, dropout=dropout)
    expected = dropout_by_hand(by_hand, x, SEEDS)
    (expected * upstream).sum().backward()
    population = Population.initialised(SIZES, seeds=SEEDS, dropout=dropout)
    with torch.no_grad():
        passes = Backprop(population, seeds=SEEDS)
        torch.testing.assert_close(passes.forward(x), expected)
        passes.backward(upstream)
        passes.parameters.sub_(passes.parameters.grad)
    for p, reference in zip(population.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(p, reference - reference.grad)


def test_a_second_backward_pass_overwrites_the_first():
    """Gradients never add up over batches, also of another size."""
    population = Population.initialised(SIZES, seeds=SEEDS)
    with torch.no_grad():
        passes = Backprop(population, seeds=SEEDS)
        seen = []
        for batch in (8, 5, 8):
            passes.forward(normal(3, batch, SIZES[0]))
            passes.backward(normal(3, batch, SIZES[-1], seed=1))
            seen.append(passes.parameters.grad.clone())
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])


def test_the_population_scores_with_the_flat_parameters():
    """What an optimizer does to the flat parameters, the population's own are."""
    population = Population.initialised(SIZES, seeds=SEEDS)
    x = normal(4, SIZES[0])
    before = population.logits(x)
    with torch.no_grad():
        passes = Backprop(population, seeds=SEEDS)
        assert torch.equal(population.logits(x), before)
        passes.parameters.zero_()
    assert population.logits(x).abs().sum() == 0


def test_dropout_bytes_follow_the_seed_alone():
    """A member receives the same bytes whichever members stand beside it, draw after draw."""
    alone, together = DropoutStreams([7]), DropoutStreams([1, 7, 9])
    for batch, width in [(3, 5), (64, 13), (1, 8)]:
        assert torch.equal(alone.draw(batch, width)[0], together.draw(batch, width)[1])


def test_dropout_bytes_differ_between_seeds_and_draws():
    """Neither two seeds nor two draws give the same bytes."""
    streams = DropoutStreams([1, 2])
    first, second = streams.draw(8, 16), streams.draw(8, 16)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


def test_dropout_does_not_repeat_the_shuffle():
    """Dropout bytes come from another stream than the one that shuffles rows (spawn key 0)."""
    shuffle = np.random.SFC64(np.random.SeedSequence(entropy=7, spawn_key=(0,)))
    shuffling = torch.from_numpy(shuffle.random_raw(4).view(np.uint8))
    assert not torch.equal(DropoutStreams([7]).draw(4, 8).flatten(), shuffling)


@pytest.mark.parametrize("dropout", [0.1, 0.3, 0.75])
def test_keep_rate_is_the_one_asked_for(dropout):
    """The share of kept units is 1 - dropout, to sampling error and a 1/256 of rounding."""
    kept = (masks(dropout) > 0).double().mean().item()
    assert kept == pytest.approx(1 - dropout, abs=0.01)


def test_dropout_keeps_the_mean():
    """Kept units are scaled so that the expected activation is unchanged."""
    logits = masks(0.3)
    assert len(logits.unique()) == 2
    assert logits.mean().item() == pytest.approx(1.0, abs=0.01)
