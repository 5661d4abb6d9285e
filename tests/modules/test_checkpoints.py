"""Folders of shards: who may read them, who may go on from them. What they hold is in test_zero.py."""

import errno
import resource
from pathlib import Path

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from cair_lightning.datamodules.emoreason import EmoReasonSFTDataModule
from cair_lightning.modules.checkpoints import read_checkpoint, refuse_to_resume


class FullDisk(Callback):
    """Lets files grow to 100 kB and no further, after the first step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def shards(tmp_path) -> Path:
    """A folder as DeepSpeed leaves it, as far as names go: nothing may be read of it before it is trusted."""
    folder = tmp_path / "step=3.ckpt" / "checkpoint"
    folder.mkdir(parents=True)
    for rank in range(2):
        (folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    return folder.parent


def test_a_folder_of_shards_is_not_read_before_it_is_trusted(shards) -> None:
    for refused in (lambda: read_checkpoint(shards), lambda: refuse_to_resume(shards, False, 2, True)):
        with pytest.raises(ValueError, match=r"step=3.ckpt is a folder of shards, and reading them runs any code"):
            refused()
    refuse_to_resume(shards, True, 2, True)


@pytest.mark.parametrize(("ranks", "by_deepspeed", "said"), [(4, True, "has 4:"), (2, False, "has 2 without it:")])
def test_shards_of_other_ranks_are_refused_with_what_is_kept(shards, ranks, by_deepspeed, said) -> None:
    message = rf"shards of 2 ranks under DeepSpeed, and this run {said} .*keep the weights. Not kept are the optimiser"
    with pytest.raises(ValueError, match=message):
        refuse_to_resume(shards, True, ranks, by_deepspeed)


def test_a_distributed_checkpoint_is_trusted_first_too(tmp_path) -> None:
    (tmp_path / ".metadata").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    for refused in (lambda: read_checkpoint(tmp_path), lambda: refuse_to_resume(tmp_path, False, 2, False)):
        with pytest.raises(ValueError, match="is a folder of shards, and reading them runs any code"):
            refused()
    refuse_to_resume(tmp_path, True, 2, False)


def test_a_file_is_always_gone_on_from_and_another_folder_is_no_checkpoint(tmp_path) -> None:
    refuse_to_resume(tmp_path / "last.ckpt", False, 1, False)
    with pytest.raises(ValueError, match=r"is no checkpoint: expected a file, or a folder of shards"):
        read_checkpoint(tmp_path)


def test_a_full_disk_leaves_the_checkpoint_before_whole(world, trainer, sft, tmp_path) -> None:
    """With the settings of configs/, which keep the one before until the new one is complete."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def run(steps: int, *callbacks: Callback, **resume: Path) -> None:
        keep = ModelCheckpoint(tmp_path, save_last="link", every_n_train_steps=1)
        data = EmoReasonSFTDataModule(world, batch_size=4, num_workers=0, val_split=None)
        trainer(max_steps=steps, enable_checkpointing=True, callbacks=[keep, *callbacks]).fit(sft(), data, **resume)

    try:
        with pytest.raises(OSError, match="too large") as refused:
            run(3, FullDisk())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refused.value.errno == errno.EFBIG
    last = tmp_path / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 1
    run(2, ckpt_path=last)
    assert torch.load(last, weights_only=True)["global_step"] == 2
