"""Exports the trained policy."""

from __future__ import annotations

from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from cair_lightning.modules.base import PolicyModule
from cair_lightning.modules.exporting import write_policy
from cair_lightning.sharding import full_weights


class ExportPolicy(Callback):
    """Write the trained policy as a Hugging Face folder, processor included, when training ends.

    The folder is what stage 2, `cair curate`, `cair test`, transformers and vLLM take as a checkpoint. It is written
    under a temporary name and moved when complete; an older one at the same place is replaced. Weights that ZeRO-3
    shards are put together in the first rank's main memory.

    Args:
        folder: Where to; a relative path lies below the logger's folder.
    """

    def __init__(self, folder: Path = Path("policy")) -> None:
        self.folder = Path(folder)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other modules."""
        if not isinstance(pl_module, PolicyModule):
            raise TypeError(
                f"ExportPolicy needs a PolicyModule, got {type(pl_module).__name__}; remove it from trainer.callbacks."
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder."""
        assert isinstance(pl_module, PolicyModule)
        assert pl_module.policy is not None
        target = Path(trainer.log_dir or ".") / self.folder  # asked of every rank: Lightning broadcasts it
        weights = None
        if pl_module.policy.lockstep or pl_module.loading.lora is not None:
            weights = full_weights(pl_module.policy.model, keep=trainer.is_global_zero)
        if trainer.is_global_zero:
            write_policy(pl_module.policy, target, weights)
