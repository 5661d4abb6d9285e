"""Run by test_zero.py and test_lost_rank.py: both stages under DeepSpeed in two processes, each with its outcome."""

import importlib
import os
import sys
from pathlib import Path

os.environ |= {"DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, Strategy

from cair_lightning.callbacks.adaptive_kl import AdaptiveKL
from cair_lightning.callbacks.export_policy import ExportPolicy
from cair_lightning.callbacks.prediction_writer import PredictionWriter
from cair_lightning.callbacks.preemption import SaveOnPreemption
from cair_lightning.datamodules.emoreason import (
    EmoReasonEvaluationDataModule,
    EmoReasonRLDataModule,
    EmoReasonSFTDataModule,
)
from cair_lightning.modules.base import PolicyModule
from cair_lightning.modules.grpo import GRPOModule
from cair_lightning.modules.settings import PolicySettings
from cair_lightning.modules.sft import SFTModule
from cair_lightning.policies.sampling import SamplingSettings
from cair_lightning.sharding import full_weights
from tests.modules.two_ranks import COMMON

# DeepSpeed would compile an operator for shared memory first, for a minute.
importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None

SHARD_ALL = {
    "stage3_param_persistence_threshold": 0, "stage3_max_reuse_distance": 0, "stage3_max_live_parameters": 0,
    "stage3_prefetch_bucket_size": 0,
}  # fmt: skip
"""DeepSpeed's own thresholds would leave a tiny model whole."""
PREFETCH = SHARD_ALL | {"stage3_prefetch_bucket_size": 100_000, "stage3_max_live_parameters": 1_000_000}
ZERO = {"zero2": (2, {}), "zero3": (3, SHARD_ALL), "prefetch": (3, PREFETCH)}
TEMPERATURE = 1.0
"""At which most of what `taught` writes is well-formed, and some groups have no such completion."""


class CPUDeepSpeed(DeepSpeedStrategy):
    """Lightning's strategy without its refusal of anything but CUDA."""

    def setup_environment(self) -> None:
        self.parallel_devices = [torch.device("cpu", index) for index in range(len(self.parallel_devices))]
        DDPStrategy.setup_environment(self)


def strategy_of(name: str) -> Strategy:
    if name == "fsdp":
        return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    stage, thresholds = ZERO[name]
    zero = {"stage": stage, "overlap_comm": False} | thresholds
    return CPUDeepSpeed(config={"zero_allow_untested_optimizer": True, "zero_optimization": zero})


class Outcome(Callback):
    """What each step was, as this rank saw it, and the whole weights that the run came to."""

    def __init__(self, path: Path) -> None:
        self.path, self.steps = path, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        step = {"step": trainer.global_step, "loss": float(trainer.callback_metrics.get("train/loss", torch.nan))}
        if isinstance(pl_module, GRPOModule):
            rollout = pl_module.rollout
            step |= {"ids": [e.id for e in rollout.prompts.examples], "lambda": rollout.lambda_B.tolist()}
            step |= {"texts": rollout.verdict.texts, "valid": rollout.prompts.valid_B.tolist()}
            step |= {"formed": [a is not None for a in rollout.verdict.answers], "kl": pl_module.last_kl}
            step |= {"eta": pl_module.eta, "rewards": rollout.rewards["total"].tolist()}
        self.steps.append(step)

    def on_train_end(self, trainer, pl_module) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        weights = full_weights(pl_module.policy.model, keep=True)
        torch.save({"steps": self.steps, "weights": weights}, f"{self.path}.{trainer.global_rank}")


def trainer_of(out: Path, ranks: int, strategy: str, callbacks: list[Callback], **changes: object) -> Trainer:
    return Trainer(
        accelerator="cpu", devices=ranks, strategy=strategy_of(strategy) if ranks > 1 else "auto", max_epochs=-1,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1, use_distributed_sampler=False,
        logger=CSVLogger(out, name="", version=""), callbacks=[Outcome(out / "outcome"), *callbacks],
        gradient_clip_val=1.0, **changes,
    )  # fmt: skip


def sft(
    policy: Path, root: Path, out: Path, ranks: int, strategy: str, parts: int = 1, precision: str = "32-true",
    **loading: object,
) -> None:  # fmt: skip
    val_split = None if strategy == "fsdp" else "val"
    data = EmoReasonSFTDataModule(root, batch_size=4 // ranks, num_workers=0, val_split=val_split)
    keep = ModelCheckpoint(out / "checkpoints", "last", every_n_train_steps=1)
    settings = {"max_steps": 4, "accumulate_grad_batches": parts, "precision": precision}
    trainer = trainer_of(out, ranks, strategy, [keep, ExportPolicy()], **settings)
    trainer.fit(SFTModule(str(policy), loading=PolicySettings(**loading), **COMMON), data)


def grpo(
    policy: Path, root: Path, out: Path, ranks: int, strategy: str, resume: Path | None = None, steps: int = 4,
    updates: int = 1, parts: int = 1, **loading: object,
) -> None:  # fmt: skip
    keep = ModelCheckpoint(out / "checkpoints", "{step}", every_n_train_steps=1, save_top_k=-1)
    sampling = SamplingSettings(group_size=2, max_new_tokens=24, temperature=TEMPERATURE)
    settings = PolicySettings(trust_checkpoint=resume is not None, **loading)
    module = GRPOModule(str(policy), sampling=sampling, updates_per_rollout=updates, loading=settings, **COMMON)
    data = EmoReasonRLDataModule(root, batch_size=4 // ranks, num_workers=0, max_skipped=0.5)
    callbacks = [AdaptiveKL(), keep, SaveOnPreemption()]
    trainer = trainer_of(out, ranks, strategy, callbacks, max_steps=steps, accumulate_grad_batches=parts)
    trainer.fit(module, data, ckpt_path=resume)


def evaluate(policy: Path, root: Path, out: Path, ranks: int, strategy: str) -> None:
    data = EmoReasonEvaluationDataModule(root, batch_size=3, num_workers=0)
    trainer_of(out, ranks, strategy, [PredictionWriter("ranks")]).test(PolicyModule(str(policy), **COMMON), data)


def everything(tiny: Path, taught: Path, world: Path, curated: Path, out: Path, ranks: int) -> None:
    for strategy in ZERO if ranks > 1 else ["one"]:
        sft(tiny, world, out / f"sft-{strategy}", ranks, strategy)
        grpo(taught, curated, out / f"grpo-{strategy}", ranks, strategy)
    strategy = "prefetch" if ranks > 1 else "one"
    sft(tiny, world, out / "sft-parts", ranks, strategy, parts=2, gradient_checkpointing=True)
    grpo(taught, curated, out / "grpo-parts", ranks, strategy, parts=2, updates=2, gradient_checkpointing=True)
    evaluate(taught, world, out / "test", ranks, strategy)
    if ranks > 1:
        sft(tiny, world, out / "sft-bfloat16", ranks, strategy, precision="bf16-true", dtype="bfloat16")
        sft(tiny, world, out / "sft-fsdp", ranks, "fsdp")
        grpo(taught, curated, out / "grpo-sharded", ranks, strategy, gather_to_sample=False)
        for step in (1, 3):  # between two updates of a rollout
            checkpoint = out / "grpo-parts" / "checkpoints" / f"step={step}.ckpt"
            name = out / f"grpo-resumed-{step}"
            grpo(taught, curated, name, ranks, strategy, checkpoint, parts=2, updates=2, gradient_checkpointing=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "endless":
        grpo(*map(Path, sys.argv[2:5]), 2, "prefetch", *map(Path, sys.argv[5:]), steps=1000)
    else:
        everything(*map(Path, sys.argv[1:]), ranks=2)
