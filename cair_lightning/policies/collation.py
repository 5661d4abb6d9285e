"""Examples -> Prompts: clips are decoded, processed and tokenised here, in the loader's worker processes."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from cair_lightning.clip_cache import ClipCache, StoredClip
from cair_lightning.clip_root import ClipRoot
from cair_lightning.clips import ClipError, read_clip
from cair_lightning.parsing import WHITESPACE
from cair_lightning.policies.batch import Prompts
from cair_lightning.policies.positions import prompt_positions
from cair_lightning.policies.video import Patcher
from cair_lightning.prompts import direct_completion, messages, question_text, reason_completion
from cair_lightning.structures import Crop, Example, Form

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase, ProcessorMixin

__all__ = ["Collates", "Collator", "PromptTooLongError", "Prompts", "VisionSettings", "completion_ids"]

VIDEO_PLACEHOLDER = "<|video_pad|>"
END_OF_TURN = "<|im_end|>"
DECODERS = ("decord", "torch", "torchvision", "transformers")
"""Packages whose release may change what comes out of a clip."""


@dataclass(kw_only=True)  # no slots: jsonargparse reads the defaults of an instance through vars()
class VisionSettings:
    """How a clip becomes tokens. Part of every result, since it decides what the model saw."""

    fps: float = 2.0
    """Frames per second that are sampled from a clip."""
    max_frames: int = 32
    """Most frames of a clip; a longer clip is sampled evenly instead."""
    min_pixels: int = 56 * 56
    """Least pixels of a resized frame."""
    max_pixels: int = 224 * 224
    """Most pixels of a resized frame. One token is 28 x 28 pixels of two frames."""


@runtime_checkable
class Collates(Protocol):
    """A module that knows how examples become prompts."""

    def collator(
        self, clips: Path, teach: bool = False, kept_clips: int = 0, cache: ClipCache | None = None
    ) -> Collator:
        """The checkpoint's processor as a collate function; see `Collator`."""


class PromptTooLongError(ValueError):
    """A prompt exceeds the limit. It is never truncated: that would cut video tokens or the question."""


@dataclass(slots=True)
class _Clip:
    """A processed clip."""

    patches: Tensor
    """As `Patcher.cut` makes them."""
    grid: tuple[int, int, int]
    seconds_per_grid: float
    failure: str | None = None


class Collator:
    """Turns examples into prompts with the checkpoint's own processor. Picklable, so that loader workers run it.

    Args:
        processor: The checkpoint's processor.
        config: The checkpoint's configuration.
        clips: Folder below which the examples' clips lie.
        vision: How clips are sampled and resized.
        max_tokens: Longest prompt that is accepted, its completion included where one is taught.
        teach: Add the completions that SFT trains.
        kept_clips: Processed clips that are kept in memory, by each worker, for the next epoch.
        cache: Processed clips on disk; None decodes every time.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        config: PretrainedConfig,
        clips: Path,
        vision: VisionSettings,
        max_tokens: int,
        teach: bool = False,
        kept_clips: int = 0,
        cache: ClipCache | None = None,
    ) -> None:
        self.processor = processor
        self.clips = clips
        self.vision = vision
        self.max_tokens = max_tokens
        self.teach = teach
        self.kept_clips = kept_clips
        self.cache = cache
        self.video_token_id: int = config.video_token_id
        self.tokens_per_second: float = config.vision_config.tokens_per_second
        self.merge: int = config.vision_config.spatial_merge_size
        self.temporal_patch: int = config.vision_config.temporal_patch_size
        self.pad_id: int = processor.tokenizer.pad_token_id
        side = processor.video_processor.patch_size * self.merge
        self.patcher = Patcher(
            processor.video_processor, vision.min_pixels, vision.max_pixels, side, self.temporal_patch
        )
        self._kept: OrderedDict[tuple[str, float | None, float | None, Crop | None], _Clip] = OrderedDict()

    def __call__(self, items: Sequence[tuple[Example, Form]]) -> Prompts:
        """Collate examples, each in the form in which it is asked.

        Raises:
            PromptTooLongError: If a prompt exceeds the limit.
            ValueError: If a sample's text holds one of the tokenizer's control tokens.
        """
        clips = [self._clip(example) for example, _ in items]
        tokenizer = self.processor.tokenizer
        completions = [completion_ids(tokenizer, *item) for item in items] if self.teach else None
        sizes = [len(c) for c in completions] if completions else [0] * len(items)
        rows = [self._row(*item, clip, size) for item, clip, size in zip(items, clips, sizes, strict=True)]
        length = max(len(row[0]) for row in rows)
        ids_BL = torch.full((len(rows), length), self.pad_id)
        mask_BL = torch.zeros(len(rows), length, dtype=torch.bool)
        positions_3BL = torch.zeros(3, len(rows), length, dtype=torch.long)
        for index, (ids, positions_3L, _, _) in enumerate(rows):
            ids_BL[index, length - len(ids) :] = torch.tensor(ids)
            mask_BL[index, length - len(ids) :] = True
            positions_3BL[:, index, length - len(ids) :] = positions_3L
        read = [clip for clip in clips if clip is not None]
        failed = [clip is not None and clip.failure is not None for clip in clips]
        return Prompts(
            examples=[example for example, _ in items],
            forms=[form for _, form in items],
            ids_BL=ids_BL,
            mask_BL=mask_BL,
            positions_3BL=positions_3BL,
            forks=[row[2] for row in rows],
            direct_tails=[row[3] for row in rows],
            patches=self.patcher.floats([clip.patches for clip in read]) if read else None,
            grids=[None if clip is None else clip.grid for clip in clips],
            seconds_per_grid=[None if clip is None else clip.seconds_per_grid for clip in clips],
            valid_B=~torch.tensor(failed),
            completions=completions,
            failures=[(e.id, c.failure) for (e, _), c in zip(items, clips, strict=True) if c and c.failure is not None],
        )

    def _row(
        self, example: Example, form: Form, clip: _Clip | None, extra: int
    ) -> tuple[list[int], Tensor, int, list[int]]:
        """Ids, positions, fork and direct tail of one prompt."""
        other: Form = "direct" if form == "reason" else "reason"
        ids, other_ids = self._ids(example, form, clip), self._ids(example, other, clip)
        fork = next(i for i, (a, b) in enumerate(zip(ids, other_ids, strict=False)) if a != b)
        if len(ids) + extra > self.max_tokens:
            raise PromptTooLongError(
                f"Sample {example.id!r} has {len(ids)} prompt and {extra} completion tokens, the limit is "
                f"{self.max_tokens}. Nothing is truncated: lower vision.max_frames, vision.fps or vision.max_pixels, "
                "shorten the context, or raise max_tokens."
            )
        grids, seconds = ([], []) if clip is None else ([clip.grid], [clip.seconds_per_grid])
        ids_L = torch.tensor(ids)
        positions = prompt_positions(ids_L, self.video_token_id, grids, seconds, self.tokens_per_second, self.merge)
        return ids, positions, fork, (ids if form == "direct" else other_ids)[fork:]

    def _ids(self, example: Example, form: Form, clip: _Clip | None) -> list[int]:
        """The chat, rendered and tokenised, with one video token per merged patch."""
        tokenizer = self.processor.tokenizer
        refuse_control_tokens(tokenizer, example.id, question_text(example, form))
        chat: Any = messages(example, form)  # transformers declares contents of strings only
        ids: list[int] = tokenizer(self.processor.apply_chat_template(chat, add_generation_prompt=True)).input_ids
        if clip is None:
            return ids
        frames, height, width = clip.grid
        place = ids.index(self.video_token_id)
        return [*ids[:place], *[self.video_token_id] * (frames * height * width // self.merge**2), *ids[place + 1 :]]

    def _clip(self, example: Example) -> _Clip | None:
        """Read and process a clip, or take it from memory; a failure comes back as a blank clip that says why."""
        if example.clip is None:
            return None
        key = (example.clip, example.start, example.end, example.crop)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if (problem := ClipRoot(self.clips).problem(example.clip)) is not None:
            raise ValueError(f"Sample {example.id!r}: {problem}.")
        try:
            clip = self._cached(example, self.clips / example.clip)
        except ClipError as error:
            clip = self._process(np.zeros((self.temporal_patch, 28, 28, 3), np.uint8), self.vision.fps)
            clip.failure = str(error)
        if self.kept_clips:
            self._kept[key] = clip
            if len(self._kept) > self.kept_clips:
                self._kept.popitem(last=False)
        return clip

    def _cached(self, example: Example, path: Path) -> _Clip:
        """Take a clip from the disk, or read and process it."""
        if self.cache is None:
            return self._read(example, path)
        part = {"start": example.start, "end": example.end, "crop": example.crop}
        key = self.cache.key(path, part | self._recipe)
        stored = None if key is None else self.cache.load(key)
        if stored is not None:
            return _Clip(torch.from_numpy(stored.patches), stored.grid, stored.seconds_per_grid)
        clip = self._read(example, path)
        if key is not None:
            stored = StoredClip(patches=clip.patches.numpy(), grid=clip.grid, seconds_per_grid=clip.seconds_per_grid)
            self.cache.store(key, stored)
        return clip

    def _read(self, example: Example, path: Path) -> _Clip:
        settings, patch = self.vision, self.temporal_patch
        frames = read_clip(path, example.start, example.end, settings.fps, settings.max_frames, patch, example.crop)
        return self._process(frames.frames, frames.sampled_fps)

    def _process(self, frames_THWC: np.ndarray, sampled_fps: float) -> _Clip:
        """Resize and cut into patches."""
        return _Clip(*self.patcher.cut(frames_THWC), self.temporal_patch / sampled_fps)

    @cached_property
    def _recipe(self) -> dict[str, Any]:
        """What decides how every clip comes out, for the cache."""
        return {
            "vision": asdict(self.vision),
            "temporal_patch": self.temporal_patch,
            "processor": json.loads(self.processor.video_processor.to_json_string()),
            "versions": {name: version(name) for name in DECODERS},
        }


def completion_ids(tokenizer: PreTrainedTokenizerBase, example: Example, form: Form) -> list[int]:
    """What SFT trains: the completion of one form, closed by the end-of-turn token.

    Raises:
        ValueError: If the reason form is asked for and the sample has no rationale, or if the text holds one of the
            tokenizer's control tokens, which would be taught as such.
    """
    if form == "direct":
        text = direct_completion(example.answer)
    elif example.rationale is None:
        raise ValueError(
            f"Sample {example.id!r} has no rationale, which SFT in the reason form needs; add one or set "
            "direct_fraction to 1."
        )
    else:
        text = reason_completion(example.rationale.strip(WHITESPACE), example.answer)
    refuse_control_tokens(tokenizer, example.id, text)
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    assert isinstance(end, int)
    return [*tokenizer(text, add_special_tokens=False).input_ids, end]


def refuse_control_tokens(tokenizer: PreTrainedTokenizerBase, identifier: str, text: str) -> None:
    """Refuse text that the tokenizer would take for a control token, such as the end of the turn.

    Raises:
        ValueError: Naming the sample and the token.
    """
    control = [token for token in (*tokenizer.all_special_tokens, VIDEO_PLACEHOLDER) if token in text]
    if control:
        raise ValueError(f"Sample {identifier!r} holds the control token {control[0]!r} in its text; remove it.")
