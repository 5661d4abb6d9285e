"""What `model.policy` and `ckpt_path` may be, and what is refused."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from cair_lightning.datamodules.emoreason import (
    EmoReasonEvaluationDataModule,
    EmoReasonRLDataModule,
    EmoReasonSFTDataModule,
)
from cair_lightning.modules.base import PolicyModule
from cair_lightning.modules.loading import base_folder, load_policy
from cair_lightning.modules.settings import EvaluationSettings, PolicySettings
from cair_lightning.modules.sft import SFTModule
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.world import tiny as builder


@pytest.fixture(scope="session")
def trained(world, trainer, sft, tmp_path_factory) -> Path:
    """A Lightning checkpoint of one step of SFT, and the same weights as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("models")
    keep = ModelCheckpoint(folder, "trained", every_n_train_steps=1)
    module = sft()
    data = EmoReasonSFTDataModule(world, batch_size=4, num_workers=0, val_split=None)
    trainer(max_steps=1, enable_checkpointing=True, callbacks=[keep]).fit(module, data)
    module.policy.model.save_pretrained(folder / "policy")
    module.policy.processor.save_pretrained(folder / "policy")
    return folder


@pytest.fixture(scope="session")
def other(tmp_path_factory, tiny) -> Path:
    """A checkpoint with fewer layers."""
    folder = tmp_path_factory.mktemp("models") / "other"
    processor = QwenVLPolicy.load(tiny).processor
    builder.save(folder, processor, builder.build_model(processor, layers=2))
    return folder


def test_a_checkpoint_is_the_same_policy_as_the_exported_folder(trained, tiny) -> None:
    from_file = load_policy(str(trained / "trained.ckpt"), PolicySettings())
    from_folder = load_policy(str(trained / "policy"), PolicySettings())
    start = load_policy(str(tiny), PolicySettings()).state_dict()
    for name, weight in from_file.state_dict().items():
        assert torch.equal(weight, from_folder.state_dict()[name]), name
    assert not torch.equal(from_file.model.lm_head.weight, start["model.lm_head.weight"])


def test_grpo_starts_from_a_checkpoint_file(trained, world, trainer, grpo) -> None:
    module = grpo(trained / "trained.ckpt")
    trainer(max_steps=1).fit(module, EmoReasonRLDataModule(world, batch_size=2, num_workers=0))
    expected = load_policy(str(trained / "policy"), PolicySettings())
    for name, weight in module.reference.state_dict().items():
        assert torch.equal(weight, expected.state_dict()[name]), name


def test_a_checkpoint_names_the_folder_it_was_trained_from(trained, tiny, monkeypatch, tmp_path) -> None:
    """Absolutely, so that it can be used from anywhere."""
    assert base_folder(str(trained / "trained.ckpt")) == str(tiny)
    monkeypatch.chdir(tiny.parent)
    assert base_folder(tiny.name) == str(tiny)
    assert base_folder("owner/name") == "owner/name"


def test_lightning_loads_a_checkpoint_on_its_own(trained) -> None:
    module = SFTModule.load_from_checkpoint(
        trained / "trained.ckpt", policy=str(trained / "policy"), evaluation=EvaluationSettings(keyword_model=None)
    )
    expected = load_policy(str(trained / "policy"), PolicySettings()).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in module.policy.state_dict().items())


def test_what_is_no_checkpoint_is_refused(tmp_path, tiny) -> None:
    for path in ("./none", str(tmp_path / "none"), "none"):
        with pytest.raises(FileNotFoundError, match="does not exist; expected a Hugging Face folder, a hub id"):
            base_folder(path)
    with pytest.raises(FileNotFoundError):
        base_folder(str(tmp_path / "none.ckpt"))
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match=r"foreign.ckpt was not written by a module of cair_lightning"):
        base_folder(str(tmp_path / "foreign.ckpt"))
    torch.save({"cair": {"policy": str(tmp_path / "gone")}, "state_dict": {}}, tmp_path / "orphan.ckpt")
    with pytest.raises(FileNotFoundError, match=r"orphan.ckpt was trained from .*gone, which does not exist any more"):
        base_folder(str(tmp_path / "orphan.ckpt"))
    (tmp_path / "sharded.ckpt").mkdir()
    with pytest.raises(ValueError, match=r"sharded.ckpt is no checkpoint: expected a file, or a folder of shards"):
        base_folder(str(tmp_path / "sharded.ckpt"))


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_checkpoint_of_another_model_is_refused(trained, other, world, trainer, sft, vision, verb) -> None:
    message = r"The checkpoint is of another model than model.policy \(.*other\): \d+ tensors differ, the first is"
    if verb == "fit":
        module, data = sft(other), EmoReasonSFTDataModule(world, batch_size=4, num_workers=0)
    else:
        module = PolicyModule(str(other), vision=vision, evaluation=EvaluationSettings(keyword_model=None))
        data = EmoReasonEvaluationDataModule(world, num_workers=0)
    with pytest.raises(ValueError, match=message) as raised:
        getattr(trainer(max_steps=2), verb)(module, data, ckpt_path=trained / "trained.ckpt")
    assert "Set model.policy to the checkpoint it was trained from" in str(raised.value)
    assert "layers.2." in str(raised.value)


def test_settings_of_loading_are_applied(tiny) -> None:
    settings = PolicySettings(dtype="bfloat16", freeze_vision=True, gradient_checkpointing=True)
    policy = load_policy(str(tiny), settings)
    assert {p.dtype for p in policy.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in policy.model.model.visual.parameters())
    assert policy.model.is_gradient_checkpointing
