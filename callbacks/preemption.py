"""Saves a run that is about to be taken off its machine."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

EXIT_CODE = 128 + signal.SIGTERM


class SaveOnPreemption(Checkpoint):
    """On SIGTERM, write a checkpoint when the optimiser step is done, and end the run with exit code 143.

    Schedulers send SIGTERM before they take a machine away. One rank that receives it is enough: the ranks tell each
    other after every batch. The checkpoint, `preempted-step=N.ckpt`, lies where the run's other ones lie, and
    `--ckpt_path` goes on from it as if nothing had happened. No callback of the end of training runs: nothing that is
    unfinished is exported.
    """

    def __init__(self) -> None:
        self.received = False
        self._previous: Any = None
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen, in place of Lightning, whose handler talks to other ranks in the middle of whatever they are at."""

        def note(number: int, frame: FrameType | None) -> None:
            if not self.received:
                self.received = True
                if trainer.strategy.launcher is not None:
                    trainer.strategy.launcher.kill(number)  # the ranks that this process has started

        self._previous = signal.signal(signal.SIGTERM, note)
        self._step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's hook
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Save and end, after a whole optimiser step.

        Raises:
            SystemExit: When the checkpoint is written.
        """
        if trainer.global_step == self._step:  # gradients of parts are in no checkpoint
            return
        self._step = trainer.global_step
        if not trainer.strategy.reduce_boolean_decision(self.received, all=False):
            return
        path = _folder(trainer) / f"preempted-step={trainer.global_step}.ckpt"
        trainer.save_checkpoint(path)
        rank_zero_info(f"SIGTERM: the run is saved. Go on with --ckpt_path {path}")
        trainer.strategy.barrier()
        raise SystemExit(EXIT_CODE)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signal back."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None


def _folder(trainer: Trainer) -> Path:
    """Where the run's checkpoints lie."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
            return Path(callback.dirpath)
    return Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"
