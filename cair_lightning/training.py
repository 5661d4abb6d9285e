"""LightningCLI over the modules and data modules of this project."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

# Imported so that a YAML file may say `class_path: SFTModule`.
from cair_lightning.callbacks.adaptive_kl import AdaptiveKL
from cair_lightning.callbacks.export_policy import ExportPolicy
from cair_lightning.callbacks.prediction_writer import PredictionWriter
from cair_lightning.callbacks.preemption import SaveOnPreemption
from cair_lightning.callbacks.rollout_writer import RolloutWriter
from cair_lightning.datamodules.benchmarks import (
    CAMERDataModule,
    EmoBenchMDataModule,
    IEMOCAPDataModule,
    MELDDataModule,
    MTMEURDataModule,
    SocialIQDataModule,
)
from cair_lightning.datamodules.emoreason import (
    EmoReasonEvaluationDataModule,
    EmoReasonRLDataModule,
    EmoReasonSFTDataModule,
)
from cair_lightning.engines import InProcessRollouts
from cair_lightning.engines.vllm import VLLMRollouts
from cair_lightning.modules.base import PolicyModule
from cair_lightning.modules.grpo import GRPOModule
from cair_lightning.modules.sft import SFTModule
from cair_lightning.weighting import CognitiveLoadWeighting, CurriculumWeighting, UniformWeighting

__all__ = [
    "AdaptiveKL",
    "CAMERDataModule",
    "CognitiveLoadWeighting",
    "CurriculumWeighting",
    "EmoBenchMDataModule",
    "EmoReasonEvaluationDataModule",
    "EmoReasonRLDataModule",
    "EmoReasonSFTDataModule",
    "ExportPolicy",
    "GRPOModule",
    "IEMOCAPDataModule",
    "InProcessRollouts",
    "MELDDataModule",
    "MTMEURDataModule",
    "PolicyModule",
    "PredictionWriter",
    "RolloutWriter",
    "SFTModule",
    "SaveOnPreemption",
    "SocialIQDataModule",
    "UniformWeighting",
    "VLLMRollouts",
    "run",
]


class WholeNames(LightningArgumentParser):
    """A parser to which an option that merely begins another one's name is a misspelt option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - LightningArgumentParser's signature
        super().__init__(*args, **({"allow_abbrev": False} | kwargs))


class CairCLI(LightningCLI):
    """LightningCLI whose default loggers write CSV and TensorBoard into `trainer.default_root_dir` itself."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - LightningCLI's signature
        """Put the default loggers in where none are configured."""
        config = self.config_init[self.subcommand] if self.subcommand else self.config_init
        if "deepspeed" in str(config.trainer.strategy).lower() and find_spec("deepspeed") is None:
            raise ModuleNotFoundError(
                f'trainer.strategy {config.trainer.strategy} needs DeepSpeed: pip install "cair-lightning[deepspeed]".'
            )
        if config.trainer.logger is None or config.trainer.logger is True:
            folder = Path(config.trainer.default_root_dir or "runs")
            fresh = self.subcommand == "fit" and config.ckpt_path is None
            logger = CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1)
            if not fresh:
                keep_rows(logger)
            config.trainer.logger = [logger, TensorBoardLogger(folder, name="", version="")]
        return super().instantiate_trainer(**kwargs)


@rank_zero_only
def keep_rows(logger: CSVLogger) -> None:
    """Make a logger add to the metrics.csv that it finds; it would delete the first half of a resumed run's curves."""
    path = Path(logger.log_dir) / "metrics.csv"
    if path.exists():
        text = path.read_text("utf-8")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Experiment logs directory .* exists and is not empty")
            writer = logger.experiment  # made now: this is what deletes the file
        path.write_text(text, "utf-8")
        writer.metrics_keys = text.partition("\n")[0].strip().split(",")


def run(args: Sequence[str] | None = None) -> CairCLI:
    """Run `fit`, `validate`, `test` or `predict`.

    Args:
        args: Command line, the subcommand first; None reads it.
    """
    torch.set_float32_matmul_precision("high")
    warnings.filterwarnings("ignore", "LightningCLI's args parameter is intended to run from within Python")
    return CairCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        parser_class=WholeNames,
        args=None if args is None else list(args),
    )
