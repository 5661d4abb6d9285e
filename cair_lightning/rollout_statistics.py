"""What is logged of a rollout, over the prompts of all ranks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cair_lightning.rollout import Gather, Rollout

EQUAL = 1e-6
"""Rewards whose spread is smaller count as equal."""


def rollout_statistics(rollout: Rollout, gather: Gather = lambda x: x) -> dict[str, Tensor]:
    """Scalars by name: rewards, groups, completions, leaks, lambda, beliefs; none where no prompt is valid.

    `zero_variance_groups` is the share of groups all of whose rewards are equal: they teach nothing. `truncated` is the
    share of completions that were cut off at the limit, `leak_rate` the share of rationales that name a candidate.

    Args:
        rollout: A rollout.
        gather: Concatenates a tensor over the ranks.
    """
    group = rollout.group_size
    valid_B = gather(rollout.prompts.valid_B)
    if not valid_B.any():
        return {}
    valid_N = valid_B.repeat_interleave(group)
    rewards = {name: gather(values_N)[valid_N].float() for name, values_N in rollout.rewards.items()}
    result: dict[str, Tensor] = {}
    for name, values in rewards.items():
        result |= {f"reward/{name}/mean": values.mean(), f"reward/{name}/std": values.std()}
    total_BG = rewards["total"].view(-1, group)
    result["zero_variance_groups"] = (total_BG.amax(1) - total_BG.amin(1) < EQUAL).float().mean()
    lengths_N = gather(rollout.completions.mask_NT.sum(1))[valid_N].float()
    result["completion_length"] = lengths_N.mean()
    result["truncated"] = gather(rollout.completions.truncated_N)[valid_N].float().mean()
    formed_N = gather(torch.tensor([a is not None for a in rollout.verdict.answers], device=valid_N.device)) & valid_N
    if formed_N.any():
        result["leak_rate"] = gather(rollout.leaked_N)[formed_N].float().mean()
    lambda_B = gather(rollout.lambda_B)[valid_B]
    result |= {"lambda/min": lambda_B.min(), "lambda/max": lambda_B.max(), "lambda/std": lambda_B.std(correction=0)}
    result["entropy_bits"] = gather(rollout.entropy_B)[valid_B].mean() / math.log(2)
    return result


def agreement(differences: Tensor, gather: Gather = lambda x: x) -> dict[str, Tensor]:
    """How far an engine's log-probabilities are from the trainer's: mean, largest, and the share that is beyond 1 %.

    Args:
        differences: Absolute differences in nats, of this rank's tokens.
        gather: Concatenates a tensor over the ranks.

    >>> agreement(torch.tensor([0.0, 0.02, 0.001, 0.0]))["logp_difference/share_beyond_1_percent"]
    tensor(0.2500)
    """
    beyond = (differences.expm1() > 0.01).to(differences)
    of_rank = (differences.sum(), beyond.sum(), differences.new_tensor(len(differences)))
    sums = torch.stack([gather(value[None]).sum() for value in of_rank])
    largest = gather(torch.cat([differences, differences.new_zeros(1)]).max()[None]).max()
    means = sums[:2] / sums[2].clamp(min=1)
    return {
        "logp_difference/mean": means[0],
        "logp_difference/max": largest,
        "logp_difference/share_beyond_1_percent": means[1],
    }
