"""Hidden states -> log-probabilities of given tokens; the head is applied to scored tokens only."""

from __future__ import annotations

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
    head: Callable[[Tensor], Tensor], hidden_MD: Tensor, targets_M: Tensor, temperature: float, rows: int = SCORED_ROWS
) -> Tensor:
    """Log-probabilities of M tokens, a block of rows at a time; with gradient, the logits of each are recomputed.

    Args:
        head: From hidden states to logits in float32.
        hidden_MD: The states that predict the tokens.
        targets_M: The tokens' ids.
        temperature: Divides the logits; 0 counts as 1.
        rows: Tokens of a block.
    """

    def block(hidden: Tensor, targets: Tensor) -> Tensor:
        logits_MV = head(hidden)
        return target_logps(logits_MV if temperature in (0.0, 1.0) else logits_MV / temperature, targets)

    recompute = torch.is_grad_enabled() and len(hidden_MD) > rows
    blocks = []
    for first in range(0, len(hidden_MD), rows):
        part = hidden_MD[first : first + rows], targets_M[first : first + rows]
        blocks.append(checkpoint(block, *part, use_reentrant=False) if recompute else block(*part))
    return torch.cat(blocks) if blocks else hidden_MD.new_zeros(0, dtype=torch.float32)
