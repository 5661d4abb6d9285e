"""A run that is sent SIGTERM saves itself and ends, and goes on as if nothing had happened."""

import os
import signal

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from cair_lightning.callbacks.adaptive_kl import AdaptiveKL
from cair_lightning.callbacks.export_policy import ExportPolicy
from cair_lightning.callbacks.preemption import EXIT_CODE, SaveOnPreemption
from cair_lightning.datamodules.emoreason import EmoReasonRLDataModule


class Preempt(Callback):
    """Sends the signal at the beginning of a batch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)


def data_of(world) -> EmoReasonRLDataModule:
    return EmoReasonRLDataModule(world, batch_size=2, num_workers=0, kept_clips=30)


@pytest.mark.parametrize(("batch", "step"), [(0, 1), (2, 2), (3, 2)])
def test_sigterm_saves_after_the_step_and_ends(world, trainer, grpo, memory, tmp_path, batch, step) -> None:
    """Two parts a step and two updates a rollout: batch 2 is in the middle of a rollout, at the beginning of a step."""
    settings = {"max_steps": 4, "accumulate_grad_batches": 2, "enable_checkpointing": True}

    def callbacks(*more: Callback) -> list[Callback]:
        return [
            SaveOnPreemption(),
            AdaptiveKL(),
            ModelCheckpoint(tmp_path, save_top_k=0),
            ExportPolicy(tmp_path),
            *more,
        ]

    whole = grpo(updates_per_rollout=2)
    uninterrupted = trainer(logger=memory(), callbacks=callbacks(), **settings)
    uninterrupted.fit(whole, data_of(world))
    handler = signal.getsignal(signal.SIGTERM)
    exported = (tmp_path / "config.json").stat().st_mtime_ns
    with pytest.raises(SystemExit) as stopped:
        trainer(callbacks=callbacks(Preempt(batch)), **settings).fit(grpo(updates_per_rollout=2), data_of(world))
    assert stopped.value.code == EXIT_CODE == 143
    assert signal.getsignal(signal.SIGTERM) == handler
    assert (tmp_path / "config.json").stat().st_mtime_ns == exported
    checkpoint = tmp_path / f"preempted-step={step}.ckpt"
    resumed = grpo(updates_per_rollout=2)
    run = trainer(logger=memory(), callbacks=callbacks(), **settings)
    run.fit(resumed, data_of(world), ckpt_path=checkpoint)
    for name in ("train/loss", "train/kl", "train/eta"):
        expected = {k: v for k, v in uninterrupted.logger.column(name).items() if k >= step}
        assert run.logger.column(name) == expected
    for name, weight in whole.policy.state_dict().items():
        assert torch.equal(resumed.policy.state_dict()[name], weight), name
