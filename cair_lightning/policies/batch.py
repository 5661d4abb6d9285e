"""A batch of prompts as tensors, and how it is taken apart."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cair_lightning.structures import Example, Form


@dataclass(slots=True, kw_only=True)
class Prompts:
    """A batch of prompts X as tensors."""

    examples: list[Example]
    forms: list[Form]
    ids_BL: Tensor
    mask_BL: Tensor
    """True on the prompt's tokens; padding is on the left."""
    positions_3BL: Tensor
    """M-RoPE positions; 0 on padding."""
    forks: list[int]
    """How many tokens of each prompt come before its instruction: both forms share them."""
    direct_tails: list[list[int]]
    """What replaces the rest of the prompt to ask for the answer directly (path A)."""
    patches: Tensor | None
    """Processed pixels of all clips, flat over patches: (patches, values of a patch)."""
    grids: list[tuple[int, int, int] | None]
    """Temporal, vertical and horizontal patches of each prompt's clip; None without one."""
    seconds_per_grid: list[float | None]
    """Seconds between two temporal patches of each prompt's clip; None without one."""
    valid_B: Tensor
    """False where the clip could not be read: a blank stand-in that weighs nothing keeps the batch's shape."""
    completions: list[list[int]] | None = None
    """Target tokens of SFT, the end-of-turn token included; None where nothing is taught."""
    failures: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """Id and reason of each sample whose clip could not be read."""
    features: Tensor | None = None
    """The vision tower's output for `patches`, once a frozen tower has computed it: a reference shares that tower."""

    def __len__(self) -> int:
        return len(self.examples)

    def positions(self) -> list[Tensor]:
        """Positions (3, tokens) of each prompt without padding, on the CPU."""
        positions_3BL, lengths = self.positions_3BL.cpu(), self.mask_BL.sum(1).tolist()
        return [positions_3BL[:, row, positions_3BL.shape[2] - length :] for row, length in enumerate(lengths)]

    def to(self, device: torch.device) -> Prompts:
        """Copy with all tensors on a device."""
        return self._with_tensors(lambda tensor: tensor.to(device))

    def pin_memory(self) -> Prompts:
        """Copy with all tensors in pinned memory."""
        return self._with_tensors(Tensor.pin_memory)

    def select(self, rows: Sequence[int]) -> Prompts:
        """The prompts of some rows, in that order, as if they had been collated by themselves.

        Raises:
            ValueError: If there are no rows.
        """
        if not rows:
            raise ValueError("Expected at least one row to select, got none; cut a batch into no more parts than rows.")
        index = torch.as_tensor(rows, device=self.ids_BL.device)
        length = int(self.mask_BL[index].sum(1).max())
        chosen = {self.examples[row].id for row in rows}
        return Prompts(
            examples=[self.examples[row] for row in rows],
            forms=[self.forms[row] for row in rows],
            ids_BL=self.ids_BL[index, -length:],
            mask_BL=self.mask_BL[index, -length:],
            positions_3BL=self.positions_3BL[:, index, -length:],
            forks=[self.forks[row] for row in rows],
            direct_tails=[self.direct_tails[row] for row in rows],
            patches=self._clips_of(self.patches, rows) if any(self.grids[row] for row in rows) else None,
            grids=[self.grids[row] for row in rows],
            seconds_per_grid=[self.seconds_per_grid[row] for row in rows],
            valid_B=self.valid_B[index],
            completions=None if self.completions is None else [self.completions[row] for row in rows],
            failures=[failure for failure in self.failures if failure[0] in chosen],
            features=self._clips_of(self.features, rows),
        )

    def patches_of(self, row: int) -> Tensor | None:
        """The patches of one prompt's clip; None without one."""
        return None if self.grids[row] is None else self._clips_of(self.patches, [row])

    def _clips_of(self, flat: Tensor | None, rows: Sequence[int]) -> Tensor | None:
        """What belongs to the clips of some rows, of a tensor that is flat over the patches (or tokens) of all."""
        if flat is None:
            return None
        sizes = [0 if grid is None else math.prod(grid) for grid in self.grids]
        merged = sum(sizes) // len(flat) if len(flat) else 1  # patches that were merged into one token
        ends = list(itertools.accumulate(size // merged for size in sizes))
        return torch.cat([flat[ends[row] - sizes[row] // merged : ends[row]] for row in rows])

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> Prompts:
        """Copy with all tensors changed."""
        copied = dataclasses.replace(self)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                setattr(copied, field.name, change(value))
        return copied
