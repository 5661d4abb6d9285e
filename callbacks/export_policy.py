"""Exports the trained policy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from cair_lightning.modules.base import PolicyModule


class ExportPolicy(Callback):
    """Write the trained policy as a Hugging Face folder, processor included, when training ends.

    The folder is what stage 2, `cair curate`, `cair test`, transformers and vLLM take as a checkpoint. It is written
    under a temporary name and moved when complete; an older one at the same place is replaced.

    Args:
        folder: Where to; a relative path lies below the logger's folder.
    """

    def __init__(self, folder: Path = Path("policy")) -> None:
        self.folder = Path(folder)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other modules, and strategies that leave no rank with the whole model."""
        if not isinstance(pl_module, PolicyModule):
            raise TypeError(
                f"ExportPolicy needs a PolicyModule, got {type(pl_module).__name__}; remove it from trainer.callbacks."
            )
        if stage == "fit" and getattr(trainer.strategy, "zero_stage_3", False):
            raise ValueError(
                "ExportPolicy cannot write weights that ZeRO-3 shards over the ranks. Remove it from "
                "trainer.callbacks, and turn the checkpoint folder into one file with "
                "lightning.pytorch.utilities.deepspeed.convert_zero_checkpoint_to_fp32_state_dict."
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder."""
        assert isinstance(pl_module, PolicyModule)
        assert pl_module.policy is not None
        target = Path(trainer.log_dir or ".") / self.folder  # asked of every rank: Lightning broadcasts it
        if not trainer.is_global_zero:
            return
        draft, old = target.with_name(f".{target.name}.draft"), target.with_name(f".{target.name}.old")
        for leftover in (draft, old):
            shutil.rmtree(leftover, ignore_errors=True)
        pl_module.policy.model.save_pretrained(draft)
        pl_module.policy.processor.save_pretrained(draft)
        if target.exists():
            os.replace(target, old)
        os.replace(draft, target)
        shutil.rmtree(old, ignore_errors=True)
