"""Completions, and how one more token of each is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cair_lightning.policies.scoring import target_logps


@dataclass(slots=True, kw_only=True)
class Completions:
    """Sampled completions, G per prompt, those of one prompt next to each other."""

    ids_NT: Tensor
    mask_NT: Tensor
    """True up to and including the end-of-text token."""
    logps_NT: Tensor
    """Log-probability of each token at the sampling temperature, under the weights that sampled it; 0 is padding."""
    truncated_N: Tensor
    """True where the limit came before an end-of-text token."""

    def ids(self, row: int) -> list[int]:
        """The tokens of one completion, without padding."""
        return [int(t) for t in self.ids_NT[row][self.mask_NT[row]]]


def draw(
    logits_NV: Tensor, banned_V: Tensor, temperature: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Draw one token per row, never a banned one.

    Args:
        logits_NV: Logits in float32, at temperature 1.
        banned_V: True on tokens that are never drawn.
        temperature: 0 takes the likeliest token, and log-probabilities are those at 1.
        generator: Source of randomness, on the device of the logits.

    Returns:
        The ids (N,) and their log-probabilities (N,) in the whole distribution, banned tokens included: training
        scores them in the same one.
    """
    logits_NV = logits_NV / (temperature or 1.0)
    allowed_NV = logits_NV.masked_fill(banned_V, -torch.inf)
    if temperature == 0:
        ids_N = allowed_NV.argmax(1)
    else:
        ids_N = torch.multinomial(allowed_NV.softmax(1), 1, generator=generator).squeeze(1)
    return ids_N, target_logps(logits_NV, ids_N)


def any_rank(flag: Tensor, lockstep: bool) -> bool:
    """Whether the flag is set here, or on any rank where ranks have to stay together."""
    if lockstep and torch.distributed.is_initialized():
        count = flag.to(torch.int32)
        torch.distributed.all_reduce(count)
        return bool(count)
    return bool(flag)
