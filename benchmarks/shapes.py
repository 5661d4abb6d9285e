"""What the benchmarks of speed share: models of a given shape, prompts of a given size, and how a result is written."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from cair_lightning.policies.batch import Prompts
from cair_lightning.policies.decoding import PATIENCE, Sampler
from cair_lightning.policies.positions import prompt_positions
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.structures import Example
from cair_lightning.world.tiny import CONTROL_TOKENS, build_processor

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "transformers", "lightning", "trl", "numpy")
EMOTIONS = ["angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised"]
FINE = [f"{degree} {emotion}" for degree in ("slightly", "quite", "very") for emotion in EMOTIONS]
CANDIDATES = {7: EMOTIONS, 26: [*EMOTIONS, *FINE][:26]}
GRIDS = {192: (3, 16, 16), 512: (4, 16, 32), 960: (4, 32, 30), 1984: (8, 16, 62), 4032: (16, 18, 56)}
"""Temporal, vertical and horizontal patches of a clip with so many tokens, 2 x 2 patches each."""
GROUP = 8


@dataclass(frozen=True)
class Shape:
    """A Qwen2.5-VL by its sizes."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    shared_heads: int
    vocabulary: int
    vision_hidden: int
    vision_layers: int
    vision_intermediate: int
    vision_heads: int
    tied: bool = True

    @property
    def whole_layers(self) -> list[int]:
        """Layers of the vision tower that attend to whole frames, every eighth in Qwen2.5-VL; the others to windows."""
        return [n for n in range(self.vision_layers) if (n + 1) % 8 == 0] or [self.vision_layers - 1]


SHAPES = {
    "37m": Shape(512, 9, 1536, 8, 4, 8192, 256, 4, 512, 4),
    "3b": Shape(2048, 36, 11008, 16, 2, 151936, 1280, 32, 3420, 16),
    "7b": Shape(3584, 28, 18944, 28, 4, 152064, 1280, 32, 3420, 16, tied=False),
}


def processor() -> Qwen2_5_VLProcessor:
    """A processor whose tokenizer knows the tags and the labels, and resizes no picture of the benchmarks."""
    texts = [f"<reason>because she feels so</reason><answer>{y}</answer>" for y in CANDIDATES[26]]
    made = build_processor([*texts, "How does she feel? Think, then answer at once. <answer>"] * 10)
    made.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 4096 * 28 * 28}
    return made


def build_model(
    shape: Shape, made: Qwen2_5_VLProcessor, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Qwen2_5_VLForConditionalGeneration:
    """A model of a shape with random weights."""
    ids = {token: made.tokenizer.convert_tokens_to_ids(token) for token in CONTROL_TOKENS}
    width = shape.hidden // shape.heads
    sections = [width // 8, 3 * width // 16, 3 * width // 16]
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": shape.vocabulary, "hidden_size": shape.hidden, "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.shared_heads, "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
            "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"], "tie_word_embeddings": shape.tied,
        },
        vision_config={
            "depth": shape.vision_layers, "hidden_size": shape.vision_hidden, "num_heads": shape.vision_heads,
            "intermediate_size": shape.vision_intermediate, "out_hidden_size": shape.hidden, "tokens_per_second": 2,
            "fullatt_block_indexes": shape.whole_layers,
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=shape.tied,
    )  # fmt: skip
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    model.eval()
    return model


def fill(made: Qwen2_5_VLProcessor, size: int) -> list[int]:
    """So many tokens of text."""
    return list(made.tokenizer(" because she feels so" * size, add_special_tokens=False).input_ids)[:size]


def prompts_of(
    policy: QwenVLPolicy, visual: int, text: int, count: int, candidates: Sequence[str] = EMOTIONS
) -> Prompts:
    """Prompts of so many tokens of a clip and of text, as the collator would make them; the clips are noise."""
    made, grid = policy.processor, GRIDS[visual]
    video = policy.model.config.video_token_id
    start, end = made.tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])
    reason, direct = policy.encode("Think, then answer"), policy.encode("answer at once")
    ids = [start, *[video] * visual, end, *fill(made, text - 2 - len(reason)), *reason]
    device = policy.model.device
    positions_3L = prompt_positions(torch.tensor(ids), video, [grid], [1.0], 2.0, 2)
    patches = torch.randn(
        count * grid[0] * grid[1] * grid[2], 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(1)
    )
    return Prompts(
        examples=[
            Example(id=str(n), question="?", candidates=list(candidates), answer="sad", clip="noise")
            for n in range(count)
        ],
        forms=["reason"] * count,
        ids_BL=torch.tensor([ids] * count),
        mask_BL=torch.ones(count, len(ids), dtype=torch.bool),
        positions_3BL=positions_3L[:, None].repeat(1, count, 1),
        forks=[len(ids) - len(reason)] * count,
        direct_tails=[direct] * count,
        patches=patches,
        grids=[grid] * count,
        seconds_per_grid=[1.0] * count,
        valid_B=torch.ones(count, dtype=torch.bool),
    ).to(device)


@contextmanager
def dictated(policy: QwenVLPolicy, length: int) -> Iterator[None]:
    """Every completion is well-formed and of one length: the tokens are given to the sampler, which does the rest."""
    front = policy.encode("<reason>")
    back = [*policy.encode("</reason><answer>sad</answer>"), policy.stop_ids[0]]
    ids = [*front, *fill(policy.processor, length - len(front) - len(back)), *back]
    ids_T = torch.tensor([*ids, *[0] * PATIENCE], device=policy.model.device)
    note = Sampler._note

    def dictate(self: Sampler, step: int, ids_N: torch.Tensor, logps_N: torch.Tensor) -> None:
        note(self, step, ids_T[step].expand_as(ids_N), logps_N)

    Sampler._note = dictate  # type: ignore[method-assign]
    try:
        yield
    finally:
        Sampler._note = note  # type: ignore[method-assign]


def timed(call: Callable[[], object], repeats: int, warm: int = 1) -> list[float]:
    """Seconds of each call, after some that are not counted."""
    seconds = []
    for n in range(warm + repeats):
        started = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if n >= warm:
            seconds.append(time.perf_counter() - started)
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": median(values), "min": min(values), "max": max(values), "runs": len(values)}


def peak_gib() -> float:
    """Most memory that this process has held: on CUDA of the device, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def matmul_rate(dtype: torch.dtype = torch.float32, device: str = "cpu", size: int = 2048) -> float:
    """This machine's floating-point operations a second in a large product of matrices."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / median(timed(lambda: a @ a, repeats=7, warm=2))


def environment() -> dict[str, Any]:
    """Where the figures come from."""
    command = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    return {"commit": commit, "device": device, **machine, "versions": {name: version(name) for name in PACKAGES}}


def write_result(path: Path, question: str, settings: dict[str, Any], results: object) -> None:
    """One JSON file per question."""
    result = {"question": question, "environment": environment(), "settings": settings, "results": results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def in_a_process(script: str, *arguments: str) -> dict[str, Any]:
    """Run a script of ours in a process of its own, whose peak memory is its own; it prints JSON as its last line."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
