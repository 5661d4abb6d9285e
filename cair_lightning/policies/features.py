"""The vision tower: run once per clip of a batch, and where it is frozen once per clip of a run."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from cair_lightning.policies.batch import Prompts
from cair_lightning.structures import Example

Grid = tuple[int, int, int]
Tower = Callable[[Tensor, Sequence[Grid]], Tensor]
"""From the patches of clips and their grids to the clips' features, both flat."""

BLANK = (4, 3 * 2 * 14 * 14)
"""Shape of the patches of one token in every Qwen2.5-VL: 2 x 2 patches of 14 x 14 pixels in two frames."""


class VisionTower:
    """A model's vision tower as a function from prompts to the features of their clips.

    Args:
        model: The model that has the tower.
        frozen: Take its gradients away; its features are then computed once per batch and left on the prompts, and a
            reference shares them.
        kept_gib: Main memory for features of a frozen tower, which are then computed once per clip.

    Raises:
        ValueError: If features are to be kept of a tower that is trained.
    """

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, frozen: bool = False, kept_gib: float = 0.0) -> None:
        if kept_gib and not frozen:
            raise ValueError("kept_features_gib is for a frozen vision tower: set freeze_vision, or leave it at 0.")
        self.model, self.frozen = model, frozen
        self.kept = FeatureCache(kept_gib) if kept_gib else None
        if frozen:
            model.model.visual.requires_grad_(False)

    def __call__(self, prompts: Prompts) -> Tensor:
        """The clips' features (video tokens, D).

        Without a clip there are none, and yet the tower runs, on a blank patch: DDP waits for the gradients of all its
        weights, and ZeRO-3 for every rank to fetch them.
        """
        if prompts.features is not None:
            return prompts.features
        if prompts.patches is None:
            features = self.run(prompts.ids_BL.new_zeros(BLANK), [(1, 2, 2)])[:0]
        elif self.kept is not None:
            features = self.kept.fetch(prompts, self.run)
        else:
            features = self.run(prompts.patches, [grid for grid in prompts.grids if grid is not None])
        if self.frozen:
            prompts.features = features
        return features

    def run(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Features of patches that are flat over the clips."""
        grid_thw = torch.tensor(grids, device=patches.device)
        features: Tensor = self.model.model.visual(patches.to(self.model.dtype), grid_thw=grid_thw).pooler_output
        return features


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
