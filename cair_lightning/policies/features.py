"""Features of clips that a frozen vision tower has computed, kept from epoch to epoch."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cair_lightning.policies.batch import Prompts
from cair_lightning.structures import Example

Grid = tuple[int, int, int]
Tower = Callable[[Tensor, Sequence[Grid]], Tensor]
"""From the patches of clips and their grids to the clips' features, both flat."""


class FeatureCache:
    """The features of the clips that were asked for last, in main memory.

    Args:
        max_gib: Most memory they take.
    """

    def __init__(self, max_gib: float) -> None:
        self.max_bytes = int(max_gib * 2**30)
        self.bytes = 0
        self._kept: OrderedDict[tuple[object, ...], Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def fetch(self, prompts: Prompts, tower: Tower) -> Tensor:
        """The features of a batch; the tower runs once, on the clips that are not here.

        A clip that could not be read is computed every time: what stands in for it is not the clip.
        """
        rows = [(row, grid) for row, grid in enumerate(prompts.grids) if grid is not None]
        keys = {row: _key(prompts.examples[row], grid) for row, grid in rows}
        found = {row: self._get(keys[row]) for row, _ in rows}
        missing = [(row, grid) for row, grid in rows if found[row] is None]
        if missing:
            patches = prompts.select([row for row, _ in missing]).patches
            assert patches is not None
            computed = tower(patches, [grid for _, grid in missing])
            merged = len(patches) // len(computed)
            parts = torch.split(computed, [math.prod(grid) // merged for _, grid in missing])
            for (row, _), features in zip(missing, parts, strict=True):
                found[row] = features
                if bool(prompts.valid_B[row]):
                    self._put(keys[row], features)
        assert prompts.patches is not None
        return torch.cat([f.to(prompts.patches.device, non_blocking=True) for f in found.values() if f is not None])

    def _get(self, key: tuple[object, ...]) -> Tensor | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def _put(self, key: tuple[object, ...], features: Tensor) -> None:
        if key in self._kept or features.nbytes > self.max_bytes:
            return
        self._kept[key] = kept = features.detach().cpu().clone()
        self.bytes += kept.nbytes
        while self.bytes > self.max_bytes:
            self.bytes -= self._kept.popitem(last=False)[1].nbytes


def _key(example: Example, grid: Grid) -> tuple[object, ...]:
    """What decides the features of a clip under the settings of one run."""
    return example.clip, example.start, example.end, example.crop, grid
