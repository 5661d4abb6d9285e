"""Losses, gradients and advantages against TRL's own code on the same tensors.

`GRPOTrainer._compute_loss` runs as it is; only the trainer around it is a bag of the attributes it reads.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from cair_lightning.losses import group_advantages, grpo_loss, token_weights

pytest.importorskip("trl", reason="TRL is the independent reference of the losses")
from trl import GRPOTrainer
from trl.trainer.utils import nanstd

N, T = 6, 5
MAX_TOKENS = 9
LOSS_TYPES = {"grpo": "sequence", "dapo": "token", "bnpo": "token", "dr_grpo": "constant"}


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    new = -2 * torch.rand(N, T, generator=generator)
    lengths = torch.tensor([5, 1, 3, 4, 2, 5])
    return {
        "new": new,
        "old": new + 0.5 * torch.randn(N, T, generator=generator),
        "ref": new + 0.5 * torch.randn(N, T, generator=generator),
        "advantages": torch.randn(N, generator=generator),
        "mask": (torch.arange(T) < lengths[:, None]).long(),
    }


def trainer(
    logps: torch.Tensor, loss_type: str, beta: float, clip: float, processes: int, steps: int
) -> SimpleNamespace:
    """What `_compute_loss` reads of a trainer; the model's forward is replaced by the log-probabilities themselves."""
    single = SimpleNamespace(
        num_processes=processes, gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x
    )
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logps, torch.zeros_like(logps), None),
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=steps),
        accelerator=single,
        loss_type=loss_type,
        beta=beta,
        epsilon_low=clip,
        epsilon_high=clip,
        max_completion_length=MAX_TOKENS,
        current_gradient_accumulation_steps=steps,
        importance_sampling_level="token",
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        aux_loss_enabled=False,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )


def trl_loss(
    rows: dict[str, torch.Tensor], logps: torch.Tensor, fake: SimpleNamespace, n_tokens: int, on_policy: bool = False
) -> torch.Tensor:
    ids = torch.zeros_like(rows["mask"])
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones_like(ids[:, :1]),
        "completion_ids": ids,
        "completion_mask": rows["mask"],
        "advantages": rows["advantages"],
        "old_per_token_logps": None if on_policy else rows["old"],
        "ref_per_token_logps": rows["ref"],
        "num_items_in_batch": torch.tensor(n_tokens),
    }
    return GRPOTrainer._compute_loss(fake, None, inputs)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("clip", [0.2, 1e9])
def test_loss_gradient_and_statistics_agree_with_trl(loss_type, beta, clip) -> None:
    rows = tensors()
    theirs, ours = (rows["new"].clone().requires_grad_() for _ in range(2))
    fake = trainer(theirs, loss_type, beta, clip, processes=1, steps=1)
    tokens = int(rows["mask"].sum())
    expected = trl_loss(rows, theirs, fake, tokens)
    expected.backward()

    weights = token_weights(rows["mask"], LOSS_TYPES[loss_type], MAX_TOKENS, N, tokens)
    # A ratio is never 1e9, so TRL with that epsilon does not clip.
    no_clip = None if clip > 1 else clip
    loss, stats = grpo_loss(ours, rows["old"], rows["advantages"], weights, rows["ref"], beta, no_clip)
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-5)
    assert ours.grad.abs().max() > 1e-3
    if LOSS_TYPES[loss_type] == "token":  # TRL logs token means
        metrics = fake._metrics["train"]
        assert stats["clip_fraction"].item() == pytest.approx(metrics["clip_ratio/region_mean"][0], abs=1e-6)
        assert (stats["clip_fraction"] > 0) == (no_clip is not None)
        if beta:
            assert stats["kl"].item() == pytest.approx(metrics["kl"][0], abs=1e-6)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_on_policy_agrees_with_trl(loss_type) -> None:
    rows = tensors(1)
    theirs, ours = (rows["new"].clone().requires_grad_() for _ in range(2))
    tokens = int(rows["mask"].sum())
    expected = trl_loss(rows, theirs, trainer(theirs, loss_type, 0.04, 0.2, 1, 1), tokens, on_policy=True)
    expected.backward()
    weights = token_weights(rows["mask"], LOSS_TYPES[loss_type], MAX_TOKENS, N, tokens)
    loss, _ = grpo_loss(ours, ours.detach(), rows["advantages"], weights, rows["ref"], 0.04, 0.2)
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_micro_batches_of_several_ranks_agree_with_trl(loss_type) -> None:
    """3 ranks x 1 step and 1 rank x 3 steps; DDP means over ranks, accumulation sums over steps, ours is one sum."""
    rows = tensors(2)
    tokens = int(rows["mask"].sum())
    parts = [{name: value[i : i + 2] for name, value in rows.items()} for i in range(0, N, 2)]
    ours = sum(
        grpo_loss(
            part["new"],
            part["old"],
            part["advantages"],
            token_weights(part["mask"], LOSS_TYPES[loss_type], MAX_TOKENS, N, tokens),
            part["ref"],
            0.04,
            0.2,
        )[0]
        for part in parts
    )
    for processes, steps in ((3, 1), (1, 3)):
        losses = [
            trl_loss(part, part["new"], trainer(part["new"], loss_type, 0.04, 0.2, processes, steps), tokens)
            for part in parts
        ]
        torch.testing.assert_close(ours, sum(losses) / processes, atol=1e-6, rtol=1e-5)


def test_rows_without_a_token_agree_with_trl_where_all_rows_are_counted() -> None:
    rows = tensors(3)
    rows["mask"][2] = 0
    expected = trl_loss(rows, rows["new"], trainer(rows["new"], "grpo", 0.04, 0.2, 1, 1), int(rows["mask"].sum()))
    weights = token_weights(rows["mask"], "sequence", MAX_TOKENS, N, int(rows["mask"].sum()))
    loss, _ = grpo_loss(rows["new"], rows["old"], rows["advantages"], weights, rows["ref"], 0.04, 0.2)
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_standard_deviation_is_trls(scale) -> None:
    rewards = torch.rand(4, 8, generator=torch.Generator().manual_seed(4))
    std = nanstd(rewards, dim=1, keepdim=True) if scale == "group" else nanstd(rewards)
    expected = (rewards - rewards.mean(1, keepdim=True)) / (std + 1e-4)
    torch.testing.assert_close(group_advantages(rewards, scale), expected, rtol=2e-3, atol=0)
    # And without TRL's epsilon nothing but rounding is left.
    torch.testing.assert_close(group_advantages(rewards, scale), expected * (std + 1e-4) / std)
