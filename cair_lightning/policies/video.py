"""Frames -> patches, by the checkpoint's own video processor and bit by bit as it returns them.

Until a frame is normalised its values are bytes. Where normalising afterwards gives the same bits, clips are kept and
cut into patches as bytes, a quarter of the size, and become floats when a batch is put together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers.video_processing_utils import BaseVideoProcessor

LEVELS = 256


class Patcher:
    """Cuts frames into patches. Picklable.

    Args:
        processor: The checkpoint's video processor.
        min_pixels: Least pixels of a resized frame.
        max_pixels: Most pixels of a resized frame.
        side: Height and width in pixels of what becomes one token, of which frames are multiples.
        temporal_patch: Frames that a patch covers.
    """

    def __init__(
        self, processor: BaseVideoProcessor, min_pixels: int, max_pixels: int, side: int, temporal_patch: int
    ) -> None:
        self.processor, self.side, self.temporal_patch = processor, side, temporal_patch
        self.size = {"shortest_edge": min_pixels, "longest_edge": max_pixels}

    def cut(self, frames_THWC: np.ndarray) -> tuple[Tensor, tuple[int, int, int]]:
        """Patches, as bytes where `floats` restores them, and their grid."""
        return self._process(frames_THWC, self.size, normalised=self._scale is None)

    def floats(self, clips: Sequence[Tensor]) -> Tensor:
        """The patches of several clips as the processor returns them: resized, rescaled and normalised."""
        if self._scale is None:
            return torch.cat(list(clips))
        patches = torch.empty(sum(len(clip) for clip in clips), clips[0].shape[1])
        first = 0
        for clip in clips:
            _normalise(clip, *self._scale, patches[first : first + len(clip)])
            first += len(clip)
        return patches

    @cached_property
    def _scale(self) -> tuple[Tensor, Tensor] | None:
        """Mean and deviation of each channel in bytes; None where they do not give what the processor gives.

        Compared on all 256 bytes in each channel, and on noise that has to be resized.
        """
        own: dict[str, Any] = self.processor.to_dict()
        if not (own["do_rescale"] and own["do_normalize"]):
            return None
        mean_C, deviation_C = (
            torch.tensor(own[k]) * (1.0 / own["rescale_factor"]) for k in ("image_mean", "image_std")
        )
        side = max(self.side, 16)
        ramp_THWC = np.moveaxis(
            np.resize(np.arange(LEVELS, dtype=np.uint8), (3, self.temporal_patch, side, side)), 0, -1
        )
        noise_THWC = np.random.default_rng(0).integers(0, LEVELS, (self.temporal_patch, 90, 70, 3), dtype=np.uint8)
        for frames_THWC in (ramp_THWC, noise_THWC):
            size = {"shortest_edge": side**2, "longest_edge": side**2}
            codes, _ = self._process(frames_THWC, size, normalised=False)
            wanted, _ = self._process(frames_THWC, size, normalised=True)
            if codes.dtype != torch.uint8 or wanted.dtype != torch.float32:
                return None
            if not torch.equal(_normalise(codes, mean_C, deviation_C, torch.empty(codes.shape)), wanted):
                return None
        return mean_C, deviation_C

    def _process(
        self, frames_THWC: np.ndarray, size: dict[str, int], normalised: bool
    ) -> tuple[Tensor, tuple[int, int, int]]:
        keep = {} if normalised else {"do_rescale": False, "do_normalize": False}
        out = self.processor(
            videos=[torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)],
            do_sample_frames=False,
            size=size,
            cap_pixels_per_frame=False,
            return_tensors="pt",
            **keep,
        )
        frames, height, width = out["video_grid_thw"][0].tolist()
        return out["pixel_values_videos"], (frames, height, width)


def _normalise(codes: Tensor, mean_C: Tensor, deviation_C: Tensor, out: Tensor) -> Tensor:
    """In the processor's own order of operations; a patch's values are channel by channel."""
    shape = (len(codes), len(mean_C), -1)
    out.view(shape).copy_(codes.view(shape)).sub_(mean_C[:, None]).div_(deviation_C[:, None])
    return out
