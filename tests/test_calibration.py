"""Calibration: finds the temperature that was there, and changes no prediction."""

import pytest
import torch

from kd_mlflow.population.network import Population
from kd_mlflow.population.selection import BOUNDS, fit_temperatures


@pytest.fixture
def drawn():
    """Logits and labels drawn from them: right as sure as they are."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 3, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    return logits, labels


def test_the_temperature_that_was_there_is_found(drawn):
    """Logits divided by a temperature get its inverse back, member by member."""
    logits, labels = drawn
    scales = torch.tensor([0.7, 1.0, 1.6])
    found = fit_temperatures(logits * scales[:, None, None], labels)
    torch.testing.assert_close(found, scales, atol=0.06, rtol=0)


def test_a_few_rows_without_error_do_not_ask_for_certainty(drawn):
    """The temperature stays within its bounds."""
    logits, _ = drawn
    found = fit_temperatures(logits[None, :20], logits[:20].argmax(dim=1))
    torch.testing.assert_close(found, torch.tensor([BOUNDS[0]]), atol=1e-3, rtol=0)


def test_cooling_divides_logits_and_adds_no_parameter():
    """A cooled population's logits are its own, divided; size and predictions stay."""
    population = Population.initialised((4, 8, 3), seeds=[1, 2])
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(3))
    before, parameters = population.logits(x), population.parameters_per_member
    population.cool_(torch.tensor([0.5, 2.0]))
    after = population.logits(x)
    torch.testing.assert_close(after[0], before[0] / 0.5)
    torch.testing.assert_close(after[1], before[1] / 2.0)
    assert population.parameters_per_member == parameters
