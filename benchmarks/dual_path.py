"""What does the dual-path verifier cost?   python benchmarks/dual_path.py

Both beliefs of the 8 completions of a prompt, by full rows of the Hugging Face model (one per context and candidate:
63 for 7 candidates, the candidates of a context as a batch) and by ours; and curation, path A alone of one sample after
the other. Prompts of 1,024 tokens, completions of 64, 7 and 26 candidates. Contestants alternate; their beliefs are
compared as well. Writes benchmarks/results/dual_path.json. About eight minutes on 2 cores.
"""

from __future__ import annotations

import os

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import argparse
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import torch
from shapes import (
    CANDIDATES,
    GROUP,
    RESULTS,
    SHAPES,
    build_model,
    dictated,
    processor,
    prompts_of,
    spread,
    timed,
    write_result,
)

from cair_lightning.policies.batch import Prompts
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.prompts import after_rationale, direct_completion
from cair_lightning.verifier import cut_rationale, observe, verify

VISUAL, TEXT, TOKENS = 960, 64, 64


def full_rows(
    policy: QwenVLPolicy, prompts: Prompts, row: int, context: list[int], answers: list[list[int]]
) -> torch.Tensor:
    """Log-beliefs by the Hugging Face model: prompt, context and candidate as a row each, the clip in every one."""
    config, count = policy.model.config, len(answers)
    front = [*prompts.ids_BL[row].tolist(), *context]
    longest = len(front) + max(map(len, answers))
    pad = policy.tokenizer.pad_token_id
    ids = torch.tensor([[*front, *a, *[pad] * (longest - len(front) - len(a))] for a in answers])
    last = int(prompts.positions_3BL[:, row].max())
    behind = torch.arange(last + 1, last + 1 + longest - prompts.ids_BL.shape[1]).expand(3, -1)
    positions = torch.cat([prompts.positions_3BL[:, row], behind], dim=1)[:, None].expand(3, count, -1)
    patches = prompts.select([row]).patches
    assert patches is not None
    out = policy.model(
        input_ids=ids, position_ids=positions, pixel_values_videos=patches.repeat(count, 1), use_cache=False,
        video_grid_thw=torch.tensor([prompts.grids[row]] * count), logits_to_keep=longest - len(front) + 1,
        mm_token_type_ids=(ids == config.video_token_id).int() * 2,
    )  # fmt: skip
    logps = out.logits.log_softmax(-1)
    scores = [logps[n, range(len(a)), a].sum() for n, a in enumerate(answers)]
    return torch.stack(scores).log_softmax(0)


def without_tail(prompts: Prompts, row: int) -> Prompts:
    """The prompt up to where the two instructions part."""
    cut = prompts.select([row])
    fork = prompts.forks[row]
    cut.ids_BL, cut.mask_BL, cut.positions_3BL = (
        cut.ids_BL[:, :fork],
        cut.mask_BL[:, :fork],
        cut.positions_3BL[:, :, :fork],
    )
    return cut


@torch.no_grad()
def naive_observation(policy: QwenVLPolicy, prompts: Prompts, row: int) -> torch.Tensor:
    """Path A."""
    answers = [policy.encode(direct_completion(y)) for y in prompts.examples[row].candidates]
    return full_rows(policy, without_tail(prompts, row), 0, prompts.direct_tails[row], answers)


@torch.no_grad()
def naive(policy: QwenVLPolicy, prompts: Prompts, completions: list[list[int]]) -> torch.Tensor:
    """Both paths of a prompt and its completions (1 + G, Y)."""
    beliefs = [naive_observation(policy, prompts, 0)]
    for ids in completions:
        kept, rest = cut_rationale(policy, ids)
        answers = [policy.encode(rest + after_rationale(y)) for y in prompts.examples[0].candidates]
        beliefs.append(full_rows(policy, prompts, 0, ids[:kept], answers))
    return torch.stack(beliefs)


def both_paths(policy: QwenVLPolicy, candidates: int, repeats: int) -> dict[str, Any]:
    """The verifier of one prompt, after its rollout (as in training) and by itself (rationales from elsewhere)."""
    prompts = prompts_of(policy, VISUAL, TEXT, 1, CANDIDATES[candidates])
    with policy.scoring(), dictated(policy, TOKENS):
        prefix = policy.prefill(prompts)
        completions = policy.sample(prefix, GROUP, TOKENS)
        ids = [completions.ids(n) for n in range(GROUP)]
        verdict = verify(policy, prefix, completions, GROUP)
        ours = torch.cat([verdict.log_p_obs_BY, verdict.log_p_int_NY])
        taken: dict[str, list[float]] = {"naive": [], "ours": [], "ours_alone": []}
        plain: list[torch.Tensor] = []
        for _ in range(repeats):
            taken["naive"] += timed(lambda: plain.append(naive(policy, prompts, ids)), 1, warm=0)
            taken["ours"] += timed(lambda: verify(policy, prefix, completions, GROUP), 1)
            taken["ours_alone"] += timed(lambda: verify(policy, policy.prefill(prompts), completions, GROUP), 1)
    return {
        "candidates": candidates,
        "seconds": {name: spread(values) for name, values in taken.items()},
        "naive_over_ours": median(taken["naive"]) / median(taken["ours"]),
        "naive_over_ours_alone": median(taken["naive"]) / median(taken["ours_alone"]),
        "largest_difference_nats": float((ours - plain[0]).abs().max()),
    }


def curation(policy: QwenVLPolicy, repeats: int, batch: int = 4) -> dict[str, Any]:
    """Path A of a batch of samples: ours, and one plain forward per sample and label."""
    prompts = prompts_of(policy, VISUAL, TEXT, batch)
    rows = range(batch)

    def plain() -> torch.Tensor:
        return torch.stack([torch.cat([one_label(row, y) for y in prompts.examples[row].candidates]) for row in rows])

    @torch.no_grad()
    def one_label(row: int, label: str) -> torch.Tensor:
        return full_rows(
            policy, without_tail(prompts, row), 0, prompts.direct_tails[row], [policy.encode(direct_completion(label))]
        )

    taken: dict[str, list[float]] = {"plain": [], "plain_labels_as_a_batch": [], "ours": []}
    with policy.scoring():
        for _ in range(repeats):
            taken["plain"] += timed(plain, 1, warm=0)
            taken["plain_labels_as_a_batch"] += timed(
                lambda: [naive_observation(policy, prompts, row) for row in rows], 1, 0
            )
            taken["ours"] += timed(lambda: observe(policy, policy.prefill(prompts)), 1)
    rates = {name: [batch / s for s in values] for name, values in taken.items()}
    return {
        "samples_per_second": {name: spread(values) for name, values in rates.items()},
        "ours_over_plain": median(rates["ours"]) / median(rates["plain"]),
        "ours_over_labels_as_a_batch": median(rates["ours"]) / median(rates["plain_labels_as_a_batch"]),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="37m", choices=SHAPES)
    parser.add_argument("--result", type=Path, default=RESULTS / "dual_path.json")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    made = processor()
    policy = QwenVLPolicy(build_model(SHAPES[options.model], made), made)
    results = {
        "verifier": [both_paths(policy, 7, options.repeats), both_paths(policy, 26, 1)],
        "curation": curation(policy, options.repeats),
    }
    settings = {
        "model": options.model,
        "prompt": VISUAL + TEXT,
        "tokens": TOKENS,
        "group": GROUP,
        "repeats": options.repeats,
    }
    write_result(options.result, "What does the dual-path verifier cost?", settings, results)
    for row in results["verifier"]:
        print(row)
    print(results["curation"])


if __name__ == "__main__":
    main()
