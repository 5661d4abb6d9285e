"""Stage 2: what a step is made of, and that a run goes on after an interruption as if there had been none."""

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from cair_lightning.callbacks.adaptive_kl import AdaptiveKL
from cair_lightning.datamodules.emoreason import EmoReasonRLDataModule
from cair_lightning.modules.settings import PolicySettings
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.policies.sampling import SamplingSettings
from cair_lightning.rollout import RewardSettings
from cair_lightning.weighting import CurriculumWeighting, UniformWeighting

KEYS = {
    *(
        f"train/reward/{part}/{what}"
        for part in ("accuracy", "format", "mediation", "total")
        for what in ("mean", "std")
    ),
    *(f"train/lambda/{what}" for what in ("min", "max", "std")),
    *(f"train/seconds/{phase}" for phase in ("generate", "verify", "reference", "update")),
    *(f"train/{name}" for name in ("loss", "kl", "eta", "ratio", "clip_fraction", "zero_variance_groups")),
    *(f"train/{name}" for name in ("completion_length", "truncated", "leak_rate", "entropy_bits")),
}
"""What the issue asks to be logged, and a little more."""


def data_of(root, **changes) -> EmoReasonRLDataModule:
    return EmoReasonRLDataModule(root, **({"batch_size": 4, "num_workers": 0, "kept_clips": 10} | changes))


def numbers(rows: dict[int, dict[str, float]], since: int = 0) -> dict[int, dict[str, float]]:
    """What was logged from a step on, without the clock."""
    return {
        step: {name: value for name, value in row.items() if "seconds" not in name}
        for step, row in rows.items()
        if step >= since
    }


class Rollouts(Callback):
    """Keeps what each step was made of."""

    def __init__(self) -> None:
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if batch.part == 0:
            self.seen.append(pl_module.rollout)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("updates", [1, 2])
def test_resumed_equals_uninterrupted_step_for_step(curated, trainer, grpo, memory, tmp_path, parts, updates) -> None:
    """6 steps over 3 epochs of 2, or 2 of 4. Resumed within an epoch (and a rollout) and at its end."""
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    settings = {"max_steps": 6, "accumulate_grad_batches": parts}
    model = {"updates_per_rollout": updates, "clip": 0.2, "weighting": CurriculumWeighting()}
    callbacks = [AdaptiveKL(target=0.01, rate=0.5), keep]
    whole = trainer(logger=memory(), enable_checkpointing=True, callbacks=callbacks, **settings)
    module = grpo(**model)
    whole.fit(module, data_of(curated))
    assert list(whole.logger.rows) == [0, 1, 2, 3, 4, 5]
    assert len(set(whole.logger.column("train/eta").values())) == 6
    assert all(whole.logger.rows[step]["train/kl"] > 0 for step in range(1, 6))
    for step in (updates + 1, updates + 2):
        again, resumed = grpo(**model), trainer(logger=memory(), callbacks=[AdaptiveKL(0.01, 0.5)], **settings)
        resumed.fit(again, data_of(curated), ckpt_path=tmp_path / f"step={step}.ckpt")
        assert list(resumed.logger.rows) == list(range(step, 6))
        for row, expected in zip(
            numbers(resumed.logger.rows).values(), list(whole.logger.rows.values())[step:], strict=True
        ):
            # Within a rollout Lightning repeats what was logged of it; a run that begins there has nothing to repeat.
            assert row == {name: expected[name] for name in row}
            assert row.keys() >= {"train/loss", "train/kl", "train/eta", "train/ratio"}
        assert again.eta == module.eta
        for name, weight in module.named_parameters():
            assert torch.equal(weight, again.get_parameter(name)), name


def test_a_run_that_was_killed_goes_on(curated, trainer, grpo, memory, stop_at, interrupted, tmp_path) -> None:
    settings = {"max_epochs": 3, "logger": memory()}
    whole = trainer(**settings)
    whole.fit(grpo(), data_of(curated, num_workers=2))
    keep = ModelCheckpoint(tmp_path, "last", every_n_train_steps=1)
    first = trainer(**(settings | {"logger": memory()}), enable_checkpointing=True, callbacks=[keep, stop_at(4)])
    with pytest.raises(interrupted):
        first.fit(grpo(), data_of(curated, num_workers=2))
    second = trainer(**(settings | {"logger": memory()}))
    second.fit(grpo(), data_of(curated, num_workers=2), ckpt_path=tmp_path / "last.ckpt")
    expected = numbers(whole.logger.rows)
    assert numbers(first.logger.rows) == {step: row for step, row in expected.items() if step < 3}
    # It was stopped before the callback that saves had its turn, so that the last step is done again.
    rest = numbers(second.logger.rows)
    assert list(rest) == [3, 4, 5]
    for step, row in rest.items():  # Lightning repeats a leak rate of earlier steps where no rationale is well-formed
        assert row == {name: expected[step][name] for name in row}
        assert expected[step].keys() - row.keys() <= {"train/leak_rate"}


def test_every_quantity_is_logged_every_step(curated, trainer, grpo, memory) -> None:
    run = trainer(max_steps=2, accumulate_grad_batches=2, logger=memory())
    run.fit(grpo(clip=0.2), data_of(curated))
    for row in run.logger.rows.values():
        assert row.keys() >= KEYS
        assert all(value >= 0 for name, value in row.items() if "seconds" in name)
    assert run.logger.rows[0]["train/kl"] == 0
    assert run.logger.rows[0]["train/ratio"] == 1
    assert run.logger.rows[0]["train/clip_fraction"] == 0
    assert run.logger.rows[0]["train/reward/format/mean"] > 0.2  # else the tests of this file test nothing


def test_the_step_does_not_depend_on_accumulation(curated, trainer, grpo, memory) -> None:
    """The completions do: they are drawn part by part. Greedy ones are the same, and so is all that follows."""
    sampling = SamplingSettings(group_size=2, max_new_tokens=24, temperature=1e-4)
    outcomes = []
    for parts in (1, 2, 4):
        run = trainer(max_steps=2, accumulate_grad_batches=parts, logger=memory())
        run.fit(grpo(sampling=sampling, learning_rate=1e-5), data_of(curated))
        outcomes.append(numbers(run.logger.rows))
    for other in outcomes[1:]:
        assert all(other[step] == pytest.approx(outcomes[0][step], abs=1e-4) for step in outcomes[0])


def test_loss_is_the_policy_gradient_plus_kl(curated, trainer, grpo, memory) -> None:
    """On policy at the reference, the loss is -sum(weight x advantage), and the KL is 0."""
    rollouts = Rollouts()
    run = trainer(max_steps=1, logger=memory(), callbacks=[rollouts])
    run.fit(grpo(), data_of(curated))
    (rollout,) = rollouts.seen
    expected = -(rollout.token_weights_NT * rollout.advantages_N[:, None]).sum()
    assert run.logger.rows[0]["train/loss"] == pytest.approx(float(expected), abs=1e-6)
    assert rollout.advantages_N.abs().max() > 0.5
    assert rollout.token_weights_NT.sum() == pytest.approx(1.0)


def test_the_second_update_of_a_rollout_is_off_policy(curated, trainer, grpo, memory) -> None:
    rollouts = Rollouts()
    run = trainer(max_steps=4, logger=memory(), callbacks=[rollouts])
    run.fit(grpo(updates_per_rollout=2), data_of(curated))
    ratios = list(run.logger.column("train/ratio").values())
    assert ratios[0] == ratios[2] == 1
    assert ratios[1] != 1
    assert ratios[3] != 1
    assert len(rollouts.seen) == 2


@pytest.mark.parametrize("loading", [PolicySettings(freeze_vision=True), PolicySettings(gradient_checkpointing=True)])
def test_memory_savers_train_the_same(curated, trainer, grpo, memory, loading) -> None:
    plain, saved = trainer(max_steps=2, logger=memory()), trainer(max_steps=2, logger=memory())
    plain.fit(grpo(), data_of(curated))
    module = grpo(loading=loading)
    saved.fit(module, data_of(curated))
    first = numbers(plain.logger.rows)[0]
    assert numbers(saved.logger.rows)[0] == pytest.approx(first, abs=1e-5)
    assert saved.logger.rows[1]["train/kl"] > 0


def test_bfloat16_trains(curated, trainer, grpo, memory) -> None:
    module, run = (
        grpo(loading=PolicySettings(dtype="bfloat16")),
        trainer(max_steps=2, precision="bf16-true", logger=memory()),
    )
    run.fit(module, data_of(curated))
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert run.logger.rows[0]["train/ratio"] == 1
    assert run.logger.rows[1]["train/kl"] > 0


def test_autocast_trains_every_weight(curated, trainer, grpo, memory) -> None:
    """Autocast may keep what it cast for the rollout, without a graph, and use it again in the update."""
    module, run = grpo(), trainer(max_steps=1, precision="bf16-mixed", logger=memory())
    run.fit(module, data_of(curated))
    assert run.logger.rows[0]["train/ratio"] == 1
    assert run.logger.rows[0]["train/kl"] == pytest.approx(0, abs=1e-3)
    start = dict(module.reference.named_parameters())
    still = [name for name, p in module.policy.named_parameters() if torch.equal(p, start[name])]
    assert not still


def test_reference_is_stage_1_throughout_and_in_no_checkpoint(curated, taught, trainer, grpo, tmp_path) -> None:
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    module = grpo()
    trainer(max_steps=2, enable_checkpointing=True, callbacks=[keep]).fit(module, data_of(curated))
    stage_1 = QwenVLPolicy.load(taught).state_dict()
    content = torch.load(tmp_path / "step=1.ckpt", weights_only=True)
    assert {name.partition(".")[0] for name in content["state_dict"]} == {"policy"}
    again = grpo()
    trainer(max_steps=2).fit(again, data_of(curated), ckpt_path=tmp_path / "step=1.ckpt")
    for trained in (module, again):
        assert not any(p.requires_grad for p in trained.reference.parameters())
        for name, weight in trained.reference.state_dict().items():
            assert torch.equal(weight, stage_1[name]), name
        assert not torch.equal(trained.policy.model.lm_head.weight, stage_1["model.lm_head.weight"])


def test_a_reference_that_changed_is_refused(curated, taught, trainer, grpo, tmp_path) -> None:
    keep = ModelCheckpoint(tmp_path, "last", every_n_train_steps=1)
    trainer(max_steps=1, enable_checkpointing=True, callbacks=[keep]).fit(grpo(), data_of(curated))
    other = QwenVLPolicy.load(taught)
    with torch.no_grad():
        other.model.model.language_model.norm.weight += 1e-3
    other.model.save_pretrained(tmp_path / "other")
    other.processor.save_pretrained(tmp_path / "other")
    message = "are not those that the run began with, and they are its reference policy. Restore them"
    with pytest.raises(ValueError, match=message):
        trainer(max_steps=2).fit(grpo(tmp_path / "other"), data_of(curated), ckpt_path=tmp_path / "last.ckpt")


def test_without_kl_no_reference_is_loaded(curated, trainer, grpo, memory) -> None:
    module, run = grpo(eta=0.0), trainer(max_steps=1, logger=memory())
    run.fit(module, data_of(curated))
    assert module.reference is None
    assert "train/kl" not in run.logger.rows[0]
    assert run.logger.rows[0].keys() >= KEYS - {"train/kl", "train/seconds/reference"}


def test_naive_rl_has_no_mediation(curated, trainer, grpo, memory) -> None:
    run = trainer(max_steps=1, logger=memory())
    run.fit(grpo(rewards=RewardSettings(mediation=False), weighting=UniformWeighting()), data_of(curated))
    row = run.logger.rows[0]
    assert "train/reward/mediation/mean" not in row
    assert row["train/lambda/min"] == row["train/lambda/max"] == 1
    parts = row["train/reward/accuracy/mean"] + row["train/reward/format/mean"]
    assert row["train/reward/total/mean"] == pytest.approx(parts, abs=1e-6)


def test_a_step_whose_clips_are_all_broken_changes_nothing(curated, trainer, grpo, memory) -> None:
    class Break(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            batch.prompts.valid_B[:] = False

    module, run = grpo(), trainer(max_steps=1, logger=memory(), callbacks=[Break()])
    run.fit(module, data_of(curated))
    assert run.logger.rows[0]["train/loss"] == 0
    for name, weight in module.reference.named_parameters():
        assert torch.equal(weight, module.policy.get_parameter(name)), name


@pytest.mark.parametrize("settings", [{"eta": -0.1}, {"updates_per_rollout": 0}])
def test_impossible_settings_are_refused(grpo, settings) -> None:
    with pytest.raises(ValueError, match=r"expected model.eta >= 0 and model.updates_per_rollout >= 1"):
        grpo(**settings)
