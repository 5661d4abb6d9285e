"""AdaptiveKL, ExportPolicy and RolloutWriter in real runs."""

import json
import shutil

import pytest
import torch
from lightning import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from cair_lightning.callbacks.adaptive_kl import AdaptiveKL
from cair_lightning.callbacks.export_policy import ExportPolicy
from cair_lightning.callbacks.rollout_writer import RolloutWriter
from cair_lightning.datamodules.emoreason import EmoReasonRLDataModule, EmoReasonSFTDataModule


class Plain(LightningModule):
    """No module of ours."""

    def training_step(self, batch, batch_idx) -> None:
        pass

    def configure_optimizers(self) -> None:
        pass


class Etas(Callback):
    """The eta of every step."""

    def __init__(self) -> None:
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.seen.append(pl_module.eta)


def prompts(world, **changes) -> EmoReasonRLDataModule:
    return EmoReasonRLDataModule(world, **({"batch_size": 2, "num_workers": 0, "kept_clips": 30} | changes))


@pytest.mark.parametrize(("target", "grows"), [(1e-9, True), (1e9, False)])
def test_eta_moves_towards_the_target_within_its_bounds(world, trainer, grpo, target, grows) -> None:
    etas = Etas()
    controller = AdaptiveKL(target, rate=0.5, minimum=0.02, maximum=0.1)
    trainer(max_steps=6, callbacks=[controller, etas]).fit(grpo(), prompts(world))
    # Before the first step the policy is the reference: the KL is 0, below any target.
    expected = [0.04, 0.02, 0.03, 0.045, 0.0675, 0.1] if grows else [0.04, 0.02, 0.02, 0.02, 0.02, 0.02]
    assert etas.seen == pytest.approx(expected)


def test_eta_moves_once_per_step_whatever_the_accumulation(world, trainer, grpo) -> None:
    etas = Etas()
    run = trainer(max_steps=2, accumulate_grad_batches=2, callbacks=[AdaptiveKL(1e9, rate=0.5), etas])
    run.fit(grpo(), prompts(world))
    assert etas.seen == pytest.approx([0.04, 0.04, 0.02, 0.02])


def test_eta_survives_a_resume(world, trainer, grpo, tmp_path) -> None:
    keep = ModelCheckpoint(tmp_path, "last", every_n_train_steps=2)
    run = trainer(max_steps=2, enable_checkpointing=True, callbacks=[AdaptiveKL(1e9, rate=0.5), keep])
    run.fit(grpo(), prompts(world))
    etas = Etas()
    resumed = trainer(max_steps=3, callbacks=[AdaptiveKL(1e9, rate=0.5), etas])
    resumed.fit(grpo(), prompts(world), ckpt_path=tmp_path / "last.ckpt")
    assert etas.seen == pytest.approx([0.01])


@pytest.mark.parametrize("wrong", [{"target": 0}, {"rate": 1}, {"minimum": 0}, {"minimum": 2.0}])
def test_impossible_controllers_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="expected target > 0, 0 < rate < 1, 0 < minimum <= maximum"):
        AdaptiveKL(**wrong)


def test_callbacks_refuse_modules_they_are_not_for(world, trainer, grpo, sft) -> None:
    data = EmoReasonSFTDataModule(world, num_workers=0, val_split=None)
    with pytest.raises(TypeError, match="AdaptiveKL controls the eta of a GRPOModule, and eta must not be 0"):
        trainer(max_steps=1, callbacks=[AdaptiveKL()]).fit(sft(), data)
    with pytest.raises(TypeError, match="AdaptiveKL controls the eta of a GRPOModule, and eta must not be 0"):
        trainer(max_steps=1, callbacks=[AdaptiveKL()]).fit(grpo(eta=0.0), prompts(world))
    with pytest.raises(TypeError, match="RolloutWriter needs a GRPOModule, got SFTModule; remove it"):
        trainer(max_steps=1, callbacks=[RolloutWriter()]).fit(sft(), data)
    with pytest.raises(TypeError, match="ExportPolicy needs a PolicyModule, got Plain; remove it"):
        trainer(max_steps=1, callbacks=[ExportPolicy()]).fit(Plain(), data)
    with pytest.raises(ValueError, match="expected every_n_steps >= 1, got 0"):
        RolloutWriter(0)


def test_the_exported_folder_is_a_plain_checkpoint(world, trainer, sft, tmp_path) -> None:
    module = sft()
    logger = CSVLogger(tmp_path, name="", version="run")
    run = trainer(max_steps=1, callbacks=[ExportPolicy()], logger=logger)
    run.fit(module, EmoReasonSFTDataModule(world, num_workers=0, val_split=None))
    folder = tmp_path / "run" / "policy"
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    for name, weight in module.policy.model.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    assert tokenizer.get_vocab() == module.policy.tokenizer.get_vocab()
    again = sft(folder)
    again.configure_model()
    assert torch.equal(again.policy.model.lm_head.weight, module.policy.model.lm_head.weight)


def test_an_interrupted_export_leaves_the_old_folder(world, trainer, sft, tiny, tmp_path, monkeypatch) -> None:
    target, module = tmp_path / "policy", sft()
    shutil.copytree(tiny, target)
    old = (target / "model.safetensors").read_bytes()

    def fail(folder) -> None:
        raise OSError("no space left on device")

    class FullDisk(Callback):
        def on_train_start(self, trainer, pl_module) -> None:
            monkeypatch.setattr(pl_module.policy.processor, "save_pretrained", fail)

    data = EmoReasonSFTDataModule(world, num_workers=0, val_split=None)
    with pytest.raises(OSError, match="no space left"):
        trainer(max_steps=1, callbacks=[FullDisk(), ExportPolicy(target)]).fit(module, data)
    assert (target / "model.safetensors").read_bytes() == old
    monkeypatch.undo()
    trainer(max_steps=1, callbacks=[ExportPolicy(target)]).fit(module, data)
    assert (target / "model.safetensors").read_bytes() != old
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


@pytest.mark.parametrize(
    ("every", "updates", "parts", "steps"),
    [(1, 1, 1, [0, 1, 2, 3, 4]), (2, 1, 1, [0, 2, 4]), (2, 1, 2, [0, 2, 4]), (3, 2, 1, [0, 4]), (1, 2, 2, [0, 2, 4])],
)
def test_rollouts_are_written_at_the_given_rate(world, trainer, grpo, tmp_path, every, updates, parts, steps) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    run = trainer(max_steps=5, accumulate_grad_batches=parts, callbacks=[RolloutWriter(every)], logger=logger)
    run.fit(grpo(updates_per_rollout=updates), prompts(world))
    rows = [json.loads(line) for line in (tmp_path / "rollouts.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in rows] == [step for step in steps for _ in range(4)]
    first = rows[:4]
    assert len({row["id"] for row in first}) == 1
    assert sum(row["advantage"] for row in first) == pytest.approx(0, abs=1e-5)
    keys = {"step", "id", "answer", "completion", "lambda", "advantage", "accuracy", "format", "mediation", "total"}
    assert rows[0].keys() >= keys
    for row in rows:
        assert row["total"] == pytest.approx(
            row["accuracy"] + row["format"] + row["lambda"] * row["mediation"], abs=1e-5
        )


def test_a_resumed_run_goes_on_writing(world, trainer, grpo, tmp_path) -> None:
    keep = ModelCheckpoint(tmp_path, "last", every_n_train_steps=3)

    def run(steps: int, **changes: object) -> list[int]:
        logger = CSVLogger(tmp_path, name="", version="")
        tuner = trainer(max_steps=steps, logger=logger, enable_checkpointing=True, callbacks=[RolloutWriter(2), keep])
        tuner.fit(grpo(), prompts(world), **changes)
        rows = (tmp_path / "rollouts.jsonl").read_text("utf-8").splitlines()
        return [json.loads(row)["step"] for row in rows][::4]

    assert run(3) == [0, 2]
    assert run(5, ckpt_path=tmp_path / "last.ckpt") == [0, 2, 4]
