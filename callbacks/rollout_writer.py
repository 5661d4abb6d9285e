"""Keeps samples of what the policy wrote while it was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from cair_lightning.modules.grpo import GRPOModule
from cair_lightning.rollout import Rollout


class RolloutWriter(Callback):
    """Append the first group of every `every_n_steps`-th rollout to `rollouts.jsonl` in the logger's folder.

    Args:
        every_n_steps: Optimiser steps between two groups.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        self.every_n_steps = every_n_steps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse modules that have no rollouts."""
        if not isinstance(pl_module, GRPOModule):
            raise TypeError(f"RolloutWriter needs a GRPOModule, got {type(pl_module).__name__}; remove it from trainer.callbacks.")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Append a group."""
        assert isinstance(pl_module, GRPOModule)
        if batch.part or trainer.global_step % self.every_n_steps or not trainer.is_global_zero or trainer.log_dir is None:
            return
        assert pl_module.rollout is not None
        path = Path(trainer.log_dir) / "rollouts.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rollout_rows(pl_module.rollout, trainer.global_step))


def rollout_rows(rollout: Rollout, step: int) -> list[dict[str, Any]]:
    """The first group of a rollout as plain data."""
    return [
        {
            "step": step,
            "id": rollout.prompts.examples[0].id,
            "answer": rollout.prompts.examples[0].answer,
            "completion": rollout.verdict.texts[n],
            "lambda": float(rollout.lambda_B[0]),
            "advantage": float(rollout.advantages_N[n]),
            **{name: float(values_N[n]) for name, values_N in rollout.rewards.items()},
        }
        for n in range(rollout.group_size)
    ]
