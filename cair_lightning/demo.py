"""`cair demo`: the whole method on the embedded world, stage by stage, through the same commands that a lab runs."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cair_lightning.modules.settings import PolicySettings
from cair_lightning.policies.collation import VisionSettings

CONFIGS = Path(__file__).parent / "configs" / "demo"
CURATED = 600
"""How many of the 3,000 training samples stage 2 sees."""
TITLES = {"cair": "CAIR", "naive_rl": "Naive RL"}
"""Stage-2 configurations in configs/demo and their names in tables."""
VISION = VisionSettings(fps=2.0, max_frames=4, min_pixels=56 * 56, max_pixels=56 * 56)


def demo(out: Path = Path("runs/demo"), seed: int = 0, strategies: tuple[str, ...] = ("cair",)) -> str:
    """Build the world, train SFT, curate, train GRPO, evaluate both checkpoints, write the report.

    Interrupted and run again, it goes on: finished stages are skipped, and training resumes from its last checkpoint.

    Args:
        out: Folder for everything that the demo makes.
        seed: Seed of the world, the untrained weights and the order of samples; sampling in stage 2 keeps its own.
        strategies: Stage-2 configurations to train (`cair`, `naive_rl`).

    Returns:
        What to look at next.
    """
    from cair_lightning.report import build_report
    from cair_lightning.world.build import build_checkpoint, build_world

    _keep_quiet()
    out, console, started = Path(out), Console(), time.perf_counter()
    world, tiny, curated = out / "world", out / "tiny", out / "curated"
    stage = _Announcer(console)
    stage("the world: stories, clips, manifests", lambda: build_world(world, seed))
    stage("a tiny Qwen2.5-VL", lambda: build_checkpoint(tiny, seed))
    stage("warm-up: faces and facts", lambda: train("warmup", tiny, world, out / "warmup", seed))
    stage("stage 1: SFT", lambda: train("sft", out / "warmup" / "policy", world, out / "sft", seed))
    stage("curation: the most uncertain samples", lambda: _curate(out / "sft" / "policy", world, curated))
    stage("evaluate SFT", lambda: evaluate("SFT", out / "sft" / "policy", world, out / "evaluation" / "sft", seed))
    for name in strategies:
        title = TITLES[name]
        stage(f"stage 2: GRPO ({title})", partial(train, name, out / "sft" / "policy", curated, out / name, seed))
        target = out / "evaluation" / name
        stage(f"evaluate {title}", partial(evaluate, title, out / name / "policy", world, target, seed))
    folders = [out / "evaluation" / name for name in ("sft", *strategies)]
    runs = [*folders, out / "sft", *(out / name for name in strategies), curated]
    report = build_report(runs, out / "report.html")
    console.print(_table(folders))
    minutes = (time.perf_counter() - started) / 60
    return f"Done in {minutes:.1f} minutes. Open {report} in a browser."


def train(config: str, policy: Path, root: Path, folder: Path, seed: int, *extra: str) -> None:
    """Train one stage with `cair fit`, from its last checkpoint where there is one.

    Args:
        config: Name of a file in configs/demo.
        policy: The checkpoint to start from.
        root: The data set.
        folder: Folder of the run; `policy` in it is the result.
        seed: Seed of the order of samples; sampling in stage 2 has its own, `model.seed`.
        extra: Further options of `cair fit`.
    """
    from cair_lightning.training import run

    if (folder / "policy").exists():
        return
    last = folder / "checkpoints" / "last.ckpt"
    resume = ["--ckpt_path", str(last)] if last.exists() else []
    paths = ["--model.policy", str(policy), "--data.root", str(root), "--trainer.default_root_dir", str(folder)]
    run(
        [
            "fit",
            "--config",
            str(CONFIGS / f"{config}.yaml"),
            "--seed_everything",
            str(seed),
            "--data.seed",
            str(seed),
            *paths,
            *resume,
            *extra,
        ]
    )


def evaluate(name: str, policy: Path, root: Path, folder: Path, seed: int) -> None:
    """Evaluate a checkpoint on the test split with `cair test`.

    Args:
        name: Name in tables.
        policy: The checkpoint.
        root: The data set.
        folder: Folder of the results.
        seed: Seed.
    """
    from cair_lightning.training import run

    if (folder / "evaluation.json").exists():
        return
    paths = ["--model.policy", str(policy), "--data.root", str(root), "--trainer.default_root_dir", str(folder)]
    writer = ["--trainer.callbacks+=PredictionWriter", f"--trainer.callbacks.name={name}"]
    run(["test", "--config", str(CONFIGS / "test.yaml"), "--seed_everything", str(seed), *paths, *writer])


def _curate(policy: Path, world: Path, out: Path) -> None:
    from cair_lightning.curation import curate

    if not (out / "emoreason.json").exists():
        curate(str(policy), world, out, CURATED, vision=VISION, loading=PolicySettings(), batch_size=50, num_workers=0)


def _keep_quiet() -> None:
    """Leave the stages their progress bars; take away what libraries say about devices, loggers and loading."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")


class _Announcer:
    """Says which stage begins and how long it took."""

    def __init__(self, console: Console) -> None:
        self.console, self.count = console, 0

    def __call__(self, title: str, work: Callable[[], object]) -> None:
        self.count += 1
        self.console.rule(f"{self.count}. {title}")
        started = time.perf_counter()
        work()
        self.console.print(f"{title}: {time.perf_counter() - started:.0f} s")


def _table(folders: list[Path]) -> Table:
    """The results as a table in the terminal."""
    columns = {
        "accuracy, overt": ("accuracy_low", 100, "%"),
        "accuracy, implicit": ("accuracy_high", 100, "%"),
        "Faith-F1": ("faith_f1", 100, "%"),
        "dH low": ("information_gain_low", 1, " bits"),
        "dH high": ("information_gain_high", 1, " bits"),
        "dH shuffled": ("information_gain_shuffled", 1, " bits"),
        "log-ratio": ("log_ratio", 1, " nats"),
        "well-formed": ("format_rate", 100, "%"),
    }
    table = Table("model", *columns)
    for folder in folders:
        content = json.loads((folder / "evaluation.json").read_text("utf-8"))
        cells = [content["metrics"].get(name) for name, _, _ in columns.values()]
        scaled = [
            ("-" if v is None else f"{v * scale:.{1 if scale > 1 else 2}f}{unit}")
            for v, (_, scale, unit) in zip(cells, columns.values(), strict=True)
        ]
        table.add_row(content["name"], *scaled)
    return table
