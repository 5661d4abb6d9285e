"""Keeps samples of what the policy wrote while it was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from cair_lightning.modules.grpo import GRPOModule
from cair_lightning.rollout import Rollout


class RolloutWriter(Callback):
    """Append groups of completions to `rollouts.jsonl` in the logger's folder: those of a rollout's first prompt.

    Written is the first rollout, and then the first one of every `every_n_steps` optimiser steps.

    Args:
        every_n_steps: Optimiser steps between two groups, at least 1.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        if every_n_steps < 1:
            raise ValueError(f"expected every_n_steps >= 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self._path = Path()
        self._step = self._due = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse modules that have no rollouts."""
        if not isinstance(pl_module, GRPOModule):
            raise TypeError(
                f"RolloutWriter needs a GRPOModule, got {type(pl_module).__name__}; remove it from trainer.callbacks."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the file, and where a resumed run stands."""
        self._path = Path(trainer.log_dir or ".") / "rollouts.jsonl"  # asked of every rank: Lightning broadcasts it
        self._due = -(-trainer.global_step // self.every_n_steps) * self.every_n_steps

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401 - Lightning's hook
        batch_idx: int,
    ) -> None:
        """Note the step: after a part it may have grown, or not."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's hook
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Append a group, after the first part of a rollout."""
        assert isinstance(pl_module, GRPOModule)
        if batch.part or self._step < self._due or not trainer.is_global_zero:
            return
        assert pl_module.rollout is not None
        self._due = (self._step // self.every_n_steps + 1) * self.every_n_steps
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            rows = rollout_rows(pl_module.rollout, self._step)
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def rollout_rows(rollout: Rollout, step: int) -> list[dict[str, Any]]:
    """The group of a rollout's first prompt as plain data; `mediation` and advantages as they were trained on."""
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
