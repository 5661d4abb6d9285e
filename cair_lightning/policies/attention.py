"""Attention: which implementation computes it, and who sees whom."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Attention = Literal["auto", "sdpa", "flash_attention_2", "eager"]


def resolve_attention(requested: Attention) -> dict[str, str]:
    """Attention implementation of each tower.

    `auto` takes flash-attention 2 where it is installed and a CUDA device is there, else SDPA. The language model
    always attends through SDPA (or eager): branches of a prompt need a mask, which flash-attention 2 does not take.
    The vision tower, whose windows are where flash-attention gains most, uses it.

    Raises:
        ImportError: If flash-attention 2 is asked for and not installed.
    """
    installed = find_spec("flash_attn") is not None
    if requested == "flash_attention_2" and not installed:
        raise ImportError(
            "attn_implementation is flash_attention_2, and flash-attn is not installed: "
            "pip install cair-lightning[flash], or set it to auto."
        )
    if requested == "auto":
        requested = "flash_attention_2" if installed and torch.cuda.is_available() else "sdpa"
        log.info("attn_implementation: auto takes %s.", requested)
    text = "sdpa" if requested == "flash_attention_2" else requested
    return {"text_config": text, "vision_config": requested}


def causal(mask_BL: Tensor) -> Tensor:
    """Which columns each prompt token sees (B, L, L). Padding sees itself, so that no row of the softmax is empty."""
    length = mask_BL.shape[1]
    square = torch.ones(length, length, dtype=torch.bool, device=mask_BL.device)
    return (square.tril() & mask_BL[:, None]) | square.diag().diag()


def whole_row(mask_BL: Tensor, branches: Tensor) -> Tensor:
    """Which columns each token of a packed row sees (B, L + S, L + S), from what its branches see (B, S, L + S)."""
    above = causal(mask_BL)
    blind = above.new_zeros(*above.shape[:2], branches.shape[1])
    return torch.cat([torch.cat([above, blind], dim=2), branches], dim=1)


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask that eager attention adds to its scores: 0 where a column is seen, else the type's least number."""
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
