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

FEW = 4
"""Runs of one length that are computed one by one, which copies nothing; more of them are computed together."""


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
        if len(starts) < FEW:
            own += [Piece(new(s, s + length), slice(s, s + length), True) for s in starts]
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
    """Tensors are (S, K, R, d) in memory: tokens, heads with keys of their own, heads that share those, width."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - PyTorch's own type of it has none of what is kept there
        query: Tensor, key: Tensor, value: Tensor, pieces: list[Piece], scale: float,
    ) -> Tensor:  # fmt: skip
        q, k, v = _by_token(query, key), _by_token(key, key), _by_token(value, key)
        wide = torch.promote_types(query.dtype, torch.float32)  # a piece is merged in no less than float32
        out, sums = q.new_empty(q.shape, dtype=wide), q.new_empty(q.shape[:3], dtype=wide)
        for queries, keys, causal in pieces:
            shared = isinstance(queries, slice)
            taken = _take(q, queries, shared), _take(k, keys, shared, q), _take(v, keys, shared, q)
            part, part_sums = _flash_cpu(*taken, 0.0, causal, scale=scale)
            part, part_sums = _untake(part, queries, q), _untake(part_sums[..., None], queries, q)[..., 0]
            if causal:
                out[queries], sums[queries] = part.to(wide), part_sums
            else:
                _merge(out[queries], sums[queries], part, part_sums)
        result = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, result, sums)
        ctx.pieces, ctx.scale = pieces, scale
        return result.flatten(1, 2)[None]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # noqa: ANN401
        query, key, value, out, sums = ctx.saved_tensors
        q, k, v = _by_token(query, key), _by_token(key, key), _by_token(value, key)
        grad_out, wide = grad[0].view(q.shape), sums.dtype
        dq, dk, dv = (
            q.new_empty(q.shape, dtype=wide),
            k.new_zeros(k.shape, dtype=wide),
            v.new_zeros(v.shape, dtype=wide),
        )
        for queries, keys, causal in ctx.pieces:
            shared = isinstance(queries, slice)
            taken = _take(q, queries, shared), _take(k, keys, shared, q), _take(v, keys, shared, q)
            merged = _take(out, queries, shared), _take(sums[..., None], queries, shared)[..., 0]
            part_q, part_k, part_v = _flash_cpu_backward(
                _take(grad_out, queries, shared), *taken, *merged, 0.0, causal, scale=ctx.scale
            )
            if causal:
                dq[queries] = _untake(part_q, queries, q).to(wide)
            else:
                dq[queries] += _untake(part_q, queries, q)
            dk[keys] += _untake(part_k, keys, q).sum(-2, keepdim=True).to(wide)
            dv[keys] += _untake(part_v, keys, q).sum(-2, keepdim=True).to(wide)
        grad_q, grad_k, grad_v = (x.flatten(1, 2).transpose(0, 1)[None].to(query.dtype) for x in (dq, dk, dv))
        return grad_q, grad_k, grad_v, None, None


def _by_token(x: Tensor, key: Tensor) -> Tensor:
    """(1, heads, S, ...) as (S, K, R, ...), R being 1 for keys and values."""
    return x[0].transpose(0, 1).view(x.shape[2], key.shape[1], -1, x.shape[3])


def _take(x: Tensor, columns: slice | Tensor, shared: bool, like: Tensor | None = None) -> Tensor:
    """Some columns in the kernel's order: batch, heads, tokens, width.

    Of a slice, heads that share keys are the batch, and keys are broadcast over it (`like` the queries). Runs of one
    length that are computed together are the batch themselves, and their few keys are copied for each head.
    """
    taken = x[columns]
    if like is not None:
        taken = taken.expand(*taken.shape[:-2], like.shape[2], -1)
    return taken.permute(2, 1, 0, 3) if shared else taken.flatten(2, 3).transpose(1, 2)


def _untake(x: Tensor, columns: slice | Tensor, like: Tensor) -> Tensor:
    """The inverse of `_take` for all heads of queries like these: (tokens, K, R, ...) or (runs, tokens, K, R, ...)."""
    if isinstance(columns, slice):
        return x.permute(2, 1, 0, 3)
    return x.transpose(1, 2).reshape(*columns.shape, *like.shape[1:3], -1)


def _merge(out: Tensor, sums: Tensor, part: Tensor, part_sums: Tensor) -> None:
    """Take another set of keys into an output and its logarithm of sums, both in place."""
    total = torch.logaddexp(sums, part_sums)
    out.mul_((sums - total).exp_()[..., None]).addcmul_(part.to(out.dtype), (part_sums - total).exp_()[..., None])
    sums.copy_(total)
