"""What many tests share: one thread, no hub, a small generated world, two tiny checkpoints, and quiet trainers."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["DS_ACCELERATOR"] = "cpu"  # else DeepSpeed looks for one, and says so on standard output

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # imported where they are used: many tests need neither
    from lightning import Trainer

    from cair_lightning.modules.grpo import GRPOModule
    from cair_lightning.modules.sft import SFTModule
    from cair_lightning.policies.collation import VisionSettings
    from tests.memory import Memory

SIZES = {"warmup": 16, "train": 24, "val": 8, "test": 10}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Thread pools that fight over two cores make the tests three times slower."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def vision() -> VisionSettings:
    """Clips of four tokens, the least that the video processor makes of two pairs of frames."""
    from cair_lightning.policies.collation import VisionSettings

    return VisionSettings(fps=2.0, max_frames=4, min_pixels=56 * 56, max_pixels=56 * 56)


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A data set of 58 samples with real clips."""
    from cair_lightning.world.build import build_world

    return build_world(tmp_path_factory.mktemp("data") / "world", sizes=SIZES, keyword_model=None, workers=1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """An untrained checkpoint: what it samples is never well-formed."""
    from cair_lightning.world.build import build_checkpoint

    return build_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def taught(tmp_path_factory, tiny, world, vision) -> Path:
    """`tiny` after 60 steps of SFT on the 24 training samples: most of what it samples is well-formed, not all."""
    from lightning import seed_everything

    from cair_lightning.datamodules.emoreason import EmoReasonSFTDataModule

    seed_everything(0)
    module = sft_module(tiny, vision, learning_rate=3e-3)
    data = EmoReasonSFTDataModule(world, batch_size=8, num_workers=0, kept_clips=100, val_split=None)
    quiet_trainer(max_steps=60).fit(module, data)
    folder = tmp_path_factory.mktemp("models") / "taught"
    module.policy.model.save_pretrained(folder)
    module.policy.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def prepared(world, tmp_path_factory) -> Callable[[str], Path]:
    """Prepares one of `tests.trees.TREES` with the real command."""
    from cair_lightning.cli import main
    from tests.trees import TREES

    folder = tmp_path_factory.mktemp("prepared")
    clip = min((world / "clips").iterdir())

    @cache
    def prepare(name: str) -> Path:
        root = TREES[name](folder / "downloads" / name, clip)
        main(["prepare", name, "--root", str(root), "--out", str(folder / name), "--workers", "1"])
        return folder / name

    return prepare


@pytest.fixture(scope="session")
def curated(world, tmp_path_factory) -> Path:
    """Eight prompts for stage 2."""
    from cair_lightning.datamodules.manifest import read_dataset, write_dataset

    manifest = read_dataset(world, "train")
    examples = [replace(example, entropy_bits=2.0) for example in manifest.examples[:8]]
    folder = tmp_path_factory.mktemp("data") / "curated"
    write_dataset(folder, "curated", manifest.clips.resolve(), {"train": examples})
    return folder


@pytest.fixture(scope="session")
def memory() -> type[Memory]:
    """A logger that remembers what was logged."""
    from tests.memory import Memory

    return Memory


@pytest.fixture(scope="session")
def trainer() -> Callable[..., Trainer]:
    """Makes trainers that are silent, write nothing and remember what was logged in `logger.rows`."""
    return quiet_trainer


@pytest.fixture(scope="session")
def sft(tiny, vision) -> Callable[..., SFTModule]:
    """Makes SFT modules of `tiny`."""
    return lambda policy=tiny, **changes: sft_module(policy, vision, **changes)


@pytest.fixture(scope="session")
def grpo(taught, vision) -> Callable[..., GRPOModule]:
    """Makes GRPO modules of `taught`."""
    return lambda policy=taught, **changes: grpo_module(policy, vision, **changes)


def quiet_trainer(**changes: Any) -> Trainer:  # noqa: ANN401
    from lightning import Trainer

    settings = {
        "accelerator": "cpu", "devices": 1, "max_epochs": -1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1,
    }  # fmt: skip
    return Trainer(**(settings | changes))


def sft_module(policy: Path, vision: VisionSettings, learning_rate: float = 1e-3, **changes: Any) -> SFTModule:  # noqa: ANN401
    from cair_lightning.modules.settings import EvaluationSettings, OptimizerSettings
    from cair_lightning.modules.sft import SFTModule

    settings = {
        "vision": vision, "max_tokens": 512, "optimizer": OptimizerSettings(learning_rate=learning_rate),
        "evaluation": EvaluationSettings(keyword_model=None, max_new_tokens=24),
    }  # fmt: skip
    return SFTModule(str(policy), **(settings | changes))


def grpo_module(policy: Path, vision: VisionSettings, learning_rate: float = 1e-3, **changes: Any) -> GRPOModule:  # noqa: ANN401
    from cair_lightning.modules.grpo import GRPOModule
    from cair_lightning.modules.settings import EvaluationSettings, OptimizerSettings
    from cair_lightning.policies.sampling import SamplingSettings

    settings = {
        "vision": vision, "max_tokens": 512, "optimizer": OptimizerSettings(learning_rate=learning_rate),
        "sampling": SamplingSettings(group_size=4, max_new_tokens=24),
        "evaluation": EvaluationSettings(keyword_model=None, max_new_tokens=24),
    }  # fmt: skip
    return GRPOModule(str(policy), **(settings | changes))
