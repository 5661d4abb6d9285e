"""Does the method work on the embedded world?   python benchmarks/embedded_world.py --seeds 11 12 13 --out runs/world

Each seed makes its own world, tiny model, warm-up, SFT, curation, CAIR and Naive RL through `cair demo`, and evaluates
all three checkpoints on the test split (held-out names and phrasings). Writes every figure with its spread over the
seeds, and the claims it is to decide, to benchmarks/results/embedded_world.json. The world was tuned on other seeds.
About ten minutes per seed on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).parents[1]
STRATEGIES = ("cair", "naive_rl")
MODELS = ("sft", *STRATEGIES)
PACKAGES = ("torch", "transformers", "lightning", "torchmetrics", "keybert")


def run_seed(out: Path, seed: int) -> None:
    """Run the demo for one seed in a process of its own; what was finished before is not run again."""
    command = [sys.executable, "-m", "cair_lightning", "demo", "--out", str(out), "--seed", str(seed)]
    subprocess.run([*command, "--strategies", json.dumps(STRATEGIES)], check=True)


def read_metrics(out: Path) -> dict[str, dict[str, float]]:
    """The metrics of each model of one seed."""
    files = {name: out / "evaluation" / name / "evaluation.json" for name in MODELS}
    return {name: json.loads(path.read_text("utf-8"))["metrics"] for name, path in files.items()}


def claims(metrics: dict[str, dict[str, float]]) -> dict[str, bool]:
    """What the method promises, for one seed or for the mean over seeds."""
    sft, cair, naive = (metrics[name] for name in ("sft", "cair", "naive_rl"))
    return {
        "accuracy on the implicit half: CAIR at least 5 points above SFT": cair["accuracy_high"]
        >= sft["accuracy_high"] + 0.05,
        "dH(high): CAIR above SFT": cair["information_gain_high"] > sft["information_gain_high"],
        "dH(high): CAIR above Naive RL": cair["information_gain_high"] > naive["information_gain_high"],
        "Faith-F1: CAIR above SFT": cair["faith_f1"] > sft["faith_f1"],
        "CAIR's dH with shuffled rationales under half of dH": cair["information_gain_shuffled"]
        < 0.5 * cair["information_gain"],
        "CAIR's format rate at least 98 %": cair["format_rate"] >= 0.98,
    }


def summarise(by_seed: dict[int, dict[str, dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean and standard deviation over the seeds of every metric of every model."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for model in MODELS:
        names = set.intersection(*(set(metrics[model]) for metrics in by_seed.values()))
        values = {name: [metrics[model][name] for metrics in by_seed.values()] for name in sorted(names)}
        result[model] = {n: {"mean": mean(v), "std": stdev(v) if len(v) > 1 else 0.0} for n, v in values.items()}
    return result


def environment() -> dict[str, Any]:
    """Where the figures come from."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    return {"commit": commit, **machine, "versions": {name: version(name) for name in PACKAGES}}


def main() -> None:
    """Run all seeds and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--out", type=Path, default=Path("runs/world"))
    parser.add_argument("--result", type=Path, default=ROOT / "benchmarks" / "results" / "embedded_world.json")
    options = parser.parse_args()
    for seed in options.seeds:
        run_seed(options.out / f"seed{seed}", seed)
    by_seed = {seed: read_metrics(options.out / f"seed{seed}") for seed in options.seeds}
    summary = summarise(by_seed)
    means = {model: {name: value["mean"] for name, value in metrics.items()} for model, metrics in summary.items()}
    result = {
        "question": "Does the method work on the embedded world?",
        "environment": environment(),
        "configs": {path.name: path.read_text("utf-8") for path in sorted((ROOT / "configs" / "demo").glob("*.yaml"))},
        "seeds": options.seeds,
        "claims": {"mean": claims(means), **{f"seed {seed}": claims(metrics) for seed, metrics in by_seed.items()}},
        "summary": summary,
        "by_seed": by_seed,
    }
    options.result.parent.mkdir(parents=True, exist_ok=True)
    options.result.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result["claims"], indent=1))


if __name__ == "__main__":
    main()
