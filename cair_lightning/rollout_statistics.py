"""What is logged of a rollout, over the prompts of all ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cair_lightning.rollout import Rollout


def rollout_statistics(rollout: Rollout, gather: Callable[[Tensor], Tensor] = lambda x: x) -> dict[str, Tensor]:
    """Scalars by name: rewards, groups, completions, leaks, lambda, beliefs.

    `zero_variance_groups` is the share of groups all of whose rewards are equal: they teach nothing. `truncated` is the
    share of completions that were cut off at the limit.

    Args:
        rollout: A rollout.
        gather: Concatenates a tensor over the ranks.
    """
    group = rollout.group_size
    valid_B = gather(rollout.prompts.valid_B)
    valid_N = valid_B.repeat_interleave(group)
    result: dict[str, Tensor] = {}
    for name, values_N in rollout.rewards.items():
        values = gather(values_N)[valid_N].float()
        result[f"reward/{name}/mean"], result[f"reward/{name}/std"] = values.mean(), values.std()
    spread_B = gather(rollout.rewards["total"]).view(-1, group).amax(1) - gather(rollout.rewards["total"]).view(-1, group).amin(1)
    result["zero_variance_groups"] = (spread_B[valid_B] < 1e-6).float().mean()
    lengths_N = gather(rollout.completions.mask_NT.sum(1))[valid_N].float()
    result["completion_length"] = lengths_N.mean()
    result["truncated"] = gather(rollout.completions.truncated_N)[valid_N].float().mean()
    formed_N = gather(torch.tensor([a is not None for a in rollout.verdict.answers], device=valid_N.device)) & valid_N
    if formed_N.any():
        result["leak_rate"] = gather(rollout.leaked_N)[formed_N].float().mean()
    lambda_B = gather(rollout.lambda_B)[valid_B]
    result |= {"lambda/min": lambda_B.min(), "lambda/max": lambda_B.max(), "lambda/std": lambda_B.std(correction=0)}
    result["entropy_bits"] = gather(rollout.entropy_B)[valid_B].mean() / torch.log(torch.tensor(2.0))
    return {name: value for name, value in result.items() if not value.isnan()}
