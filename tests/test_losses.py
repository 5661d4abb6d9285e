"""Advantages, token weights and losses by hand, and what normalisation does to the rewards."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cair_lightning.losses import group_advantages, grpo_loss, kl_k3, sft_loss, token_weights
from cair_lightning.rewards import causal_mediation, composite_reward

NORMALISATIONS = ["sequence", "token", "constant"]


def test_advantages_by_hand() -> None:
    # mean 2, unbiased variance (1 + 1) / 2 = 1; and mean 0, variance 2 x 16 / 2 = 16.
    advantages = group_advantages(torch.tensor([[1.0, 2.0, 3.0], [-4.0, 0.0, 4.0]]))
    torch.testing.assert_close(advantages, torch.tensor([[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]]))


def test_one_wrong_answer_in_eight_is_untouched_by_the_floor() -> None:
    rewards = torch.tensor([[0.0] + [1.0] * 7])
    advantages = group_advantages(rewards)
    torch.testing.assert_close(advantages, group_advantages(rewards, std_floor=0.0))
    assert advantages[0, 0].item() == pytest.approx(-0.875 / math.sqrt(1 / 8))


def test_floor_keeps_noise_small() -> None:
    rewards = 2.0 + torch.linspace(-5e-4, 5e-4, 8)[None]
    assert group_advantages(rewards).abs().max() < 0.03
    assert group_advantages(rewards, std_floor=0.0).abs().max() > 1.0


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("group", [2, 6, 7, 8])
@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_equal_rewards_have_no_advantage(scale, group, floor) -> None:
    rewards = torch.full((3, group), 0.1)  # whose float32 mean is off by a rounding error for some sizes
    assert group_advantages(rewards, scale, floor).eq(0).all()


def test_batch_scale_divides_by_one_number() -> None:
    rewards = torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    std = math.sqrt((1 + 0 + 1 + 4) / 3)  # around the mean of all, 1
    advantages = group_advantages(rewards, "batch")
    torch.testing.assert_close(advantages, torch.tensor([[-0.5, 0.5], [-1.5, 1.5]]) / std)


def test_ranks_that_share_the_batch_std_agree_with_one_process() -> None:
    rewards = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    halves = [group_advantages(half, "batch", batch_std=rewards.std()) for half in rewards.split(3)]
    torch.testing.assert_close(torch.cat(halves), group_advantages(rewards, "batch"))


def test_none_only_centres() -> None:
    torch.testing.assert_close(group_advantages(torch.tensor([[0.0, 4.0]]), "none"), torch.tensor([[-2.0, 2.0]]))


def test_advantages_are_float32() -> None:
    assert group_advantages(torch.tensor([[0.0, 1.0]]).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rewards_BG": torch.ones(3, 1)}, "at least two"),
        ({"rewards_BG": torch.ones(8)}, "at least two"),
        ({"rewards_BG": torch.ones(2, 2), "scale": "std"}, "scale"),
        ({"rewards_BG": torch.ones(2, 2), "std_floor": -1.0}, "std_floor"),
        ({"rewards_BG": torch.ones(2, 2), "batch_std": torch.tensor(1.0)}, "batch_std"),
    ],
)
def test_advantages_refuse_what_does_not_fit(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        group_advantages(**arguments)


# What normalisation does to the rewards (design notes, section 3).

rewards_strategy = st.lists(st.floats(-3.0, 3.0, width=32), min_size=8, max_size=8)


@given(values=rewards_strategy, log_p_obs=st.floats(-5.0, -0.1))
def test_log_p_obs_cancels_in_the_group_mean(values, log_p_obs) -> None:
    """Path A is a constant of the group, so unclipped CMR ranks by log P_int alone, under every scale."""
    log_p_int = torch.tensor(values)
    for scale in ("group", "none"):
        ratio = causal_mediation(torch.full((8,), log_p_obs), log_p_int, clip=None)
        torch.testing.assert_close(
            group_advantages(ratio[None], scale), group_advantages(log_p_int[None], scale), atol=1e-4, rtol=1e-4
        )


def test_log_p_obs_acts_through_the_clip() -> None:
    log_p_int = torch.tensor([-3.0, -2.0, -1.0, -0.1])
    sure, unsure = (
        group_advantages(causal_mediation(torch.full((4,), log_p_obs), log_p_int, clip=1.0)[None])
        for log_p_obs in (-0.1, -3.0)
    )
    assert (sure - unsure).abs().max() > 0.5


def mixed_advantages(accuracy: torch.Tensor, weight: float, scale: str) -> torch.Tensor:
    mediation = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    total = composite_reward(accuracy, torch.ones(4), mediation, torch.full((4,), weight))
    return group_advantages(total[None], scale)


def test_weight_cancels_where_mediation_is_the_only_reward_that_varies() -> None:
    same = torch.ones(4)
    torch.testing.assert_close(mixed_advantages(same, 0.3, "group"), mixed_advantages(same, 3.0, "group"))


def test_weight_scales_the_advantage_without_group_normalisation() -> None:
    same = torch.ones(4)
    torch.testing.assert_close(mixed_advantages(same, 3.0, "none"), 10 * mixed_advantages(same, 0.3, "none"))


def test_weight_scales_the_advantage_below_the_floor() -> None:
    same = torch.ones(4)
    # Deviations of 0.0129 and 0.0258: eq. 6 over a hundred prompts.
    torch.testing.assert_close(
        mixed_advantages(same, 0.02, "group"), 2 * mixed_advantages(same, 0.01, "group"), atol=1e-5, rtol=1e-4
    )


def test_weight_acts_through_the_mix_with_accuracy() -> None:
    # The two rewards disagree: the right answer is the one with the lowest mediation.
    right = torch.tensor([1.0, 0.0, 0.0, 0.0])
    light, heavy = (mixed_advantages(right, weight, "group") for weight in (0.1, 3.0))
    assert light.argmax() == 0
    assert heavy.argmax() == 3


def test_token_weights_by_hand() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    sequence, token, constant = (token_weights(mask, norm, 8, 4, 12) for norm in NORMALISATIONS)
    torch.testing.assert_close(sequence, torch.tensor([[1 / 8, 1 / 8, 0, 0], [1 / 16] * 4, [0.0] * 4]))
    torch.testing.assert_close(token, mask / 12)
    torch.testing.assert_close(constant, mask / 32)


@given(
    lengths=st.lists(st.integers(0, 5), min_size=4, max_size=12),
    cut=st.integers(1, 3),
)
def test_weights_of_all_micro_batches_sum_to_one(lengths, cut) -> None:
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    sequences, tokens = int((mask.sum(1) > 0).sum()), int(mask.sum())
    for norm in NORMALISATIONS:
        parts = [token_weights(part, norm, 5, sequences, tokens) for part in mask.tensor_split(cut)]
        whole = torch.cat(parts)
        torch.testing.assert_close(whole, token_weights(mask, norm, 5, sequences, tokens))
        assert whole[~mask].eq(0).all()
        if tokens:
            expected = tokens / sequences / 5 if norm == "constant" else 1.0
            assert whole.sum().item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("norm", NORMALISATIONS)
def test_window_without_a_trained_token_weighs_nothing(norm) -> None:
    assert token_weights(torch.zeros(2, 3), norm, 3, 0, 0).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tokens", 4, 2, 8), "normalisation"),
        (("token", 4, 2, 7), "whole optimiser step"),
        (("sequence", 4, 1, 8), "whole optimiser step"),
        (("constant", 0, 2, 8), "max_tokens"),
    ],
)
def test_token_weights_refuse_what_does_not_fit(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        token_weights(torch.ones(2, 4), *arguments)


def test_k3_by_hand() -> None:
    value = kl_k3(torch.tensor([0.5]).log(), torch.tensor([0.25]).log())
    torch.testing.assert_close(value, torch.tensor([0.5 + math.log(2) - 1]))


def test_k3_is_exact_near_zero_in_float32() -> None:
    difference = torch.tensor([1e-4, -1e-4, 0.0])
    logps = torch.full((3,), 0.0)
    torch.testing.assert_close(kl_k3(logps, difference), difference**2 / 2, rtol=1e-3, atol=0)


def test_k3_averages_to_the_divergence() -> None:
    policy, reference = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.2, 0.5, 0.3])
    expected = (policy * (policy / reference).log()).sum()
    torch.testing.assert_close((policy * kl_k3(policy.log(), reference.log())).sum(), expected)


def test_on_policy_gradient_is_weight_times_advantage() -> None:
    logps = torch.tensor([[-1.0, -2.0], [-0.5, -3.0]], requires_grad=True)
    weights, advantages = torch.tensor([[0.25, 0.25], [0.5, 0.0]]), torch.tensor([2.0, -1.0])
    loss, stats = grpo_loss(logps, logps.detach(), advantages, weights, clip=0.2)
    loss.backward()
    assert loss.item() == pytest.approx(-(0.5 * 2.0 - 0.5 * 1.0))
    torch.testing.assert_close(logps.grad, torch.tensor([[-0.5, -0.5], [0.5, 0.0]]))
    assert {name: value.item() for name, value in stats.items()} == {"ratio": 1.0, "clip_fraction": 0.0}


def test_clip_by_hand() -> None:
    """Four tokens, ratios 1.5 and 0.5, both signs: the clip stops the two that have gone far enough."""
    ratios = torch.tensor([[1.5, 0.5], [1.5, 0.5]])
    logps = ratios.log().requires_grad_()
    weights, advantages = torch.full((2, 2), 0.25), torch.tensor([1.0, -1.0])
    loss, stats = grpo_loss(logps, torch.zeros(2, 2), advantages, weights, clip=0.2)
    loss.backward()
    assert loss.item() == pytest.approx(-0.25 * (1.2 + 0.5 - 1.5 - 0.8))
    torch.testing.assert_close(logps.grad, -0.25 * torch.tensor([[0.0, 0.5], [-1.5, 0.0]]))
    assert stats["clip_fraction"].item() == 0.5
    assert stats["ratio"].item() == pytest.approx(1.0)
    free, _ = grpo_loss(logps, torch.zeros(2, 2), advantages, weights)
    assert free.item() == pytest.approx(-0.25 * (1.5 + 0.5 - 1.5 - 0.5))


def test_kl_is_trained_on_only_with_eta() -> None:
    logps = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    reference, weights = torch.tensor([[-1.5, -1.0]]), torch.tensor([[0.5, 0.5]])
    divergence = 0.5 * ((math.exp(-0.5) + 0.5 - 1) + (math.exp(1.0) - 1 - 1))
    for eta in (0.0, 0.04):
        loss, stats = grpo_loss(logps, logps.detach(), torch.zeros(1), weights, reference, eta)
        assert stats["kl"].item() == pytest.approx(divergence)
        assert loss.item() == pytest.approx(eta * divergence, abs=1e-7)
        assert not stats["kl"].requires_grad
        (gradient,) = torch.autograd.grad(loss, logps)
        # d k3 / d logp = 1 - exp(d)
        torch.testing.assert_close(gradient, eta * 0.5 * (1 - torch.tensor([[-0.5, 1.0]]).exp()))


@pytest.mark.parametrize("filler", [-math.inf, math.nan, math.inf, 1e9])
def test_padding_takes_no_part_whatever_stands_there(filler) -> None:
    full = torch.tensor([[-1.0, filler], [-2.0, -3.0], [filler, filler]], requires_grad=True)
    mask = torch.tensor([[1, 0], [1, 1], [0, 0]])
    weights = token_weights(mask, "sequence", 2, 2, 3)
    advantages, old = torch.tensor([1.0, -1.0, 5.0]), full.detach() - 0.1
    loss, stats = grpo_loss(full, old, advantages, weights, old - 0.2, eta=0.5, clip=0.2)
    loss.backward()
    assert all(value.isfinite() for value in [loss, *stats.values()])
    assert full.grad[mask == 0].eq(0).all()
    assert full.grad[mask == 1].ne(0).all()
    clean = full.detach().masked_fill(mask == 0, -7.0)
    again, _ = grpo_loss(clean, clean - 0.1, advantages, weights, clean - 0.3, eta=0.5, clip=0.2)
    torch.testing.assert_close(again, loss.detach())
    assert sft_loss(full, weights).isfinite()


def test_dead_micro_batch_has_no_loss_and_still_a_backward() -> None:
    logps = torch.tensor([[-1.0, -math.inf]], requires_grad=True)
    dead = torch.zeros(1, 2)
    loss, stats = grpo_loss(logps, logps.detach(), torch.ones(1), dead, logps.detach(), eta=0.1)
    (loss + sft_loss(logps, dead)).backward()
    assert loss.item() == 0.0
    assert logps.grad.tolist() == [[0.0, 0.0]]
    assert {name: value.item() for name, value in stats.items()} == {"ratio": 0.0, "clip_fraction": 0.0, "kl": 0.0}


ONES = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eta": 0.1}, "ref_logps_NT"),
        ({"eta": -0.1}, "eta"),
        ({"clip": -0.1}, "clip"),
        ({"advantages_N": torch.ones(2, 1)}, "flatten"),  # would be broadcast to (2, 1, 3)
        ({"old_logps_NT": torch.ones(2, 1)}, "one shape"),
        ({"weights_NT": torch.ones(3)}, "one shape"),
        ({"ref_logps_NT": torch.ones(2, 2)}, "one shape"),
    ],
)
def test_grpo_loss_refuses_what_does_not_fit(arguments, message) -> None:
    fitting = {"logps_NT": ONES, "old_logps_NT": ONES, "advantages_N": torch.ones(2), "weights_NT": ONES}
    with pytest.raises(ValueError, match=message):
        grpo_loss(**(fitting | arguments))


def test_sft_loss_is_the_mean_cross_entropy_of_pytorch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(3, 5, 11, generator=generator), torch.randint(11, (3, 5), generator=generator)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
    logps = logits.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    expected = torch.nn.functional.cross_entropy(logits[mask], target[mask])
    torch.testing.assert_close(sft_loss(logps, token_weights(mask, "token", 5, 2, 6)), expected)


def test_sft_loss_refuses_weights_of_another_shape() -> None:
    with pytest.raises(ValueError, match="one shape"):
        sft_loss(ONES, torch.ones(2, 1))
