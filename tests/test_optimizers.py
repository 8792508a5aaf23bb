"""The optimizers: torch's own steps, the same bits in any company."""

import pytest
import torch

from kd_mlflow.population import optimizers
from kd_mlflow.population.backprop import Backprop
from kd_mlflow.population.network import Population
from kd_mlflow.population.optimizers import Muon, Orthogonal, optimizer_of

SIZES = (12, 9, 20, 3)
"""A tall matrix and a wide one, with sides that no alignment fits."""

SEEDS = [5, 6, 7]


def gradients(step, seed):
    """A made gradient for each parameter of one member."""
    member = Population.initialised(SIZES, seeds=[seed])
    generator = torch.Generator().manual_seed(100 * step + seed)
    return [torch.randn(p.shape[1:], generator=generator) for p in member.parameters()]


def moved(optimizer, seeds, *, steps=6, rate=0.01):
    """A population after some steps along made gradients."""
    with torch.no_grad():
        population = Population.initialised(SIZES, seeds=seeds)
        passes = Backprop(population, seeds=seeds)
        own = optimizer_of(optimizer, passes)
        for step in range(steps):
            made = [gradients(step, seed) for seed in seeds]
            for place, parts in zip(
                passes.matrices(passes.gradient), zip(*made, strict=True), strict=True
            ):
                place.copy_(torch.stack(parts))
            own.step(rate)
    return population


def hidden(parameters):
    """Weights of hidden layers among the parameters of one network: all but the last."""
    return list(parameters)[:-2:2]


TORCHS_POLYNOMIAL, TORCHS_STEPS = (3.4445, -4.7750, 2.0315), 5
"""What torch.optim.Muon applies to singular values, and how often."""


def test_steps_are_those_of_torch(monkeypatch):
    """With its polynomial we move one member as torch's Muon, which counts in half precision."""
    monkeypatch.setattr(optimizers, "POLYNOMIALS", (TORCHS_POLYNOMIAL,) * TORCHS_STEPS)
    population = moved("muon", SEEDS)
    for i, seed in enumerate(SEEDS):
        own = [p[0] for p in Population.initialised(SIZES, seeds=[seed]).parameters()]
        own = [torch.nn.Parameter(p.detach().clone()) for p in own]
        muon = torch.optim.Muon(
            hidden(own), lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        )
        adam = torch.optim.Adam([own[-2], *own[1::2]], lr=0.01)
        for step in range(6):
            for p, gradient in zip(own, gradients(step, seed), strict=True):
                p.grad = gradient
            muon.step()
            adam.step()
        for p, ours in zip(own, population.parameters(), strict=True):
            torch.testing.assert_close(ours[i], p.data, rtol=0, atol=5e-4)
        for p, ours in zip(own[1::2], list(population.parameters())[1::2], strict=True):
            torch.testing.assert_close(ours[i], p.data)


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (16, 16), (1, 5)])
def test_directions_stay_and_their_sizes_are_near_one(shape):
    """The result has the singular vectors of the matrix, whose singular values become about 1."""
    given = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    orthogonal = Orthogonal(given)
    orthogonal.matrix.copy_(given)
    u, sizes, v = torch.linalg.svd(orthogonal.of_matrix(), full_matrices=False)
    assert ((sizes > 0.6) & (sizes < 1.3)).all()
    expected_u, _, expected_v = torch.linalg.svd(given, full_matrices=False)
    torch.testing.assert_close(u @ v, expected_u @ expected_v, atol=1e-3, rtol=0)


def test_singular_values_come_as_near_to_one_as_is_said():
    """Of a matrix of norm 1 all from 0.01 on end within 0.27 of 1, and none below is inflated more.

    0 stays 0.
    """
    given = torch.linspace(0.0, 1.0, 10_001, dtype=torch.float64)
    found = given
    for a, b, c in optimizers.POLYNOMIALS:
        found = a * found + b * found**3 + c * found**5
    assert ((found - 1).abs()[given >= 0.01] < 0.2703).all()
    assert found[0] == 0
    assert (found[given < 0.01] < 0.74).all()


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_member_gets_the_same_bits_in_any_company(optimizer):
    """Who else is trained beside a member does not change its steps."""
    together = moved(optimizer, SEEDS)
    for i, seed in enumerate(SEEDS):
        for p, alone in zip(
            together.parameters(), moved(optimizer, [seed]).parameters(), strict=True
        ):
            assert torch.equal(p[i], alone[0])


def test_no_gradient_is_no_step():
    """Rows that all are known already move nothing, and nothing becomes NaN."""
    with torch.no_grad():
        population = Population.initialised(SIZES, seeds=SEEDS)
        before = [p.clone() for p in population.parameters()]
        Muon(Backprop(population, seeds=SEEDS)).step(0.01)
    for p, own in zip(population.parameters(), before, strict=True):
        assert torch.equal(p, own)
