"""How fast is a step at the shapes of a lab's run, on a GPU?   python benchmarks/on_a_gpu.py --model 7b

A GRPO step of Qwen2.5-VL-3B or 7B by its shape, random weights, bfloat16, prompts of 4,096 tokens, G = 8, completions
of 200: ours by every way to attend that runs there, ours with nothing shared (a full row per completion), and TRL's;
and the phases of ours against the device's rate in large products (the update's share is its MFU). By computation 3B
fits 80 GB, and 7B with its reference, gradients and optimiser needs 141. Writes benchmarks/results/gpu-<model>-*.json.
Not run by us yet: where this was written there was no GPU. Cut it by --contestants.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from shapes import RESULTS, ROOT, in_a_process, write_result

VISUAL, TOKENS = 4032, 200
CONTESTANTS = {
    "ours-dense": ("ours", "dense"), "ours-flex": ("ours", "flex"), "ours-varlen": ("ours", "varlen"),
    "rows": ("rows", "auto"), "trl": ("trl", "auto"),
}  # fmt: skip


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="3b", choices=["3b", "7b"])
    parser.add_argument("--contestants", nargs="*", default=list(CONTESTANTS), choices=CONTESTANTS)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for name in options.contestants:
        contestant, attention = CONTESTANTS[name]
        if attention == "varlen" and find_spec("flash_attn") is None:
            print("flash-attn is not installed: ours-varlen is left out")
            continue
        results[name] = in_a_process(
            "grpo_step.py", "--contestant", contestant, "--attention", attention, "--model", options.model, "--cmr",
            "--dtype", "bfloat16", "--visual", str(VISUAL), "--prompts", "1", "--tokens", str(TOKENS),
            "--steps", str(options.steps), "--checkpointing",
        )  # fmt: skip
        print(name, results[name], flush=True)
        settings = {"model": options.model, "prompt": VISUAL + 64, "tokens": TOKENS, "dtype": "bfloat16"}
        write_result(RESULTS / f"gpu-{options.model}-step.json", "How long is a GRPO step on a GPU?", settings, results)
    command = [
        sys.executable, str(ROOT / "benchmarks" / "roofline.py"), "--model", options.model, "--dtype", "bfloat16",
        "--device", "cuda", "--cases", str(VISUAL), "--tokens", str(TOKENS), "--no-growth", "--checkpointing",
        "--result", str(RESULTS / f"gpu-{options.model}-roofline.json"),
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
