"""Attention under a mask, a padded row per prompt: what every device and every type can do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from cair_lightning.policies.tree import Layout, Run


def prepare(layout: Layout, device: torch.device) -> Callable[[Tensor, Tensor, Tensor, float], Tensor]:
    """A function from queries (1, H, S, d) and keys and values (1, K, C + S, d) to the output (1, S, H, d)."""
    rows = [layout.runs[first:last] for first, last in layout.prompts if last > first]
    queries = [torch.arange(runs[0].start, runs[-1].stop) for runs in rows]
    keys = [columns_of(runs) for runs in rows]
    visible = torch.zeros(len(rows), max(map(len, queries)), max(map(len, keys)), dtype=torch.bool)
    visible[:, :, 0] = True  # what pads the queries sees something, so that no row of the softmax is empty
    for row, runs in enumerate(rows):
        visible[row, : len(queries[row]), : len(keys[row])] = visibility(runs, keys[row])
    real_BQ = pad_sequence([torch.ones(len(q), dtype=torch.bool) for q in queries], batch_first=True)
    real_S = real_BQ.flatten().nonzero().squeeze(1).to(device)
    query_BQ = (pad_sequence(queries, batch_first=True, padding_value=layout.kept) - layout.kept).to(device)
    key_BC = pad_sequence(keys, batch_first=True).to(device)
    mask = visible[:, None].to(device)

    def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        shared = query.shape[1] // key.shape[1]
        q_BHQd = _rows(query, query_BQ)
        k_BHCd, v_BHCd = (_rows(x, key_BC).repeat_interleave(shared, dim=1) for x in (key, value))
        out_BHQd = scaled_dot_product_attention(q_BHQd, k_BHCd, v_BHCd, mask, scale=scale)
        return out_BHQd.transpose(1, 2).flatten(0, 1).index_select(0, real_S)[None]

    return attend


def _rows(x: Tensor, columns_BC: Tensor) -> Tensor:
    """Columns of (1, heads, C, d) as (B, heads, columns, d), token by token, whose backward pass only adds."""
    taken = x[0].transpose(0, 1).index_select(0, columns_BC.flatten())
    return taken.view(*columns_BC.shape, *taken.shape[1:]).transpose(1, 2)


def pairs(layout: Layout) -> int:
    """How many pairs of a query and a key are computed, seen or not."""
    rows = [layout.runs[first:last] for first, last in layout.prompts if last > first]
    most_queries = max(runs[-1].stop - runs[0].start for runs in rows)
    return len(rows) * most_queries * max(len(columns_of(runs)) for runs in rows)


def columns_of(runs: list[Run]) -> Tensor:
    """The columns that any of a prompt's runs sees, in order."""
    spans = sorted({span for run in runs for span in (*run.context, (run.start, run.stop))})
    columns, done = [], 0
    for start, stop in spans:
        if stop > (start := max(start, done)):
            columns.append(torch.arange(start, stop))
            done = stop
    return torch.cat(columns)


def visibility(runs: list[Run], columns: Tensor) -> Tensor:
    """Which of some columns each token of a prompt's runs sees (tokens, columns)."""
    first = runs[0].start
    seen = torch.zeros(runs[-1].stop - first, len(columns), dtype=torch.bool)
    for run in runs:
        spans = torch.searchsorted(columns, torch.tensor([*run.context, (run.start, run.stop)]))
        *context, (start, stop) = spans.tolist()
        tokens = slice(run.start - first, run.stop - first)
        for left, right in context:
            seen[tokens, left:right] = True
        seen[tokens, start:stop] = torch.ones(len(run), len(run), dtype=torch.bool).tril_()
    return seen
