"""Prompts (and their completions) that have been run through the model: what further branches hang from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cair_lightning.policies.batch import Prompts
from cair_lightning.policies.tree import Kept, Span

KeysValues = list[tuple[Tensor, Tensor]]
"""Keys and values (K, C, d) of each layer: key-value heads, columns, width of a head."""


@dataclass(slots=True, kw_only=True)
class Columns:
    """Tokens whose keys, values and last hidden states were kept, behind each other."""

    keys_values: KeysValues
    hidden_CD: Tensor
    spans: list[Span]
    """The columns of each sequence."""


@dataclass(slots=True, kw_only=True)
class Prefix:
    """Prompts that have been run through the model once, and the completions that were sampled from them last."""

    prompts: Prompts
    own: Columns
    """One sequence per prompt."""
    completions: Columns | None = None
    """One sequence per completion, those of one prompt next to each other: its tokens but the last, which was sampled
    and never read. Branches name them as the first branches of their prompt."""

    def kept(self) -> list[Kept]:
        """Where each prompt and its completions lie; completions come behind all prompts."""
        if self.completions is None:
            return [Kept(prompt=span) for span in self.own.spans]
        offset, spans = len(self.own.hidden_CD), self.completions.spans
        group = len(spans) // len(self.own.spans)
        shifted = [(offset + start, offset + stop) for start, stop in spans]
        return [
            Kept(prompt=span, completions=shifted[b * group : (b + 1) * group]) for b, span in enumerate(self.own.spans)
        ]

    def parts(self) -> list[Columns]:
        """All that was kept, in the order of the columns."""
        return [self.own] if self.completions is None else [self.own, self.completions]


def join_columns(parts: list[Columns]) -> Columns:
    """Sequences of several forward passes as those of one."""
    if len(parts) == 1:
        return parts[0]
    spans: list[Span] = []
    offset = 0
    for part in parts:
        spans += [(offset + start, offset + stop) for start, stop in part.spans]
        offset += len(part.hidden_CD)
    layers = zip(*(part.keys_values for part in parts), strict=True)
    pairs = [tuple(torch.cat(tensors, dim=1) for tensors in zip(*layer, strict=True)) for layer in layers]
    return Columns(
        keys_values=[(keys, values) for keys, values in pairs],
        hidden_CD=torch.cat([part.hidden_CD for part in parts]),
        spans=spans,
    )
