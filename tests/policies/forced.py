"""Completions that are dictated to the sampler, whose forward passes, bookkeeping and kept keys stay what they are."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch

from cair_lightning.policies.decoding import PATIENCE, Sampler


@contextmanager
def dictated(completions: Sequence[Sequence[int]]) -> Iterator[None]:
    """Each row samples the tokens that are given for it, which end with a token that stops it."""
    longest = max(map(len, completions))
    ids_NT = torch.tensor([[*ids, *[0] * (longest + PATIENCE - len(ids))] for ids in completions])
    note = Sampler._note

    def dictate(self, step, ids_N, logps_N) -> None:
        note(self, step, ids_NT[self.rows_BG.flatten(), step], logps_N)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "_note", dictate)
        yield
