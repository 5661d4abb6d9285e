"""Adapters: nothing else is trained, the reference is the policy without them, and they leave merged."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from cair_lightning.callbacks.export_policy import ExportPolicy
from cair_lightning.datamodules.emoreason import EmoReasonRLDataModule
from cair_lightning.export import export
from cair_lightning.modules.settings import PolicySettings
from cair_lightning.policies.lora import LoraSettings, WithoutAdapters, add_lora, lora_layers, merge_lora
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.policies.tree import Branch
from cair_lightning.sharding import full_weights
from tests.policies.reference import EXAMPLES, build_policy, collate

pytest.importorskip("peft")

SETTINGS = PolicySettings(lora=LoraSettings(rank=4, alpha=8.0))
LINEAR = 7
"""Linear layers of a block: four of attention, three of the MLP."""


def scores(policy) -> torch.Tensor:
    trees = [[Branch(ids=[20, 21, 22])] for _ in EXAMPLES]
    with torch.no_grad():
        return policy(collate(), trees)[1]


def adapted() -> QwenVLPolicy:
    """A policy whose adapters do something."""
    policy = build_policy()
    add_lora(policy, LoraSettings(rank=4, alpha=8.0))
    torch.manual_seed(3)
    with torch.no_grad():
        for layer in lora_layers(policy.model).values():
            layer.lora_B["default"].weight.normal_(std=0.05)
    return policy


def test_new_adapters_change_nothing_and_are_all_that_is_trained() -> None:
    plain, policy = build_policy(), build_policy()
    add_lora(policy, LoraSettings(rank=4))
    assert torch.equal(scores(policy), scores(plain))
    trained = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert trained
    assert all(".language_model.layers." in name and ".lora_" in name for name in trained)
    assert len(lora_layers(policy.model)) == LINEAR * policy.text_config.num_hidden_layers


def test_adapters_of_bfloat16_weights_are_float32() -> None:
    policy = build_policy(dtype=torch.bfloat16)
    plain = scores(policy)
    add_lora(policy, LoraSettings(rank=4))
    assert {p.dtype for name, p in policy.named_parameters() if ".lora_" in name} == {torch.float32}
    assert torch.equal(scores(policy), plain)
    assert {value.dtype for value in full_weights(policy.model, keep=True).values()} == {torch.bfloat16}


def test_without_its_adapters_it_is_the_policy_it_was() -> None:
    policy = adapted()
    assert not torch.allclose(scores(policy), scores(build_policy()), atol=1e-3)
    reference = WithoutAdapters(policy)
    with reference.scoring():
        assert torch.equal(scores(reference), scores(build_policy()))
        assert not policy.training
    assert all(p.requires_grad == (".lora_" in name) for name, p in policy.named_parameters())


def test_merged_weights_are_the_adapted_policy() -> None:
    policy, plain = adapted(), build_policy()
    weights = full_weights(policy.model, keep=True)
    assert weights.keys() == plain.model.state_dict().keys()
    plain.model.load_state_dict(weights)
    torch.testing.assert_close(scores(plain), scores(policy), atol=1e-5, rtol=1e-5)
    merge_lora(policy)
    assert policy.model.state_dict().keys() == weights.keys()
    for name, weight in policy.model.state_dict().items():
        assert torch.equal(weight, weights[name]), name


def test_grpo_trains_adapters_saves_nothing_else_and_resumes(curated, taught, trainer, grpo, memory, tmp_path) -> None:
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    data = {"batch_size": 2, "num_workers": 0, "kept_clips": 8}
    module, logger = grpo(loading=SETTINGS), [CSVLogger(tmp_path, name="", version=""), memory()]
    run = trainer(max_steps=3, enable_checkpointing=True, callbacks=[keep, ExportPolicy()], logger=logger)
    run.fit(module, EmoReasonRLDataModule(curated, **data))
    assert run.loggers[1].column("train/kl")[0] == pytest.approx(0, abs=1e-6)
    assert run.loggers[1].column("train/kl")[2] > 0
    content = torch.load(tmp_path / "step=2.ckpt", weights_only=True)
    assert all(".lora_" in name for name in content["state_dict"])
    start = QwenVLPolicy.load(taught).model.state_dict()
    for name, weight in module.policy.model.state_dict().items():
        if ".lora_" not in name:
            assert torch.equal(weight, start[name.replace(".base_layer", "")]), name

    again = grpo(loading=SETTINGS)
    resumed = trainer(max_steps=3, logger=memory())
    resumed.fit(again, EmoReasonRLDataModule(curated, **data), ckpt_path=tmp_path / "step=2.ckpt")
    assert resumed.logger.column("train/loss") == {2: run.loggers[1].column("train/loss")[2]}
    for name, weight in module.policy.state_dict().items():
        assert torch.equal(again.policy.state_dict()[name], weight), name

    written = QwenVLPolicy.load(tmp_path / "policy").model.state_dict()
    exported = QwenVLPolicy.load(export(tmp_path / "step=3.ckpt", tmp_path / "exported")).model.state_dict()
    for name, weight in full_weights(module.policy.model, keep=True).items():
        assert torch.equal(written[name], weight), name
        assert torch.equal(exported[name], weight), name
    with pytest.raises(ValueError, match=r"run `cair export .*step=3.ckpt --out FOLDER`"):
        grpo(tmp_path / "step=3.ckpt", loading=SETTINGS).configure_model()


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected loading.lora.rank >= 1, got 0"):
        add_lora(build_policy(), LoraSettings(rank=0))
