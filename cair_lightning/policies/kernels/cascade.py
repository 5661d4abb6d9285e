"""Attention in pieces: each run causally over itself, each context once for all who see it; no mask, no copy of keys.

A token's softmax over several sets of keys is the mean of its softmaxes over each set, weighted by their sums of
exponentials. The kernels return the logarithms of these sums, so that pieces are merged exactly. Backwards, the kernels
need of the forward pass only the output and that logarithm; given the merged ones, each piece yields its share of the
gradients (the identity that ring attention rests on). Nothing is computed for keys that a token does not see, and
keys of a prompt are read once by all of its completions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cair_lightning.policies.tree import Layout

_flash_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_cpu_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Piece(NamedTuple):
    """New tokens see columns: all of them, or their own causally.

    Slices, or for runs of one length that are computed together, indices (runs, length).
    """

    queries: slice | Tensor
    keys: slice | Tensor
    causal: bool


def prepare(pieces: list[Piece]) -> Callable[[Tensor, Tensor, Tensor, float], Tensor]:
    """A function from queries (1, H, S, d) and keys and values (1, K, C + S, d) to the output (1, S, H, d)."""

    def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        out: Tensor = _Cascade.apply(query, key, value, pieces, scale)
        return out

    return attend


def pieces_of(layout: Layout) -> list[Piece]:
    """The pieces in the order in which they are merged: the runs, which cover every token, come first."""

    def new(start: int, stop: int) -> slice:
        return slice(start - layout.kept, stop - layout.kept)

    by_length: dict[int, list[int]] = defaultdict(list)
    for run in layout.runs:
        by_length[len(run)].append(run.start)
    own = []
    for length, starts in by_length.items():
        if len(starts) == 1:
            own.append(Piece(new(starts[0], starts[0] + length), slice(starts[0], starts[0] + length), True))
        else:
            columns = torch.tensor(starts)[:, None] + torch.arange(length)
            own.append(Piece(columns - layout.kept, columns, True))
    return own + [Piece(new(x.start, x.stop), slice(*x.span), False) for x in layout.looks()]


def pairs(piece: Piece) -> int:
    """How many pairs of a query and a key a piece computes, the causal halves counted whole."""
    if isinstance(piece.queries, Tensor):
        return piece.queries.numel() * piece.queries.shape[1]
    assert isinstance(piece.keys, slice)
    return int((piece.queries.stop - piece.queries.start) * (piece.keys.stop - piece.keys.start))


class _Cascade(torch.autograd.Function):
    """Queries of heads that share keys are a batch (R, K, S, d), over which the keys are broadcast."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - PyTorch's own type of it has none of what is kept there
        query: Tensor, key: Tensor, value: Tensor, pieces: list[Piece], scale: float,
    ) -> Tensor:  # fmt: skip
        _, heads, size, width = query.shape
        shared = key.shape[1]
        q = query[0].view(shared, heads // shared, size, width).transpose(0, 1)
        k, v = (x.expand(len(q), -1, -1, -1) for x in (key, value))
        wide = torch.promote_types(query.dtype, torch.float32)  # a piece is merged in no less than float32
        merged = query.new_empty(size, shared, len(q), width, dtype=wide)
        out, sums = merged.permute(2, 1, 0, 3), query.new_empty(*q.shape[:3], dtype=wide)
        for queries, keys, causal in pieces:
            taken = _take(q, queries), _take(k, keys), _take(v, keys)
            part, part_sums = _flash_cpu(*taken, 0.0, causal, scale=scale)
            if causal:
                out[:, :, queries] = _untake(part, queries).to(wide)  # an index does not convert, a slice would
                sums[:, :, queries] = part_sums.view(sums[:, :, queries].shape)
            else:
                _merge(out[:, :, queries], sums[:, :, queries], part, part_sums)
        result = merged.view(1, size, heads, width).to(query.dtype)
        ctx.save_for_backward(query, key, value, result, sums)
        ctx.pieces, ctx.scale = pieces, scale
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # noqa: ANN401
        query, key, value, result, sums = ctx.saved_tensors
        _, heads, size, width = query.shape
        shared = key.shape[1]
        q = query[0].view(shared, heads // shared, size, width).transpose(0, 1)
        k, v = (x.expand(len(q), -1, -1, -1) for x in (key, value))
        by_head = (size, shared, len(q), width)
        out, grad_out = (x.reshape(by_head).permute(2, 1, 0, 3) for x in (result, grad))
        wide = sums.dtype
        grad_q = query.new_empty(by_head, dtype=wide)
        dq = grad_q.permute(2, 1, 0, 3)
        dk, dv = (x.new_zeros(x.shape[1:], dtype=wide) for x in (key, value))
        for queries, keys, causal in ctx.pieces:
            taken = _take(q, queries), _take(k, keys), _take(v, keys), _take(out, queries), _take(sums, queries)
            part = _flash_cpu_backward(_take(grad_out, queries), *taken, 0.0, causal, scale=ctx.scale)
            if causal:
                dq[:, :, queries] = _untake(part[0], queries).to(wide)
            else:
                dq[:, :, queries] += part[0]
            dk[:, keys] += _untake(part[1].sum(0, keepdim=True), keys)[0].to(wide)
            dv[:, keys] += _untake(part[2].sum(0, keepdim=True), keys)[0].to(wide)
        grad_query = grad_q.view(1, size, heads, width).transpose(1, 2)
        return grad_query.to(query.dtype), dk[None].to(key.dtype), dv[None].to(value.dtype), None, None


def _take(x: Tensor, columns: slice | Tensor) -> Tensor:
    """Some columns of (R, K, S, ...); those of runs that are computed together as further heads."""
    return x[:, :, columns] if isinstance(columns, slice) else x[:, :, columns].flatten(1, 2)


def _untake(x: Tensor, columns: slice | Tensor) -> Tensor:
    """The inverse of `_take`, but for the place of the columns."""
    return x if isinstance(columns, slice) else x.view(len(x), -1, len(columns), *x.shape[2:])


def _merge(out: Tensor, sums: Tensor, part: Tensor, part_sums: Tensor) -> None:
    """Take another set of keys into an output and its logarithm of sums, both in place."""
    total = torch.logaddexp(sums, part_sums)
    out.mul_((sums - total).exp_()[..., None]).addcmul_(part.to(out.dtype), (part_sums - total).exp_()[..., None])
    sums.copy_(total)
