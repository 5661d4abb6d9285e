"""Completions, and how one more token of each is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cair_lightning.policies.scoring import target_logps

Randomness = torch.Generator | Sequence[torch.Generator]
"""One generator on the model's device, or one on the CPU for each prompt: then a prompt is answered alike in any batch
and on any rank."""


@dataclass(kw_only=True)  # no slots: jsonargparse reads the defaults of an instance through vars()
class SamplingSettings:
    """How completions are sampled."""

    group_size: int = 8
    """G, completions per prompt (section 4.2)."""
    max_new_tokens: int = 256
    temperature: float = 1.0


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


def draw(logits_NV: Tensor, banned_V: Tensor, temperature: float, uniform_N: Tensor | None) -> tuple[Tensor, Tensor]:
    """Draw one token per row, never a banned one.

    Args:
        logits_NV: Logits in float32, at temperature 1.
        banned_V: True on tokens that are never drawn.
        temperature: 0 takes the likeliest token, and log-probabilities are those at 1.
        uniform_N: A random number in [0, 1) for each row, float64, which decides its token; not used at 0.

    Returns:
        The ids (N,) and their log-probabilities (N,) in the whole distribution, banned tokens included: training
        scores them in the same one.
    """
    if temperature not in (0.0, 1.0):
        logits_NV = logits_NV / temperature
    allowed_NV = logits_NV.masked_fill(banned_V, -torch.inf)
    if temperature == 0:
        ids_N = allowed_NV.argmax(1)
    else:
        assert uniform_N is not None
        # The inverse of the distribution function: one random number a row instead of one a token of the vocabulary.
        below_NV = allowed_NV.softmax(1).cumsum(1, dtype=torch.float64)
        total_N1 = below_NV[:, -1:]
        sought_N1 = torch.minimum(uniform_N[:, None] * total_N1, total_N1.nextafter(total_N1.new_zeros(())))
        ids_N = torch.searchsorted(below_NV, sought_N1, right=True).squeeze(1)
    return ids_N, target_logps(logits_NV, ids_N)


def random_numbers(randomness: Randomness | None, steps: int, prompts: int, group: int, device: torch.device) -> Tensor:
    """Uniform numbers in [0, 1) for each step and completion (T, N), float64.

    All at once, so that what a row draws depends neither on the others nor on who has left.
    """
    if randomness is None or isinstance(randomness, torch.Generator):
        return torch.rand((steps, prompts * group), generator=randomness, dtype=torch.float64, device=device)
    own = [torch.rand((steps, group), generator=g, dtype=torch.float64) for g in randomness]
    if len(own) != prompts:
        raise ValueError(f"expected a generator for each of {prompts} prompts, got {len(own)}.")
    return torch.cat(own, dim=1).to(device)
