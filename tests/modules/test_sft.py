"""Stage 1 against a plain Hugging Face forward, and that its step does not depend on how it is cut."""

import math

import pytest
import torch
from lightning import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from cair_lightning.datamodules.emoreason import EmoReasonSFTDataModule
from cair_lightning.datamodules.loading import Window, micro_batches
from cair_lightning.datamodules.manifest import read_dataset
from cair_lightning.modules.base import warmup_cosine
from cair_lightning.modules.settings import OptimizerSettings, PolicySettings
from cair_lightning.policies.batch import Prompts
from cair_lightning.structures import Form


def data_of(world, **changes) -> EmoReasonSFTDataModule:
    return EmoReasonSFTDataModule(world, **({"batch_size": 4, "num_workers": 0, "val_split": None} | changes))


def window_of(module, world, forms: list[Form]) -> Window:
    """One step's samples, as the loader would bring them."""
    manifest = read_dataset(world, "train")
    collator = module.collator(manifest.clips, teach=True)
    (window,) = micro_batches(collator(list(zip(manifest.examples, forms, strict=False))), 1)
    return window


def full_row_nll(model, prompts: Prompts) -> tuple[torch.Tensor, int]:
    """Summed cross-entropy of completion tokens by the unmodified model, one unpadded row per sample."""
    total, count = torch.zeros(()), 0
    sizes = [math.prod(grid or (0,)) for grid in prompts.grids]
    patches = prompts.patches.split(sizes)
    for row, target in enumerate(prompts.completions):
        mask_L = prompts.mask_BL[row]
        ids = torch.cat([prompts.ids_BL[row][mask_L], torch.tensor(target)])[None]
        positions = prompts.positions_3BL[:, row, mask_L]
        following = torch.arange(len(target)).expand(3, -1) + positions.max() + 1
        logits = model(
            input_ids=ids,
            position_ids=torch.cat([positions, following], dim=1)[:, None],
            pixel_values_videos=patches[row],
            video_grid_thw=torch.tensor([prompts.grids[row]]),
            mm_token_type_ids=2 * (ids == model.config.video_token_id).int(),
        ).logits[0]
        total = total + cross_entropy(logits[-len(target) - 1 : -1], torch.tensor(target), reduction="sum")
        count += len(target)
    return total, count


class Gradients(Callback):
    """Keeps the gradient of the last step."""

    def on_after_backward(self, trainer, pl_module) -> None:
        self.of = {name: p.grad.clone() for name, p in pl_module.policy.model.named_parameters() if p.grad is not None}


def test_loss_and_gradient_are_those_of_plain_cross_entropy_on_completion_tokens(world, trainer, sft, memory) -> None:
    module, before, gradients = sft(), sft(), Gradients()
    window = window_of(module, world, ["reason", "direct", "reason", "direct"])
    run = trainer(max_steps=1, logger=memory(), callbacks=[gradients])
    run.fit(module, DataLoader([window], batch_size=None))
    before.configure_model()
    nll, count = full_row_nll(before.policy.model, window.prompts)
    (nll / count).backward()
    assert window.n_targets == count
    assert run.logger.column("train/loss") == {0: pytest.approx(float(nll) / count, abs=1e-5)}
    assert run.logger.column("train/nll") == run.logger.column("train/loss")
    for name, parameter in before.policy.model.named_parameters():
        torch.testing.assert_close(gradients.of[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_every_trainable_parameter_moves(world, trainer, sft) -> None:
    module, before = sft(), sft()
    before.configure_model()
    trainer(max_steps=2).fit(module, data_of(world))
    start = dict(before.policy.named_parameters())
    still = [name for name, p in module.policy.named_parameters() if torch.equal(p, start[name])]
    assert not still
    assert module.policy.training


def test_frozen_vision_stays_and_the_rest_moves(world, trainer, sft) -> None:
    module, before = sft(loading=PolicySettings(freeze_vision=True)), sft()
    before.configure_model()
    trainer(max_steps=2).fit(module, data_of(world))
    start = dict(before.policy.named_parameters())
    moved = {name for name, p in module.policy.named_parameters() if not torch.equal(p, start[name])}
    assert moved == {name for name in start if ".visual." not in name}


@pytest.mark.parametrize("loading", [PolicySettings(gradient_checkpointing=True), PolicySettings(freeze_vision=True)])
def test_memory_savers_do_not_change_the_loss(world, trainer, sft, memory, loading) -> None:
    runs = []
    for settings in (PolicySettings(), loading):
        run = trainer(max_steps=1, logger=memory())
        run.fit(sft(loading=settings), data_of(world))
        runs.append(run.logger.column("train/loss")[0])
    assert runs[0] == pytest.approx(runs[1], abs=1e-6)


def test_bfloat16_trains(world, trainer, sft, memory) -> None:
    module = sft(loading=PolicySettings(dtype="bfloat16"))
    run = trainer(max_steps=2, precision="bf16-true", logger=memory())
    run.fit(module, data_of(world, val_split="val"))
    assert {p.dtype for p in module.policy.parameters()} == {torch.bfloat16}
    reference = trainer(max_steps=1, logger=memory())
    reference.fit(sft(), data_of(world))
    expected = reference.logger.column("train/loss")[0]
    assert run.logger.column("train/loss")[0] == pytest.approx(expected, rel=0.02)
    assert run.logger.column("train/loss")[1] != run.logger.column("train/loss")[0]


def test_step_does_not_depend_on_accumulation(world, trainer, sft, memory) -> None:
    outcomes = []
    for parts in (1, 2, 4):
        module, run = sft(learning_rate=1e-4), trainer(max_steps=3, accumulate_grad_batches=parts, logger=memory())
        run.fit(module, data_of(world, batch_size=8))
        outcomes.append((run.logger.column("train/loss"), dict(module.policy.named_parameters())))
    (losses, weights), *others = outcomes
    assert list(losses) == [0, 1, 2]
    for other_losses, other_weights in others:
        assert other_losses == pytest.approx(losses, abs=1e-5)
        for name, weight in weights.items():
            torch.testing.assert_close(other_weights[name], weight, atol=1e-5, rtol=0, msg=name)


def test_a_step_whose_clips_are_all_broken_changes_nothing(world, trainer, sft, memory) -> None:
    """It still runs its backward, as every rank has to."""
    module, gradients = sft(), Gradients()
    window = window_of(module, world, ["reason", "direct"])
    window.prompts.valid_B[:] = False
    window.n_targets = 0
    run = trainer(max_steps=1, logger=memory(), callbacks=[gradients])
    run.fit(module, DataLoader([window], batch_size=None))
    assert run.logger.column("train/loss") == {0: 0.0}
    assert len(gradients.of) > 60
    assert not any(gradient.any() for gradient in gradients.of.values())


def test_schedule_rises_and_falls(world, trainer, sft) -> None:
    assert [warmup_cosine(10, 2)(step) for step in (0, 1, 2, 6, 10, 11)] == pytest.approx([0.5, 1, 1, 0.5, 0, 0])
    rates = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, *args) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    module = sft(optimizer=OptimizerSettings(learning_rate=2.0e-5, warmup=0.4))
    run = trainer(max_epochs=1, callbacks=[Watch()])
    run.fit(module, data_of(world, batch_size=6))
    expected = [1e-5, 2e-5, 2e-5, 1e-5]  # 4 steps, the first 2 of which are warm-up
    assert rates == pytest.approx(expected)


def test_a_run_without_end_is_refused(world, trainer, sft) -> None:
    with pytest.raises(ValueError, match=r"set trainer.max_steps or max_epochs"):
        trainer(max_steps=-1, max_epochs=-1).fit(sft(), data_of(world))


def test_training_lowers_the_loss(world, trainer, sft, memory) -> None:
    seed_everything(0)
    run = trainer(max_steps=12, logger=memory())
    run.fit(sft(learning_rate=3e-3), data_of(world, batch_size=8, kept_clips=100))
    losses = list(run.logger.column("train/loss").values())
    assert losses[0] == pytest.approx(math.log(640), rel=0.2)  # about uniform over the vocabulary
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("length", [{"max_steps": 6}, {"max_epochs": 2}])
def test_resumed_equals_uninterrupted(world, trainer, sft, memory, tmp_path, length) -> None:
    """2 epochs of 3 steps; the checkpoints lie within the first one, at its end and in the second one."""
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    settings = length | {"accumulate_grad_batches": 2}
    whole = trainer(logger=memory(), enable_checkpointing=True, callbacks=[keep], **settings)
    module = sft()
    whole.fit(module, data_of(world, batch_size=8, direct_fraction=0.5))
    expected = whole.logger.column("train/loss")
    assert list(expected) == [0, 1, 2, 3, 4, 5]
    for step in (2, 3, 4):
        again, resumed = sft(), trainer(logger=memory(), **settings)
        resumed.fit(again, data_of(world, batch_size=8, direct_fraction=0.5), ckpt_path=tmp_path / f"step={step}.ckpt")
        assert resumed.logger.column("train/loss") == {n: loss for n, loss in expected.items() if n >= step}
        for name, weight in module.policy.named_parameters():
            assert torch.equal(weight, again.policy.get_parameter(name)), name


def test_a_longer_run_is_resumed_with_its_own_schedule(world, trainer, sft, tmp_path) -> None:
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2)
    trainer(max_steps=2, enable_checkpointing=True, callbacks=[keep]).fit(sft(), data_of(world))
    resumed = trainer(max_steps=4)
    resumed.fit(sft(), data_of(world), ckpt_path=tmp_path / "step=2.ckpt")
    assert resumed.lr_scheduler_configs[0].scheduler.last_epoch == 4
    assert resumed.lr_scheduler_configs[0].scheduler.lr_lambdas[0](2) == pytest.approx(0.75)
