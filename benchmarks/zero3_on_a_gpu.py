"""What does ZeRO-3 cost on one GPU, and does `cair plan` know what it needs?   python benchmarks/zero3_on_a_gpu.py

A GRPO step of Qwen2.5-VL-3B and 7B by their shapes, random weights, bfloat16, prompts of 4,096 tokens, G = 8,
completions of 200, layers recomputed: without DeepSpeed (3B), and under ZeRO-3 with weights gathered for sampling and
with weights that stay sharded, for 7B with the optimiser in main memory. One rank holds all shards, so that what
differs is the hooks' fetching and nothing of a network. Compares the peak of device memory with `cair plan`, of which
it should be within 10 %. Writes benchmarks/results/gpu-zero3.json. Not run by us yet: there was no GPU.
"""

from __future__ import annotations

import argparse
from typing import Any

from shapes import GROUP, RESULTS, in_a_process, write_result

from cair_lightning.planning import SHAPES, Run, memory

VISUAL, TEXT, TOKENS = 4032, 64, 200
CASES = {
    "3b": {"plain": [], "gathered": ["--zero", "3"], "sharded": ["--zero", "3", "--sharded"]},
    "7b": {"gathered": ["--zero", "3", "--offload"], "sharded": ["--zero", "3", "--offload", "--sharded"]},
}


def planned(model: str, options: list[str]) -> dict[str, float]:
    """What `cair plan` says of a case, GiB."""
    zero = 3 if "--zero" in options else 0
    run = Run(
        shape=SHAPES[model], gpus=1, zero=zero, prompt=VISUAL + TEXT, visual=VISUAL, group=GROUP, tokens=TOKENS,
        batch=1, parts=1, offload="--offload" in options,
    )  # fmt: skip
    return memory(run)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=list(CASES), choices=CASES)
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for model in options.models:
        for name, further in CASES[model].items():
            measured = in_a_process(
                "grpo_step.py", "--contestant", "ours", "--model", model, "--cmr", "--dtype", "bfloat16", "--visual",
                str(VISUAL), "--prompts", "1", "--tokens", str(TOKENS), "--steps", str(options.steps),
                "--checkpointing", *further,
            )  # fmt: skip
            sizes = planned(model, further)
            expected = max(sizes["total while sampling"], sizes["total while updating"])
            results[f"{model} {name}"] = {"measured": measured, "planned": sizes, "planned_peak_gib": expected}
            print(model, name, results[f"{model} {name}"], flush=True)
            write_result(RESULTS / "gpu-zero3.json", "What does ZeRO-3 cost on one GPU?", {"tokens": TOKENS}, results)


if __name__ == "__main__":
    main()
