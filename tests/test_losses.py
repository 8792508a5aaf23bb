"""Losses: identities between the soft loss, the hard loss and torch's own."""

import pytest
import torch
import torch.nn.functional as F

from kd_mlflow.population.losses import (
    UNLABELLED,
    DistillationLoss,
    LabelLoss,
    average_logits,
    average_probabilities,
    hard_loss,
    label_shares,
    soft_loss,
    soft_targets,
)

K, BATCH, CLASSES, N = 4, 12, 3, 30
TEMPERATURE = torch.tensor([1.0, 2.0, 3.0, 7.5], dtype=torch.float64)


def normal(*shape, seed=0):
    """Normal values of deviation 3, in double precision."""
    return 3 * torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.fixture
def logits():
    """A population's logits, which take a gradient."""
    return normal(K, BATCH, CLASSES).requires_grad_()


@pytest.fixture
def rows():
    """Each member's batch."""
    return torch.randint(N, (K, BATCH), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels():
    """The label of each row of the table."""
    return torch.randint(CLASSES, (N,), generator=torch.Generator().manual_seed(2))


def distillation(labels, alpha):
    """The loss under test, with a temperature per member."""
    return DistillationLoss(
        normal(N, CLASSES, seed=3),
        labels,
        temperature=TEMPERATURE,
        alpha=torch.as_tensor(alpha, dtype=torch.float64).expand(K),
    )


def test_soft_loss_is_zero_at_equality(logits):
    """A student that answers as the ensemble does has no soft loss and no gradient."""
    loss, own = soft_loss(logits, logits.detach(), TEMPERATURE)
    torch.testing.assert_close(loss, torch.zeros(K, BATCH, dtype=torch.float64))
    torch.testing.assert_close(own, torch.zeros_like(logits))


def test_soft_loss_ignores_a_shift_of_logits(logits):
    """Logits that differ by a constant a row are the same probabilities, so the loss is zero."""
    shifted = logits.detach() + normal(K, BATCH, 1, seed=5)
    loss, _ = soft_loss(logits, shifted, TEMPERATURE)
    torch.testing.assert_close(loss, torch.zeros(K, BATCH, dtype=torch.float64))


def test_soft_loss_is_torchs_batchmean_kl(logits):
    """Each member's soft loss is T^2 times torch's batchmean KL divergence."""
    teacher = normal(K, BATCH, CLASSES, seed=3)
    loss, _ = soft_loss(logits, teacher, TEMPERATURE)
    for i, t in enumerate(TEMPERATURE.tolist()):
        student = torch.log_softmax(logits[i] / t, dim=1)
        kl = F.kl_div(student, soft_targets(teacher[i], t), reduction="batchmean")
        torch.testing.assert_close(loss[i].mean(), t * t * kl)


def test_soft_loss_gradient_is_that_of_soft_cross_entropy(logits):
    """KL and cross-entropy to soft targets differ by a constant: their gradients are equal."""
    teacher = normal(K, BATCH, CLASSES, seed=3)
    t = TEMPERATURE[:, None, None]
    cross = -(soft_targets(teacher, t) * torch.log_softmax(logits / t, dim=-1)).sum(-1)
    (expected,) = torch.autograd.grad((t[..., 0].square() * cross).sum(), logits)
    torch.testing.assert_close(soft_loss(logits, teacher, TEMPERATURE)[1], expected)


def test_soft_loss_stays_finite_for_certain_ensembles():
    """Logits far apart give a finite loss and gradient in float32."""
    logits = torch.tensor([[[-500.0, 500.0]]])
    loss, own = soft_loss(logits, -logits, torch.tensor([1.0]))
    assert loss.isfinite().all()
    assert own.isfinite().all()


def test_hard_loss_is_each_members_cross_entropy(logits, rows, labels):
    """Each member's hard loss is torch's mean cross-entropy on its own rows."""
    loss, _ = hard_loss(logits, label_shares(labels[rows], None, like=logits))
    for i in range(K):
        torch.testing.assert_close(loss[i].mean(), F.cross_entropy(logits[i], labels[rows[i]]))


def test_alpha_0_is_cross_entropy(logits, rows, labels):
    """With alpha 0 the loss and its gradient are the label loss's."""
    loss, plain = (each(logits, rows) for each in (distillation(labels, 0.0), LabelLoss(labels)))
    torch.testing.assert_close(loss.values["train_loss"], plain.values["train_loss"])
    torch.testing.assert_close(loss.gradient, plain.gradient)


def test_alpha_1_is_the_soft_loss(logits, rows, labels):
    """With alpha 1 the loss and its gradient are the soft loss's; labels do not count."""
    distilled = distillation(labels, 1.0)
    loss = distilled(logits, rows)
    soft, own = soft_loss(logits, distilled.ensemble_logits[rows], TEMPERATURE)
    torch.testing.assert_close(loss.values["train_loss"], soft)
    torch.testing.assert_close(loss.gradient, own)


def test_alpha_weighs_the_soft_loss(logits, rows, labels):
    """The loss is alpha times the soft loss plus the rest times the hard loss, by member."""
    alpha = torch.tensor([0.0, 0.25, 0.7, 1.0], dtype=torch.float64)
    losses = distillation(labels, alpha)(logits, rows).values
    weight = alpha[:, None]
    expected = weight * losses["soft_loss"] + (1 - weight) * losses["hard_loss"]
    torch.testing.assert_close(losses["train_loss"], expected)


def test_a_row_without_a_label_has_the_soft_loss_alone(logits, rows, labels):
    """Whatever alpha, an unlabelled row's loss is its soft loss; its hard loss does not exist."""
    whole = distillation(labels, 0.3)(logits, rows).values
    hidden = labels.clone()
    hidden[: N // 2] = UNLABELLED
    losses = distillation(hidden, 0.3)(logits, rows).values
    without = rows < N // 2
    assert without.any()
    torch.testing.assert_close(losses["train_loss"][without], losses["soft_loss"][without])
    torch.testing.assert_close(losses["train_loss"][~without], whole["train_loss"][~without])
    assert losses["hard_loss"].isnan().equal(without)


def test_mixed_loss_is_cross_entropy_to_the_mixed_label(logits, rows, labels):
    """A mixed row's loss is torch's cross-entropy to the mixture of both rows' one-hot labels."""
    weight = torch.rand(K, BATCH, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    loss = LabelLoss(labels)(logits, rows, weight).values["train_loss"]
    own = F.one_hot(labels[rows], CLASSES).double()
    before = F.one_hot(labels[rows.roll(1, dims=1)], CLASSES).double()
    target = weight[..., None] * own + (1 - weight[..., None]) * before
    expected = F.cross_entropy(
        logits.reshape(-1, CLASSES), target.reshape(-1, CLASSES), reduction="none"
    )
    torch.testing.assert_close(loss, expected.view(K, BATCH))


def test_a_mixed_row_has_no_soft_loss(logits, rows, labels):
    """Soft targets belong to rows as they are, so a mixed row has no soft loss to report."""
    weight = torch.ones(K, BATCH, dtype=torch.float64)
    weight[0] = 0.5
    soft = distillation(labels, 0.0)(logits, rows, weight).values["soft_loss"]
    assert soft[0].isnan().all()
    assert not soft[1:].isnan().any()


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_gradients_are_autograds(logits, rows, labels, alpha, mixed):
    """Both losses' gradients are autograd's, with and without labels, mixed or not."""
    labels[: N // 3] = UNLABELLED
    generator = torch.Generator().manual_seed(7)
    weight = torch.rand(K, BATCH, generator=generator, dtype=torch.float64) if mixed else None
    for loss in (distillation(labels, alpha), LabelLoss(labels)):
        losses = loss(logits, rows, weight)
        (expected,) = torch.autograd.grad(losses.values["train_loss"].sum(), logits)
        torch.testing.assert_close(losses.gradient, expected)


def test_loss_of_some_members_is_their_part(logits, rows, labels):
    """The loss of a slice of members gives the values they have among all."""
    loss = distillation(labels, torch.tensor([0.1, 0.2, 0.3, 0.4]))
    part = slice(1, 3)
    whole, some = loss(logits, rows), loss.members(part)(logits[part], rows[part])
    assert set(whole.values) == set(some.values)
    for name, values in some.values.items():
        torch.testing.assert_close(values, whole.values[name][part])
    torch.testing.assert_close(some.gradient, whole.gradient[part])


def test_average_logits_is_the_mean_over_members():
    """The ensemble's logits are the members' mean, row by row."""
    first, second = normal(BATCH, CLASSES), normal(BATCH, CLASSES, seed=9)
    torch.testing.assert_close(average_logits(torch.stack([first, second])), (first + second) / 2)


def test_averaged_probabilities_are_the_mean_of_softmax():
    """Averaged probabilities, as logits, have the mean of the members' probabilities."""
    logits = torch.stack([normal(BATCH, CLASSES), normal(BATCH, CLASSES, seed=9)])
    torch.testing.assert_close(
        average_probabilities(logits).softmax(dim=-1), logits.softmax(dim=-1).mean(dim=0)
    )


def test_averaged_probabilities_lose_no_more_than_members(labels):
    """The mixture's log loss is at most the members' mean log loss (Jensen)."""
    logits = torch.stack([normal(N, CLASSES), normal(N, CLASSES, seed=9)])
    mixture = F.cross_entropy(average_probabilities(logits), labels)
    assert mixture <= torch.stack([F.cross_entropy(x, labels) for x in logits]).mean()


def test_soft_targets_soften_towards_uniform():
    """Targets are softmax at temperature 1 and uniform at a very high temperature."""
    logits = normal(BATCH, CLASSES)
    torch.testing.assert_close(soft_targets(logits, 1.0), logits.softmax(dim=1))
    uniform = torch.full_like(logits, 1 / CLASSES)
    torch.testing.assert_close(soft_targets(logits, 1e9), uniform)
