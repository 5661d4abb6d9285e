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


class Agreement:
    """How far an engine's log-probabilities are from the trainer's, over the parts and ranks of a rollout.

    >>> seen = Agreement()
    >>> seen.add(torch.tensor([[-1.0, -2.0, 0.0]]), torch.tensor([[-1.02, -2.0, 0.0]]), torch.tensor([[0.5, 0.5, 0.0]]))
    >>> {name.rpartition("/")[2]: round(float(value), 3) for name, value in seen.take().items()}
    {'mean': 0.01, 'max': 0.02, 'share_beyond_1_percent': 0.5}
    """

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def add(self, logps_NT: Tensor, sampled_logps_NT: Tensor, weights_NT: Tensor) -> None:
        """Take in a part: the trainer's and the engine's log-probabilities, nats; tokens of weight 0 do not count."""
        self._parts.append((logps_NT - sampled_logps_NT).abs()[weights_NT > 0])

    def take(self, gather: Gather = lambda x: x) -> dict[str, Tensor]:
        """Mean and largest difference in nats, and the share of tokens whose probability is more than 1 % off.

        Args:
            gather: Concatenates a tensor over the ranks.
        """
        differences = torch.cat(self._parts)
        self._parts.clear()
        beyond = (differences.expm1() > 0.01).to(differences)
        of_rank = (differences.sum(), beyond.sum(), differences.new_tensor(len(differences)))
        total, share, count = (gather(value[None]).sum() for value in of_rank)
        largest = gather(torch.cat([differences, differences.new_zeros(1)]).max()[None]).max()
        name, count = "train/engine/logp_difference", count.clamp(min=1)
        return {f"{name}/mean": total / count, f"{name}/max": largest, f"{name}/share_beyond_1_percent": share / count}
