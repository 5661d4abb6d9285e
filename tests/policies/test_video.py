"""Patches are those of the checkpoint's processor, bit by bit, whether they travel as bytes or not."""

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen2VLVideoProcessor

from cair_lightning.policies.video import Patcher


def film(frames: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(frames * height * width).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def processed(processor: Qwen2VLVideoProcessor, frames: np.ndarray) -> Tensor:
    return processor(
        videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)],
        do_sample_frames=False,
        size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112},
        cap_pixels_per_frame=False,
        return_tensors="pt",
    )["pixel_values_videos"]


def patcher(**settings) -> Patcher:
    return Patcher(Qwen2VLVideoProcessor(**settings), 56 * 56, 112 * 112, side=28, temporal_patch=2)


FILMS = [film(4, 90, 120), film(2, 30, 31), film(6, 56, 56), film(2, 300, 20)]


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, torch.uint8),
        ({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 1.0, 2.0]}, torch.uint8),
        ({"do_normalize": False}, torch.float32),
        ({"do_rescale": False, "do_normalize": False}, torch.uint8),  # floats of nobody's making: bytes are the result
    ],
)
def test_several_clips_are_what_the_processor_makes_of_each(settings, kind) -> None:
    ours = patcher(**settings)
    cut = [ours.cut(frames) for frames in FILMS]
    assert {patches.dtype for patches, _ in cut} == {kind}
    expected = [processed(ours.processor, frames) for frames in FILMS]
    assert torch.equal(ours.floats([patches for patches, _ in cut]), torch.cat(expected))
    assert [t * h * w for _, (t, h, w) in cut] == [len(patches) for patches in expected]


def test_half_a_picture_that_is_no_copy_is_cut_alike() -> None:
    ours, (frames, *_) = patcher(), FILMS
    half = frames[:, :, :60]
    assert torch.equal(ours.floats([ours.cut(half)[0]]), processed(ours.processor, half.copy()))


def test_a_processor_that_normalises_otherwise_is_left_alone() -> None:
    class Squared(Qwen2VLVideoProcessor):
        def rescale_and_normalize(self, images, *settings) -> Tensor:
            return images if images.dtype == torch.uint8 and not settings[0] else images.float() ** 2

    ours = Patcher(Squared(), 56 * 56, 112 * 112, side=28, temporal_patch=2)
    patches, _ = ours.cut(FILMS[0])
    assert patches.dtype == torch.float32
    assert torch.equal(ours.floats([patches]), processed(ours.processor, FILMS[0]))


def test_goes_to_loader_processes() -> None:
    ours = patcher()
    first = ours.floats([ours.cut(FILMS[0])[0]])
    copied = pickle.loads(pickle.dumps(ours))
    assert torch.equal(copied.floats([copied.cut(FILMS[0])[0]]), first)
