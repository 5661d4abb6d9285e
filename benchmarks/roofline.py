"""How far is a step from the machine's limit?   python benchmarks/roofline.py

The floating-point operations that each phase of a GRPO step needs (every unique token once, a query only with the keys
that it sees, a backward pass twice a forward one, the head on completion tokens only) at the rate that this machine
reaches in a large product of matrices, against the time taken; and how time grows with the prompt, the group, the
candidates and the batch. Decoding reads all weights for a few rows, so that its limit is memory: its time is also set
against that of the step's bare matrix products, one after the other as in the step. Writes
benchmarks/results/roofline.json. About six minutes on 2 cores.
"""

from __future__ import annotations

import os

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import argparse
import warnings
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from shapes import (
    CANDIDATES,
    GRIDS,
    GROUP,
    RESULTS,
    SHAPES,
    Shape,
    build_model,
    dictated,
    matmul_rate,
    peak_gib,
    processor,
    prompts_of,
    spread,
    timed,
    write_result,
)  # fmt: skip
from torch.nn.functional import linear

from cair_lightning.losses import grpo_loss
from cair_lightning.policies.batch import Prompts
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.policies.sampling import SamplingSettings
from cair_lightning.rollout import RewardSettings, completion_logps, roll_out

TEXT = 64
BASE = {"visual": 512, "tokens": 64, "group": GROUP, "candidates": 7, "prompts": 1}
GROWTH = {"visual": [192, 512, 960, 1984], "group": [2, 4, 16], "candidates": [26], "prompts": [2, 4]}


def attended(prompt: int, branches: list[int]) -> float:
    """Pairs of a query and a key that it sees: a prompt and the branches behind it."""
    return prompt * (prompt + 1) / 2 + sum(n * prompt + n * (n + 1) / 2 for n in branches)


def language_operations(shape: Shape, tokens: int, pairs: float, scored: int) -> float:
    """Of a forward pass of the language model."""
    width = shape.hidden // shape.heads
    layer = 2 * shape.hidden**2 + 2 * shape.hidden * width * shape.shared_heads + 3 * shape.hidden * shape.intermediate
    return 2 * shape.layers * (tokens * layer + 2 * pairs * shape.hidden) + 2 * scored * shape.hidden * shape.vocabulary


def vision_operations(shape: Shape, visual: int) -> float:
    """Of a forward pass of the vision tower over one clip."""
    frames, height, width = GRIDS[visual]
    patches, hidden = frames * height * width, shape.vision_hidden
    layer = 4 * hidden**2 + 3 * hidden * shape.vision_intermediate
    whole = len(shape.whole_layers)
    pairs = whole * frames * (height * width) ** 2 + (shape.vision_layers - whole) * patches * 64
    merged = 4 * hidden
    ends = patches * 3 * 2 * 14 * 14 * hidden + visual * (merged**2 + merged * shape.hidden)
    return 2 * (patches * shape.vision_layers * layer + 2 * pairs * hidden + ends)


def needed(shape: Shape, case: dict[str, int]) -> dict[str, float]:
    """Operations of each phase of a step of one prompt."""
    prompt, tokens, group = case["visual"] + TEXT, case["tokens"], case["group"]
    vision = vision_operations(shape, case["visual"])
    whole = language_operations(shape, prompt + group * tokens, attended(prompt, [tokens] * group), group * tokens)
    return {
        "prefill": vision + language_operations(shape, prompt, attended(prompt, []), 1),
        "generate": language_operations(
            shape, group * (tokens - 1), attended(prompt, [tokens] * group) - attended(prompt, []), group * tokens
        ),
        "reference": vision + whole,
        "update": 3 * (vision + whole),
    }


def step(policy: QwenVLPolicy, reference: QwenVLPolicy, prompts: Prompts, case: dict[str, int]) -> dict[str, float]:
    """Seconds of each phase of one step; the optimiser is none of them."""
    sampling = SamplingSettings(group_size=case["group"], max_new_tokens=case["tokens"])
    generator = torch.Generator(prompts.ids_BL.device).manual_seed(0)
    with dictated(policy, case["tokens"]):
        rollout = roll_out(policy, prompts, sampling, RewardSettings(), reference=reference, generator=generator)

    def update() -> None:
        rows = range(len(prompts))
        logps_NT = completion_logps(policy, prompts, rollout.completions, rows, 1.0)
        weights_NT = rollout.token_weights_NT
        advantages_N = torch.ones_like(rollout.advantages_N)
        grpo_loss(logps_NT, logps_NT.detach(), advantages_N, weights_NT, rollout.ref_logps_NT, 0.04)[0].backward()
        policy.zero_grad()

    return {**rollout.seconds, "update": timed(update, 1, warm=0)[0]}


def phases(policy: QwenVLPolicy, reference: QwenVLPolicy, case: dict[str, int], repeats: int) -> dict[str, list[float]]:
    """Seconds of each phase of some steps, the first of which is left out."""
    prompts = prompts_of(policy, case["visual"], TEXT, case["prompts"], CANDIDATES[case["candidates"]])
    found: dict[str, list[float]] = defaultdict(list)
    for n in range(repeats + 1):
        for phase, seconds in step(policy, reference, prompts, case).items():
            if n:
                found[phase].append(seconds)
    return found


def bare_products(policy: QwenVLPolicy, rows: int) -> float:
    """Seconds of the matrix products of one decoding step and nothing else, weights in turn as in the step."""
    weights = [m.weight for m in policy.model.model.language_model.modules() if isinstance(m, torch.nn.Linear)]
    weights.append(policy.model.lm_head.weight)
    inputs = {w.shape[1]: torch.randn(rows, w.shape[1], device=w.device, dtype=w.dtype) for w in weights}

    @torch.no_grad()
    def products() -> None:
        for w in weights:
            linear(inputs[w.shape[1]], w)

    return median(timed(products, repeats=9, warm=2))


def limits(
    policy: QwenVLPolicy, reference: QwenVLPolicy, shape: Shape, case: dict[str, int], repeats: int
) -> dict[str, Any]:
    """Each phase against what it needs."""
    device, dtype = str(policy.model.device), policy.model.dtype
    before = matmul_rate(dtype, device)
    found = phases(policy, reference, case, repeats)
    rate = (before + matmul_rate(dtype, device)) / 2
    rows: dict[str, Any] = {}
    for phase, operations in needed(shape, case).items():
        seconds = spread(found[phase])
        rows[phase] = {
            "seconds": seconds,
            "gflop": operations / 1e9,
            "share_of_limit": operations / rate / seconds["median"],
        }
    bare = bare_products(policy, case["group"]) * (case["tokens"] - 1)
    rows["generate"]["share_of_bare_products"] = bare / rows["generate"]["seconds"]["median"]
    rows["verify"] = {"seconds": spread(found["verify"])}
    total = sum(median(values) for values in found.values())
    return {
        "case": case, "matmul_gflops": rate / 1e9, "phases": rows, "seconds": total,
        "verifier_share": median(found["verify"]) / total, "peak_gib": peak_gib(),
    }  # fmt: skip


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="37m", choices=SHAPES)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--cases", type=int, nargs="*", default=[512, 960, 1984], help="visual tokens")
    parser.add_argument("--tokens", type=int, nargs="*", default=[64, 200])
    parser.add_argument("--no-growth", action="store_true")
    parser.add_argument("--result", type=Path, default=RESULTS / "roofline.json")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    made, shape = processor(), SHAPES[options.model]
    dtype = getattr(torch, options.dtype)
    policy, reference = (
        QwenVLPolicy(
            build_model(shape, made, dtype, options.device), made, tree_attention=options.attention,
            gradient_checkpointing=options.checkpointing,
        )
        for _ in range(2)
    )  # fmt: skip
    policy.train()
    cases = [BASE | {"visual": visual, "tokens": tokens} for visual in options.cases for tokens in options.tokens]
    results: dict[str, Any] = {"limits": []}
    for case in cases:
        results["limits"].append(limits(policy, reference.eval(), shape, case, options.repeats))
        print(results["limits"][-1], flush=True)
    if not options.no_growth:
        results["growth"] = []
        for name, values in GROWTH.items():
            for value in values:
                case = BASE | {name: value}
                found = phases(policy, reference, case, options.repeats)
                seconds = {phase: spread(taken) for phase, taken in found.items()}
                results["growth"].append({"varied": name, "case": case, "seconds": seconds})
                print(name, value, {phase: round(s["median"], 2) for phase, s in seconds.items()}, flush=True)
    settings = {
        key: getattr(options, key) for key in ("model", "dtype", "device", "attention", "checkpointing", "repeats")
    }
    write_result(options.result, "How far is a step from the machine's limit?", settings, results)


if __name__ == "__main__":
    main()
