"""How fast is a step of SFT against a bare Hugging Face forward and backward?   python benchmarks/sft_step.py

Tokens per second (those of prompts and completions; padding is none) of one step over samples of various lengths: ours,
which packs them into one row without padding and applies the head to completions only, and the model's own forward with
labels, a padded row per sample, as a training loop without a framework would. The two alternate, and their losses are
compared. Writes benchmarks/results/sft_step.json. About three minutes on 2 cores.
"""

from __future__ import annotations

import os

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import argparse
import random
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import torch
from shapes import RESULTS, SHAPES, build_model, fill, processor, prompts_of, spread, timed, write_result
from torch import Tensor

from cair_lightning.losses import sft_loss, token_weights
from cair_lightning.policies.batch import Prompts
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.policies.tree import Branch

LONGEST = 512
"""Tokens of text of the longest prompt."""


def samples(policy: QwenVLPolicy, visual: int, count: int) -> tuple[Prompts, list[list[int]]]:
    """Prompts with texts of 64 to 512 tokens, padded on the left, and completions of 20 to 120."""
    rng = random.Random(0)
    texts = [LONGEST, *(rng.randrange(64, LONGEST) for _ in range(count - 1))]
    parts = [prompts_of(policy, visual, text, 1) for text in texts]
    length = visual + LONGEST
    prompts = prompts_of(policy, visual, LONGEST, count)
    prompts.ids_BL.fill_(policy.tokenizer.pad_token_id)
    prompts.mask_BL.fill_(False)
    prompts.positions_3BL.zero_()
    for row, part in enumerate(parts):
        own = slice(length - part.ids_BL.shape[1], length)
        prompts.ids_BL[row, own], prompts.mask_BL[row, own] = part.ids_BL[0], True
        prompts.positions_3BL[:, row, own] = part.positions_3BL[:, 0]
    return prompts, [[*fill(policy.processor, rng.randrange(20, 120)), policy.stop_ids[0]] for _ in range(count)]


def ours(policy: QwenVLPolicy, prompts: Prompts, completions: list[list[int]]) -> Tensor:
    """The loss as `SFTModule` computes it."""
    layout, logps_M = policy.logps(prompts, [[Branch(ids=ids)] for ids in completions])
    logps_BT = layout.per_token(logps_M, range(len(prompts)), max(map(len, completions)))
    trained_BT = torch.arange(logps_BT.shape[1]) < torch.tensor([len(ids) for ids in completions])[:, None]
    n_tokens = int(trained_BT.sum())
    return sft_loss(logps_BT, token_weights(trained_BT, "token", logps_BT.shape[1], len(prompts), n_tokens))


def bare(policy: QwenVLPolicy, prompts: Prompts, completions: list[list[int]]) -> Tensor:
    """The loss by the model's own forward."""
    longest, count = max(map(len, completions)), len(completions)
    pad = policy.tokenizer.pad_token_id
    behind = torch.tensor([[*ids, *[pad] * (longest - len(ids))] for ids in completions])
    there = torch.arange(longest) < torch.tensor([len(ids) for ids in completions])[:, None]
    ids = torch.cat([prompts.ids_BL, behind], dim=1)
    last_B = prompts.positions_3BL.amax((0, 2))
    positions = (last_B[:, None] + 1 + torch.arange(longest)).expand(3, -1, -1)
    loss: Tensor = policy.model(
        input_ids=ids, attention_mask=torch.cat([prompts.mask_BL, there], dim=1), use_cache=False,
        position_ids=torch.cat([prompts.positions_3BL, positions], dim=2), pixel_values_videos=prompts.patches,
        video_grid_thw=torch.tensor(prompts.grids),
        mm_token_type_ids=(ids == policy.model.config.video_token_id).int() * 2,
        labels=torch.cat([torch.full_like(prompts.ids_BL, -100), behind.masked_fill(~there, -100)], dim=1),
    ).loss  # fmt: skip
    assert count == len(prompts)
    return loss


def measure(policy: QwenVLPolicy, visual: int, count: int, repeats: int) -> dict[str, Any]:
    """Both on one batch, in turn."""
    prompts, completions = samples(policy, visual, count)
    tokens = int(prompts.mask_BL.sum()) + sum(map(len, completions))
    padded = count * (prompts.ids_BL.shape[1] + max(map(len, completions)))

    def step(loss: Tensor) -> float:
        loss.backward()
        policy.zero_grad()
        return float(loss.detach())

    losses = {"ours": step(ours(policy, prompts, completions)), "bare": step(bare(policy, prompts, completions))}
    taken: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(repeats):
        taken["ours"] += timed(lambda: step(ours(policy, prompts, completions)), 1, warm=0)
        taken["bare"] += timed(lambda: step(bare(policy, prompts, completions)), 1, warm=0)
    rates = {name: [tokens / s for s in seconds] for name, seconds in taken.items()}
    return {
        "visual": visual, "samples": count, "tokens": tokens, "loss": losses,
        "padding": {"ours": 0.0, "bare": 1 - tokens / padded},
        "tokens_per_second": {name: spread(values) for name, values in rates.items()},
        "ours_over_bare": median(rates["ours"]) / median(rates["bare"]),
    }  # fmt: skip


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default="37m", choices=SHAPES)
    parser.add_argument("--result", type=Path, default=RESULTS / "sft_step.json")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    made = processor()
    policy = QwenVLPolicy(build_model(SHAPES[options.model], made), made).train()
    results = [measure(policy, visual, 4, options.repeats) for visual in (192, 512)]
    settings = {"model": options.model, "repeats": options.repeats}
    write_result(options.result, "How fast is a step of SFT against a bare forward and backward?", settings, results)
    for row in results:
        print(row)


if __name__ == "__main__":
    main()
