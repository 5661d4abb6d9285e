"""Tokens that another engine sampled: their weights, and what they do to the objective, by hand."""

import math

import pytest
import torch

from cair_lightning.losses import grpo_loss, importance_weights


def test_weights_are_the_ratio_of_probabilities_up_to_the_cap() -> None:
    trainer = torch.tensor([[0.5, 0.2, 0.9, 1.0]]).log()
    engine = torch.tensor([[0.25, 0.4, 0.1, 1.0]]).log()
    torch.testing.assert_close(importance_weights(trainer, engine, cap=3.0), torch.tensor([[2.0, 0.5, 3.0, 1.0]]))
    with pytest.raises(ValueError, match=r"expected a cap >= 1, got 0.5"):
        importance_weights(trainer, engine, cap=0.5)


def test_the_gain_of_each_token_is_multiplied_and_the_kl_is_not() -> None:
    logps = torch.tensor([[-1.0, -2.0], [-0.5, -3.0]], requires_grad=True)
    reference = torch.tensor([[-1.5, -1.0], [-0.5, -2.0]])
    advantages, weights = torch.tensor([2.0, -1.0]), torch.tensor([[0.25, 0.25], [0.5, 0.0]])
    correction = torch.tensor([[2.0, 0.5], [1.5, 7.0]])
    loss, _ = grpo_loss(logps, logps.detach(), advantages, weights, reference, 0.1, correction_NT=correction)
    k3 = [math.exp(d) - d - 1 for d in (-0.5, 1.0, 0.0)]
    gains = [2.0 * 2.0, 0.5 * 2.0, 1.5 * -1.0]
    expected = -sum(w * (g - 0.1 * k) for w, g, k in zip((0.25, 0.25, 0.5), gains, k3, strict=True))
    assert float(loss) == pytest.approx(expected, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, logps)
    slopes = [1 - math.exp(d) for d in (-0.5, 1.0, 0.0)]  # of k3 by logp
    by_hand = [-w * (g - 0.1 * s) for w, g, s in zip((0.25, 0.25, 0.5), gains, slopes, strict=True)]
    torch.testing.assert_close(gradient, torch.tensor([[by_hand[0], by_hand[1]], [by_hand[2], 0.0]]))


def test_tokens_of_weight_0_may_hold_anything_and_shapes_have_to_fit() -> None:
    logps, weights = torch.tensor([[-1.0, -2.0]]), torch.tensor([[1.0, 0.0]])
    correction = torch.tensor([[1.5, torch.nan]])
    loss, _ = grpo_loss(logps, logps, torch.tensor([1.0]), weights, correction_NT=correction)
    assert float(loss) == -1.5
    with pytest.raises(ValueError, match=r"of one shape \(N, T\), got"):
        grpo_loss(logps, logps, torch.tensor([1.0]), weights, correction_NT=torch.ones(1, 1))
