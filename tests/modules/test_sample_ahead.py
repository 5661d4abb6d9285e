"""The next rollout is sampled while this one is trained on: a step late, corrected, nothing lost and nothing twice."""

import pytest
import torch
from lightning import Callback

from cair_lightning.datamodules.emoreason import EmoReasonRLDataModule
from cair_lightning.engines import RolloutEngine, Sampled


class Elsewhere(RolloutEngine):
    """Samples when it is asked to, from the weights of then."""

    importance_cap = 2.0

    def begin(self, policy, prompts, sampling, randomness) -> Sampled:
        with policy.scoring():
            prefix = policy.prefill(prompts)
            limit, temperature = sampling.max_new_tokens, sampling.temperature
            completions = policy.sample(prefix, sampling.group_size, limit, temperature, randomness)
        return lambda _: completions


class Seen(Callback):
    """What each rollout was made of."""

    def __init__(self) -> None:
        self.rollouts = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if batch.part == 0:
            self.rollouts.append(pl_module.rollout)


def run(trainer, grpo, memory, curated, steps=5, **settings) -> tuple[list, dict]:
    seen = Seen()
    fitted = trainer(max_steps=steps, callbacks=[seen], logger=memory())
    data = EmoReasonRLDataModule(curated, batch_size=2, num_workers=0, kept_clips=8)
    fitted.fit(grpo(rollout_engine=Elsewhere(), **settings), data)
    return seen.rollouts, fitted.logger.rows


def test_of_weights_that_stay_it_is_the_same_run(trainer, grpo, memory, curated) -> None:
    """Five steps of four an epoch: the first one of the second epoch cannot be begun early."""
    (plain, rows), (ahead, early) = (
        run(trainer, grpo, memory, curated, learning_rate=0.0, sample_ahead=sample_ahead)
        for sample_ahead in (False, True)
    )
    assert len(plain) == len(ahead) == 5
    for expected, got in zip(plain, ahead, strict=True):
        assert [e.id for e in expected.prompts.examples] == [e.id for e in got.prompts.examples]
        assert torch.equal(expected.completions.ids_NT, got.completions.ids_NT)
    assert [row["train/loss"] for row in early.values()] == [row["train/loss"] for row in rows.values()]


def test_each_rollout_is_of_the_weights_before_the_last_update(trainer, grpo, memory, curated) -> None:
    _, rows = run(trainer, grpo, memory, curated, sample_ahead=True)
    differences = [row["train/engine/logp_difference/max"] for row in rows.values()]
    late = [difference > 1e-4 for difference in differences]
    assert late == [False, True, True, True, False]  # the first step of each epoch is on policy
    _, rows = run(trainer, grpo, memory, curated, steps=2)
    assert max(row["train/engine/logp_difference/max"] for row in rows.values()) < 1e-4


def test_nothing_samples_ahead_in_this_process(grpo) -> None:
    with pytest.raises(ValueError, match=r"model.sample_ahead needs a model.rollout_engine other than this process"):
        grpo(sample_ahead=True)
