"""Independent references for the shared computations: plain full-row Hugging Face forwards, positions by fractions.

Also the little world that they run on: a tiny model whose weights are large enough for every path to matter.
"""

import functools
import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2_5_VLProcessor

from cair_lightning.policies.collation import Collator, Prompts, VisionSettings
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.prompts import direct_completion, question_text, reason_completion
from cair_lightning.structures import Example, Form
from cair_lightning.world.face import draw_clip
from cair_lightning.world.tiny import build_model, build_processor

TOLERANCE = 1e-5
SECONDS_PER_GRID = {"short.mp4": Fraction(1), "long.mp4": Fraction(3, 2)}
"""Two frames make a grid. Both clips are sampled at 4 frames, 2 and 3 seconds long."""
VISION = VisionSettings(fps=2.0, max_frames=4, min_pixels=56 * 56, max_pixels=84 * 84)
EXAMPLES = [
    Example(
        id="seen",
        clip="short.mp4",
        context=["Ann: You kept it from me.", "Bob: I had to."],
        question="How does Ann feel?",
        candidates=["sad", "sadness", "angry"],  # one is a prefix of another
        answer="sad",
        rationale="she lost.",
        entropy_bits=1.0,
    ),
    Example(
        id="told",
        question="What does he feel?",
        candidates=["happy", "very happy"],
        answer="very happy",
        rationale="he won the cup 🏆",
        entropy_bits=0.25,
    ),
    Example(
        id="wide",
        clip="long.mp4",
        question="And she?",
        candidates=["angry", "sad", "happy", "calm", "no idea at all"],
        answer="calm",
        rationale="the café is quiet",
        entropy_bits=2.0,
    ),
]


@functools.cache
def clip_root() -> Path:
    """A folder with two clips of different length and size, and one that is none."""
    folder = tempfile.TemporaryDirectory(prefix="clips")
    root = Path(folder.name)
    draw_clip(root / "short.mp4", "sad", np.random.default_rng(0))
    draw_clip(root / "long.mp4", "angry", np.random.default_rng(1), seconds=3.0, size=84)
    (root / "broken.mp4").write_bytes(b"no video")
    _KEPT.append(folder)
    return root


_KEPT: list[tempfile.TemporaryDirectory[str]] = []
"""Folders that go when the tests end."""


@functools.cache
def processor() -> Qwen2_5_VLProcessor:
    """A processor whose tokenizer merges across the end of z, as Qwen's does."""
    texts = [question_text(e, form) for e in EXAMPLES for form in ("reason", "direct")]
    texts += [direct_completion(y) for e in EXAMPLES for y in e.candidates] * 3
    texts += [reason_completion(e.rationale, y) for e in EXAMPLES for y in e.candidates] * 3
    texts += ["<reason>she lost.</reason>", "<reason>he won!</reason>", "how odd?!</reason>"] * 20
    return build_processor(texts * 4, vocabulary=460)


def build_policy(attention: str = "auto", dtype: torch.dtype = torch.float32, **options) -> QwenVLPolicy:
    """A policy with large random weights: a wrong mask, position or clip shows in every number."""
    model = build_model(processor(), hidden=48, layers=2)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if parameter.ndim == 1 else 0.3 * noise)
    return QwenVLPolicy(model.to(dtype), processor(), tree_attention=attention, **options).eval()


@functools.cache
def shared_policy() -> QwenVLPolicy:
    """A policy for tests that leave it as it is."""
    return build_policy()


def build_collator(**changes) -> Collator:
    """The collator of the tests' settings."""
    settings = {"clips": clip_root(), "vision": VISION, "max_tokens": 512} | changes
    return Collator(processor(), shared_policy().model.config, **settings)


def collate(examples: Sequence[Example] = EXAMPLES, form: Form = "reason", **changes) -> Prompts:
    """A batch; the three examples make prompts of different lengths, with and without a clip."""
    return build_collator(**changes)([(example, form) for example in examples])


def prompt_ids(prompts: Prompts, row: int) -> list[int]:
    """The tokens of a prompt without padding."""
    return prompts.ids_BL[row][prompts.mask_BL[row]].tolist()


def plain_positions(
    ids: Sequence[int], video_id: int, videos: Sequence[tuple[Sequence[int], Fraction]], tokens_per_second=4, merge=2
) -> Tensor:
    """Design, section 5, token by token: t = floor(index x seconds x rate), text from max(all) + 1 on; (3, L)."""
    places: list[tuple[int, int, int]] = []
    pending: Iterator[tuple[int, int, int]] = iter(())
    remaining = list(videos)
    left = 0
    for token in ids:
        following = 1 + max((max(place) for place in places), default=-1)
        if token != video_id:
            places.append((following, following, following))
            continue
        if not left:
            (frames, height, width), seconds = remaining.pop(0)
            start, height, width = following, height // merge, width // merge
            times = [int(t * seconds * tokens_per_second) for t in range(frames)]
            grid = [(start + t, start + h, start + w) for t in times for h in range(height) for w in range(width)]
            pending, left = iter(grid), len(grid)
        places.append(next(pending))
        left -= 1
    assert not remaining
    assert not left
    return torch.tensor(places).reshape(-1, 3).T


def plain_logits(policy: QwenVLPolicy, prompts: Prompts, row: int, ids: Sequence[int]) -> Tensor:
    """Logits (len(ids), V) of one full row through the Hugging Face model: no padding, no cache, no branches."""
    config = policy.model.config
    example, grid = prompts.examples[row], prompts.grids[row]
    videos = [] if grid is None else [(grid, SECONDS_PER_GRID[example.clip])]
    ids_1L = torch.tensor([list(ids)])
    pixels = {}
    if grid is not None:
        sizes = [0 if g is None else g[0] * g[1] * g[2] for g in prompts.grids]
        patches = prompts.patches[sum(sizes[:row]) : sum(sizes[: row + 1])]
        pixels = {"pixel_values_videos": patches.to(policy.model.dtype), "video_grid_thw": torch.tensor([grid])}
    return policy.model(
        input_ids=ids_1L,
        attention_mask=torch.ones_like(ids_1L),
        position_ids=plain_positions(ids, config.video_token_id, videos)[:, None],
        mm_token_type_ids=(ids_1L == config.video_token_id).int() * 2,
        use_cache=False,
        **pixels,
    ).logits[0]


def plain_logps(
    policy: QwenVLPolicy, prompts: Prompts, row: int, before: Sequence[int], scored: Sequence[int], temperature=1.0
) -> Tensor:
    """Log-probabilities (len(scored),) of tokens after the tokens `before` them, as one full row."""
    logits_LV = plain_logits(policy, prompts, row, [*before, *scored]) / temperature
    predictors = logits_LV[len(before) - 1 : -1]
    return predictors.log_softmax(-1).gather(1, torch.tensor([list(scored)]).T).squeeze(1)
