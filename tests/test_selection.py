"""Weights of an ensemble's families: by log loss, on rows that nobody was trained on."""

from dataclasses import replace

import pytest
import torch

from kd_mlflow.population.losses import AVERAGES, average_probabilities
from kd_mlflow.population.selection import Unseen, fit_temperature, select_mixture

N, M, CLASSES, MEMBERS = 300, 80, 3, 4


def generator(seed):
    """A source of random numbers."""
    return torch.Generator().manual_seed(seed)


LABELS = torch.randint(CLASSES, (N,), generator=generator(0))
VAL_LABELS = torch.randint(CLASSES, (M,), generator=generator(1))


def family(skill, seed, *, scale=2.0, known=slice(None)):
    """Noisy logits that point to the label by so much; rows outside ``known`` nobody left out."""

    def logits(labels, *k):
        noise = torch.randn(*k, len(labels), CLASSES, generator=generator(seed))
        return scale * (skill * torch.nn.functional.one_hot(labels, CLASSES) + noise)

    out_of_fold = torch.full((N, CLASSES), torch.nan)
    out_of_fold[known] = logits(LABELS)[known]
    return Unseen(out_of_fold=out_of_fold, val=logits(VAL_LABELS, MEMBERS))


def test_the_better_family_counts_more():
    """Shares follow log loss and sum to 1; what only adds noise gets none."""
    shares = select_mixture([family(2.2, 5), family(2, 6), family(0, 7)], LABELS, VAL_LABELS).shares
    assert sum(shares) == pytest.approx(1)
    assert shares[0] > shares[1] > shares[2] == 0


def test_a_family_alone_counts_whole():
    """Nothing else to choose: share 1."""
    assert select_mixture([family(1, 5)], LABELS, VAL_LABELS).shares == (1,)


def test_confidence_is_no_reason_to_be_left_out():
    """The same answers, less sure, are tempered first and count as much."""
    sure = select_mixture([family(2, 5), family(2, 6)], LABELS, VAL_LABELS)
    unsure = select_mixture([family(2, 5), family(2, 6, scale=1.2)], LABELS, VAL_LABELS)
    assert unsure.shares == pytest.approx(sure.shares, abs=0.04)
    assert unsure.temperatures[1] == pytest.approx(0.6 * sure.temperatures[1], rel=0.01)


def test_rows_that_some_family_was_trained_on_are_left_out():
    """A row counts only where each family has a member that left it out."""
    known = slice(0, 150)
    whole = select_mixture([family(2, 5), family(2, 6, known=known)], LABELS, VAL_LABELS)
    cut = select_mixture([family(2, 5, known=known), family(2, 6, known=known)], LABELS, VAL_LABELS)
    assert whole == cut


def test_without_left_out_rows_validation_rows_decide():
    """Models of one's own have no left-out rows."""
    none = LABELS[:0]
    families = [
        Unseen(out_of_fold=torch.empty(0, CLASSES), val=family(skill, 5).val) for skill in (3, 1)
    ]
    assert select_mixture(families, none, VAL_LABELS).shares[0] > 0.8


def test_what_was_selected_is_tempered():
    """The last temperature is that of least log loss of the mixed answers, which are unsure."""
    families = [family(2, seed) for seed in (5, 6, 7)]
    found = select_mixture(families, LABELS, VAL_LABELS)
    answers = [
        torch.cat([each.out_of_fold / own, average_probabilities(each.val / own)]).softmax(dim=1)
        for each, own in zip(families, found.temperatures, strict=True)
    ]
    mixed = torch.tensordot(torch.tensor(found.shares), torch.stack(answers), dims=1).log()
    truth = torch.cat([LABELS, VAL_LABELS])
    assert found.temperature == pytest.approx(fit_temperature(mixed, truth), rel=1e-4)
    assert found.temperature < 0.9


def test_a_validation_row_counts_once_however_many_members_answer():
    """A family of four members that say the same is tempered as one of them alone is."""
    one = family(2, 5)
    alone = replace(one, val=one.val[:1] / 2)
    four = replace(one, val=alone.val.expand(4, M, CLASSES))
    apart = replace(one, val=alone.val[:, :0])
    (found,), (same,), (without,) = (
        select_mixture([each], LABELS, VAL_LABELS[: each.val.shape[1]]).temperatures
        for each in (four, alone, apart)
    )
    assert found == pytest.approx(same, rel=1e-4)
    assert found < 0.95 * without


@pytest.mark.parametrize("averaging", AVERAGES)
def test_equal_weights_are_the_plain_average(averaging):
    """A weighted average of equal weights is the mean, and weight 1 is the member itself."""
    logits = torch.randn(4, 7, CLASSES, generator=generator(3))
    average = AVERAGES[averaging]
    torch.testing.assert_close(average(logits, torch.full((4,), 0.25)), average(logits))
    alone = average(logits, torch.tensor([0.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(alone.softmax(dim=1), logits[1].softmax(dim=1))
