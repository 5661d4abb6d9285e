"""Run by test_vllm.py: GRPO on two ranks that share a vLLM server, under DDP and under ZeRO-3 with prefetch."""

import sys
from pathlib import Path

from tests.modules.zero_ranks import COMMON, strategy_of  # first: it sets the environment

# isort: split
import torch
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger

from cair_lightning.datamodules.emoreason import EmoReasonRLDataModule
from cair_lightning.engines.vllm import VLLMRollouts
from cair_lightning.modules.grpo import GRPOModule
from cair_lightning.policies.sampling import SamplingSettings


def grpo(policy: str, root: Path, out: Path, url: str, strategy: str, ahead: bool) -> None:
    rollouts = VLLMRollouts(servers=[url], dtype="float32")
    sampling = SamplingSettings(group_size=2, max_new_tokens=24)
    module = GRPOModule(policy, sampling=sampling, rollout_engine=rollouts, sample_ahead=ahead, **COMMON)
    data = EmoReasonRLDataModule(root, batch_size=2, num_workers=0)
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp" if strategy == "ddp" else strategy_of(strategy), max_steps=3,
        max_epochs=-1, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        log_every_n_steps=1, use_distributed_sampler=False, logger=CSVLogger(out, name="", version=""),
    )  # fmt: skip
    trainer.fit(module, data)


if __name__ == "__main__":
    torch.set_num_threads(1)
    policy, root, out, url = sys.argv[1:]
    for strategy in ("ddp", "prefetch"):
        for ahead in (False, True):
            grpo(policy, Path(root), Path(out) / f"{strategy}-{ahead}", url, strategy, ahead)
