"""Attention: which implementation computes it, and how it comes into the Hugging Face model.

The language model's attention is registered with transformers under `NAME`. Where a forward pass of ours hands it an
`Attend` in the place of a mask, that computes who sees whom; a plain forward pass attends as under `sdpa`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from cair_lightning.policies.kernels import cascade, dense, flex, varlen
from cair_lightning.policies.tree import Layout

log = logging.getLogger(__name__)

NAME = "cair_tree"
"""Under which transformers knows `tree_attention`."""

Attention = Literal["auto", "sdpa", "flash_attention_2", "eager"]
TreeAttention = Literal["auto", "cascade", "varlen", "flex", "dense"]

COPIES = 16
"""How often the keys may be copied for flash-attention; labels that hang from a long prompt are masked instead."""
CALL = 250_000
"""Pairs of a query and a key, times the hidden size, that the CPU computes while it calls a kernel."""


class Attend(Protocol):
    """Computes a layer's attention in a forward pass of ours."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """From queries (1, H, S, d), keys and values (1, K, S, d) of the new tokens to the output (1, S, H, d)."""


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,  # noqa: ANN401 - transformers' name and signature; an `Attend` or a mask
    scaling: float,
    **settings: Any,  # noqa: ANN401
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in every layer."""
    if attention_mask is None or isinstance(attention_mask, Tensor):
        out: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **settings
        )
        return out
    device = query.device.type
    if torch.is_autocast_enabled(device):  # as scaled_dot_product_attention does; positions are in float32
        query, key, value = (x.to(torch.get_autocast_dtype(device)) for x in (query, key, value))
    with torch.autocast(device, enabled=False):  # a kernel knows which of its products are in float32
        return attention_mask(module.layer_idx, query, key, value, scaling), None


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


class TreeAttend:
    """Attention of a layout, its kept keys and values in front of the new ones.

    Args:
        layout: Who sees whom.
        kernel: How to compute it; see `resolve_tree_attention`.
        device: Of the tensors.
        kept: Keys and values (K, C, d) of each layer; none where nothing was kept.
        hidden_size: Of the language model, on which depends what the CPU had better do.
        record: Where to put the new ones (K, S, d), layer by layer; None keeps nothing.
    """

    def __init__(
        self,
        layout: Layout,
        kernel: TreeAttention,
        device: torch.device,
        kept: list[list[tuple[Tensor, Tensor]]],
        hidden_size: int,
        record: list[tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self.attend = _prepared(layout, kernel, device, hidden_size)
        self.kept, self.record = kept, record

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `Attend`."""
        if self.record is not None:
            self.record.append((key[0], value[0]))
        if self.kept:
            keys, values = zip(*(pairs[layer] for pairs in self.kept), strict=True)
            key, value = torch.cat([*keys, key[0]], dim=1)[None], torch.cat([*values, value[0]], dim=1)[None]
        return self.attend(query, key, value, scale)


def _prepared(
    layout: Layout, kernel: TreeAttention, device: torch.device, hidden_size: int
) -> Callable[[Tensor, Tensor, Tensor, float], Tensor]:
    if kernel in ("auto", "cascade"):
        pieces = cascade.pieces_of(layout)
        if kernel == "cascade" or sum(cascade.pairs(p) + CALL // hidden_size for p in pieces) < dense.pairs(layout):
            return cascade.prepare(pieces)
        kernel = "dense"
    if kernel == "varlen" and varlen.copied(layout) > COPIES * (layout.kept + layout.size):
        kernel = "dense"
    prepare = {"varlen": varlen.prepare, "flex": flex.prepare, "dense": dense.prepare}[kernel]
    return prepare(layout, device)


def resolve_tree_attention(requested: TreeAttention, device: torch.device, dtype: torch.dtype) -> TreeAttention:
    """How a policy on a device attends.

    `auto` takes flash-attention's kernel on CUDA for half precision where it is installed, and the masked one
    otherwise; on the CPU it stays `auto`: cascade, or the masked one where pieces are short.

    Raises:
        ValueError: If what is asked for does not run there.
        ImportError: If flash-attention is asked for and not installed.
    """
    if requested in ("auto", "cascade") and device.type == "cpu":
        return requested
    half, cuda = dtype in (torch.float16, torch.bfloat16), device.type == "cuda"
    installed = find_spec("flash_attn") is not None
    if requested == "varlen" and not installed:
        raise ImportError(
            "tree_attention is varlen, and flash-attn is not installed: pip install cair-lightning[flash], or set it "
            "to auto."
        )
    if requested == "varlen" and not (cuda and half):
        raise ValueError(
            f"tree_attention is varlen, which needs CUDA and half precision, and the policy is {dtype} on {device.type}"
            "; set it to auto."
        )
    if requested == "cascade":
        raise ValueError(
            f"tree_attention is cascade, which needs the CPU, and the policy is on {device.type}; set it to auto."
        )
    if requested == "auto":
        return "varlen" if installed and cuda and half else "dense"
    return requested


def resolve_attention(requested: Attention) -> str:
    """Attention implementation of the vision tower.

    `auto` takes flash-attention 2 where it is installed and a CUDA device is there, else SDPA.

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
    return requested
