"""One vLLM server for all tests, of an environment that CAIR_VLLM_PYTHON names: `make test-vllm` makes it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoProcessor

from cair_lightning.datamodules.emoreason import EmoReasonSFTDataModule
from cair_lightning.engines.process import OwnSettings
from cair_lightning.engines.vllm import VLLMRollouts
from cair_lightning.export import export
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.policies.sampling import SamplingSettings
from cair_lightning.world.tiny import build_model, save


class KeptRollouts(VLLMRollouts):
    """Keeps its server from run to run."""

    def start(self, trainer, policy, sampling) -> None:
        if self.fleet is None:
            super().start(trainer, policy, sampling)
        self._trainer, self._temperature = trainer, sampling.temperature

    def stop(self) -> None:
        pass

    def end(self) -> None:
        super().stop()


@pytest.fixture(scope="session")
def vllm_python() -> str:
    python = os.environ.get("CAIR_VLLM_PYTHON")
    if not python:
        pytest.skip("CAIR_VLLM_PYTHON names no interpreter with vLLM; run make test-vllm")
    return python


@pytest.fixture(scope="session")
def servable(tiny, sft, trainer, world, tmp_path_factory) -> Path:
    """As `taught`, with heads of 32 channels, for vLLM on CPU has no narrower ones; exported from its checkpoint."""
    folders = [tmp_path_factory.mktemp("models") / name for name in ("untaught", "servable")]
    processor = AutoProcessor.from_pretrained(tiny)
    save(folders[0], processor, build_model(processor, heads=3))
    seed_everything(0)
    module = sft(folders[0], learning_rate=3e-3)
    data = EmoReasonSFTDataModule(world, batch_size=8, num_workers=0, kept_clips=100, val_split=None)
    keep = ModelCheckpoint(folders[1].parent, "last", every_n_train_steps=60)
    trainer(max_steps=60, enable_checkpointing=True, callbacks=[keep]).fit(module, data)
    return export(folders[1].parent / "last.ckpt", folders[1])


@pytest.fixture(scope="session")
def engine(vllm_python, servable, trainer, tmp_path_factory) -> Iterator[KeptRollouts]:
    folder = tmp_path_factory.mktemp("vllm")
    own = OwnSettings(
        python=vllm_python,
        arguments=["--max-model-len=512", "--max-num-seqs=16", "--enforce-eager"],
        environment={"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "2"},
    )
    rollouts = KeptRollouts(own=own, dtype="float32", weights_folder=str(folder))
    try:
        rollouts.start(trainer(default_root_dir=folder), QwenVLPolicy.load(servable), SamplingSettings())
        yield rollouts
    finally:
        rollouts.end()
