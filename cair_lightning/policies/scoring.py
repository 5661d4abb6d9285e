"""Hidden states -> log-probabilities of given tokens; the head is applied to scored tokens only."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

SCORED_ROWS = 2048
"""Scored tokens whose logits exist at the same time: 2,048 x 152,064 float32 values are 1.2 GB."""


def target_logps(logits_MV: Tensor, targets_M: Tensor) -> Tensor:
    """Log-softmax at the targets (M,), in the type of the logits."""
    return -cross_entropy(logits_MV, targets_M, reduction="none")


def token_logps(
    head: Callable[[Tensor], Tensor],
    hidden_MD: Tensor,
    targets_M: Tensor,
    temperature: float,
    rows: int = SCORED_ROWS,
    together: bool = False,
) -> Tensor:
    """Log-probabilities of M tokens, a block of rows at a time; with gradient, the logits of each are recomputed.

    Args:
        head: From hidden states to logits in float32.
        hidden_MD: The states that predict the tokens.
        targets_M: The tokens' ids.
        temperature: Divides the logits; 0 counts as 1.
        rows: Most tokens of a block.
        together: Use the head as often as every other rank does: those whose weights are sharded fetch it together.
    """

    def block(hidden: Tensor, targets: Tensor) -> Tensor:
        logits_MV = head(hidden)
        return target_logps(logits_MV if temperature in (0.0, 1.0) else logits_MV / temperature, targets)

    count = max(1, math.ceil(len(hidden_MD) / rows))
    if together:
        count = max_over_ranks(count, hidden_MD.device)
    parts = zip(hidden_MD.tensor_split(count), targets_M.tensor_split(count), strict=True)
    if torch.is_grad_enabled() and count > 1:
        return torch.cat([checkpoint(block, *part, use_reentrant=False) for part in parts])
    return torch.cat([block(*part) for part in parts])


def max_over_ranks(value: int, device: torch.device) -> int:
    """The largest of what each rank has."""
    if not torch.distributed.is_initialized():
        return value
    largest = torch.tensor(value, device=device)
    torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    return int(largest)
