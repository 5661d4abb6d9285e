"""Attention by PyTorch's FlexAttention: blocks that nobody sees are skipped, and no mask is stored.

On CUDA it is compiled, once for all lengths; rows are padded to whole blocks, or its backward pass refuses them. On the
CPU it runs as written and has no backward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import pad

from cair_lightning.policies.tree import Layout

BLOCK = 128


def prepare(layout: Layout, device: torch.device) -> Callable[[Tensor, Tensor, Tensor, float], Tensor]:
    """A function from queries (1, H, S, d) and keys and values (1, K, C + S, d) to the output (1, S, H, d)."""
    padded = -layout.size % BLOCK
    mask = _block_mask(layout, layout.size + padded, device)
    compute = _compiled() if device.type == "cuda" else cast(Callable[..., object], flex_attention)

    def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        behind = mask.shape[-1] - key.shape[2]
        q = pad(query, (0, 0, 0, padded))
        k, v = (pad(x, (0, 0, 0, behind)) for x in (key, value))
        out = compute(q, k, v, block_mask=mask, scale=scale, enable_gqa=True)
        assert isinstance(out, Tensor)
        return out[:, :, : query.shape[2]].transpose(1, 2)

    return attend


@functools.cache
def _compiled() -> Callable[..., object]:
    return torch.compile(flex_attention, dynamic=True)


def _block_mask(layout: Layout, n_queries: int, device: torch.device) -> BlockMask:
    """Each token's own run and contexts as intervals of columns, which the mask compares with."""
    depth = max((len(run.context) for run in layout.runs), default=0)
    own = torch.zeros(n_queries, dtype=torch.long)
    bounds = torch.zeros(2, depth, n_queries, dtype=torch.long)  # an empty interval pads
    for run in layout.runs:
        tokens = slice(run.start - layout.kept, run.stop - layout.kept)
        own[tokens] = run.start
        for level, span in enumerate(run.context):
            bounds[:, level, tokens] = torch.tensor(span)[:, None]
    own[layout.size :] = torch.arange(layout.kept + layout.size, layout.kept + n_queries)  # padding sees itself
    own, bounds = own.to(device), bounds.to(device)
    kept = layout.kept

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = (key >= own[query]) & (key <= query + kept)
        for level in range(depth):
            seen = seen | ((key >= bounds[0, level, query]) & (key < bounds[1, level, query]))
        return seen

    n_keys = layout.kept + n_queries
    return create_block_mask(visible, None, None, n_queries, n_keys + -n_keys % BLOCK, device=device)
