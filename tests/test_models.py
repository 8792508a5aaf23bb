"""Populations: what is drawn, what is computed, what is copied."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from kd_mlflow.population import network
from kd_mlflow.population.network import Population

SIZES = (6, 8, 5, 3)


def reference_mlp(sizes, seed):
    """Draw an ordinary network, leaving the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linears = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    modules = [m for linear in linears for m in (linear, nn.ReLU())]
    return nn.Sequential(*modules[:-1])


def rows(n, d=SIZES[0]):
    """Normal rows, the same at each call."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def test_members_are_drawn_as_seeded_linear_layers():
    """A member has exactly the weights of nn.Linear layers drawn after torch.manual_seed."""
    seeds = [3, 41, 0]
    population = Population.initialised(SIZES, seeds=seeds)
    for i, seed in enumerate(seeds):
        reference = list(reference_mlp(SIZES, seed).parameters())
        member = list(population.member(i).parameters())
        assert len(member) == len(reference)
        assert all(torch.equal(a, b) for a, b in zip(member, reference, strict=True))


def test_drawing_leaves_the_global_generator_alone():
    """Initialising a population draws nothing from torch's global generator."""
    before = torch.get_rng_state()
    Population.initialised(SIZES, seeds=[1, 2])
    assert torch.equal(before, torch.get_rng_state())


def test_population_computes_each_members_logits():
    """The population's logits on axis 0 are those of each member as a module of its own."""
    population = Population.initialised(SIZES, seeds=[5, 6, 7], dropout=0.4)
    x = rows(17)
    logits = population(x)
    assert logits.shape == (3, 17, 3)
    for i in range(3):
        torch.testing.assert_close(logits[i], population.member(i).eval()(x))


def test_population_takes_rows_of_its_own_for_each_member():
    """With a batch a member, each member sees its own rows alone."""
    population = Population.initialised(SIZES, seeds=[5, 6])
    x = rows(2 * 9).view(2, 9, -1)
    logits = population(x)
    for i in range(2):
        torch.testing.assert_close(logits[i], population(x[i])[i])


def test_member_is_a_copy():
    """Changing a member's module changes nothing in the population."""
    population = Population.initialised(SIZES, seeds=[5, 6])
    before = population(rows(4)).detach().clone()
    with torch.no_grad():
        for parameter in population.member(0).parameters():
            parameter.zero_()
    assert torch.equal(population(rows(4)), before)


def test_member_keeps_dropout():
    """A member has the population's dropout after each hidden layer and none after the logits."""
    member = Population.initialised(SIZES, seeds=[1], dropout=0.4).member(0)
    kinds = [type(module) for module in member]
    hidden = [nn.Linear, nn.ReLU, nn.Dropout]
    assert kinds == [*hidden, *hidden, nn.Linear]
    assert [m.p for m in member if isinstance(m, nn.Dropout)] == [0.4, 0.4]


def test_scoring_drops_nothing():
    """A population with dropout scores as one without."""
    dropped = Population.initialised(SIZES, seeds=[1, 2], dropout=0.5)
    plain = Population.initialised(SIZES, seeds=[1, 2])
    assert torch.equal(dropped(rows(20)), plain(rows(20)))


@pytest.mark.parametrize(
    ("sizes", "parameters"), [((20, 64, 32, 2), 3490), ((20, 256, 128, 64, 2), 46658)]
)
def test_reference_networks_have_the_published_parameters(sizes, parameters):
    """The reference student and teacher have 3,490 and 46,658 parameters a member."""
    population = Population.initialised(sizes, seeds=[1, 2, 3])
    assert population.parameters_per_member == parameters
    assert sum(own.numel() for own in population.member(1).parameters()) == parameters


def test_sizes_and_k_read_from_the_weights():
    """Sizes and member count are those the population was drawn with."""
    population = Population.initialised(SIZES, seeds=[1, 2, 3, 4])
    assert (population.sizes, population.k) == (SIZES, 4)


def test_members_are_copies_of_their_rows():
    """A slice of members scores as these members did, and shares no memory with them."""
    population = Population.initialised(SIZES, seeds=[1, 2, 3, 4], dropout=0.2)
    before = population(rows(9)).detach().clone()
    part = population.members(slice(1, 3))
    assert part.dropout == 0.2
    torch.testing.assert_close(part(rows(9)), before[1:3])
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.zero_()
    assert torch.equal(population(rows(9)), before)


def test_members_copied_back_give_the_whole():
    """Taking members apart and copying them into another population rebuilds the first."""
    source = Population.initialised(SIZES, seeds=[1, 2, 3])
    other = Population.initialised(SIZES, seeds=[7, 8, 9])
    for rows_ in (slice(0, 1), slice(1, 3)):
        other.copy_members_(rows_, source.members(rows_))
    assert all(
        torch.equal(a, b) for a, b in zip(source.parameters(), other.parameters(), strict=True)
    )


def test_copying_members_leaves_the_others():
    """Copying one member over changes no other member."""
    population = Population.initialised(SIZES, seeds=[1, 2, 3])
    before = [p.detach().clone() for p in population.parameters()]
    population.copy_members_(slice(1, 2), Population.initialised(SIZES, seeds=[9]))
    for old, new in zip(before, population.parameters(), strict=True):
        assert torch.equal(old[[0, 2]], new[[0, 2]])
        assert not torch.equal(old[1], new[1])


@pytest.mark.parametrize("n", [1, 7, 8, 20])
def test_logits_in_chunks_equal_one_forward(monkeypatch, n):
    """Scoring in chunks gives every member and row once, in order, as one forward pass does."""
    monkeypatch.setattr(network, "EVALUATION_ROWS", 8)
    monkeypatch.setattr(network, "EVALUATION_MEMBERS", 2)
    population = Population.initialised(SIZES, seeds=[1, 2, 3])
    logits = population.logits(rows(n))
    assert not logits.requires_grad
    torch.testing.assert_close(logits, population(rows(n)).detach())
