"""Run by test_two_ranks.py: short runs of both stages and a test, whose outcomes go into one file per rank."""

import os
import sys
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from cair_lightning.callbacks.adaptive_kl import AdaptiveKL
from cair_lightning.callbacks.export_policy import ExportPolicy
from cair_lightning.callbacks.prediction_writer import PredictionWriter
from cair_lightning.callbacks.rollout_writer import RolloutWriter
from cair_lightning.datamodules.emoreason import (
    EmoReasonEvaluationDataModule,
    EmoReasonRLDataModule,
    EmoReasonSFTDataModule,
)
from cair_lightning.modules.base import PolicyModule
from cair_lightning.modules.grpo import GRPOModule
from cair_lightning.modules.settings import EvaluationSettings, OptimizerSettings
from cair_lightning.modules.sft import SFTModule
from cair_lightning.policies.collation import VisionSettings
from cair_lightning.policies.sampling import SamplingSettings

VISION = VisionSettings(fps=2.0, max_frames=4, min_pixels=56 * 56, max_pixels=56 * 56)
COMMON = {
    "vision": VISION, "max_tokens": 512, "optimizer": OptimizerSettings(learning_rate=1e-4),
    "evaluation": EvaluationSettings(keyword_model=None, max_new_tokens=24),
}  # fmt: skip


class Outcome(Callback):
    """What each step was, as this rank saw it."""

    def __init__(self, path: Path) -> None:
        self.path, self.steps = path, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        step = {"loss": float(outputs["loss"])}
        if isinstance(pl_module, GRPOModule):
            rollout = pl_module.rollout
            step |= {"ids": [e.id for e in rollout.prompts.examples], "lambda": rollout.lambda_B.tolist()}
            step |= {"weight": float(rollout.token_weights_NT.sum()), "kl": pl_module.last_kl, "eta": pl_module.eta}
        self.steps.append(step)

    def on_train_end(self, trainer, pl_module) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        weights = {name: p.detach() for name, p in pl_module.policy.named_parameters()}
        torch.save({"steps": self.steps, "weights": weights}, f"{self.path}.{trainer.global_rank}")


def trainer_of(out: Path, ranks: int, **changes: object) -> Trainer:
    return Trainer(
        accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", max_epochs=-1,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        logger=CSVLogger(out, name="", version=""), **changes,
    )  # fmt: skip


def train_sft(policy: Path, root: Path, out: Path, ranks: int) -> None:
    data = EmoReasonSFTDataModule(root, batch_size=4 // ranks, num_workers=0, val_split="val")
    trainer = trainer_of(out, ranks, max_steps=4, callbacks=[Outcome(out / "outcome")])
    trainer.fit(SFTModule(str(policy), **COMMON), data)


def train_grpo(policy: Path, root: Path, out: Path, ranks: int, resume: Path | None = None) -> None:
    keep = ModelCheckpoint(out / "checkpoints", "{step}", every_n_train_steps=1, save_top_k=-1)
    callbacks = [Outcome(out / "outcome"), ExportPolicy(), AdaptiveKL(), RolloutWriter(1), keep]
    sampling = SamplingSettings(group_size=2, max_new_tokens=24)
    module = GRPOModule(str(policy), sampling=sampling, updates_per_rollout=2, **COMMON)
    data = EmoReasonRLDataModule(root, batch_size=4 // ranks, num_workers=0)
    trainer_of(out, ranks, max_steps=4, callbacks=callbacks).fit(module, data, ckpt_path=resume)


def test(policy: Path, root: Path, out: Path, ranks: int) -> None:
    data = EmoReasonEvaluationDataModule(root, batch_size=3, num_workers=0)
    trainer = trainer_of(out, ranks, callbacks=[PredictionWriter("two")])
    trainer.test(PolicyModule(str(policy), **COMMON), data)


def everything(tiny: Path, taught: Path, world: Path, curated: Path, out: Path, ranks: int) -> None:
    train_sft(tiny, world, out / "sft", ranks)
    train_grpo(taught, curated, out / "grpo", ranks)
    train_grpo(taught, curated, out / "resumed", ranks, out / "grpo" / "checkpoints" / "step=3.ckpt")
    test(taught, world, out / "test", ranks)


if __name__ == "__main__":
    torch.set_num_threads(1)
    everything(*map(Path, sys.argv[1:]), ranks=2)
