"""Attention by flash-attention's kernel for rows of various lengths, with fewer queries than keys.

Where there are fewer queries than keys, flash-attention (2.1 and newer) aligns the causal mask to the bottom right: the
last query sees all keys. A run behind its context is just that. Keys of a context are copied for every run that sees
them, one layer at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cair_lightning.policies.tree import Layout


def copied(layout: Layout) -> int:
    """How many keys are copied."""
    return sum(stop - start for run in layout.runs for start, stop in (*run.context, (run.start, run.stop)))


def prepare(layout: Layout, device: torch.device) -> Callable[[Tensor, Tensor, Tensor, float], Tensor]:
    """A function from queries (1, H, S, d) and keys and values (1, K, C + S, d) to the output (1, S, H, d)."""
    from flash_attn import flash_attn_varlen_func

    keys = [torch.cat([torch.arange(*span) for span in (*r.context, (r.start, r.stop))]) for r in layout.runs]
    n_queries, n_keys = [len(run) for run in layout.runs], [len(k) for k in keys]
    columns = torch.cat(keys).to(device)
    ends_q, ends_k = (torch.tensor([0, *n]).cumsum(0).to(device, torch.int32) for n in (n_queries, n_keys))

    def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        q_SHd, k_CKd, v_CKd = (x[0].transpose(0, 1) for x in (query, key, value))
        out: Tensor = flash_attn_varlen_func(
            q_SHd.contiguous(), k_CKd[columns], v_CKd[columns], ends_q, ends_k, max(n_queries), max(n_keys),
            softmax_scale=scale, causal=True,
        )  # fmt: skip
        return out[None]

    return attend
