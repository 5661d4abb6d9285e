"""Stage 2: GRPO with the dual-path verifier (Algorithm 1)."""
# ruff: noqa: B008 - settings are defaults that nobody writes to

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cair_lightning.engines import InProcessRollouts, RolloutEngine, Sampled
from cair_lightning.losses import grpo_loss, importance_weights
from cair_lightning.modules.base import BASIC_EMOTIONS, PolicyModule
from cair_lightning.modules.reference import Reference
from cair_lightning.modules.rollout_state import rollout_from_plain, rollouts_of_all_ranks
from cair_lightning.modules.settings import EvaluationSettings, OptimizerSettings, PolicySettings
from cair_lightning.policies.batch import Prompts
from cair_lightning.policies.collation import VisionSettings
from cair_lightning.policies.lora import WithoutAdapters
from cair_lightning.policies.prefix import Prefix
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.policies.sampling import Completions, SamplingSettings
from cair_lightning.rollout import RewardSettings, Rollout, completion_logps, roll_out
from cair_lightning.rollout_statistics import Agreement, rollout_statistics
from cair_lightning.sharding import each_weight
from cair_lightning.weighting import CognitiveLoadWeighting, Weighting

if TYPE_CHECKING:
    from cair_lightning.datamodules.loading import Window


class GRPOModule(PolicyModule):
    """Maximise E[ratio * A - eta * KL(pi || pi_ref)] over groups of completions that the policy itself judges.

    `policy` is stage 1's checkpoint; it is both where training starts and the frozen reference, also after a resume.
    One rollout serves `updates_per_rollout` optimiser steps; on policy (1, the default) the ratio is exactly 1.

    What differs from the paper: R_CMR is clipped and malformed completions get its floor, and the std that divides
    the advantages has a floor (see `RewardSettings` and docs/decisions.md).

    Args:
        policy: See `PolicyModule`; stage 1's checkpoint.
        eta: Initial weight of the KL term (0.04 in section 4.2); the `AdaptiveKL` callback adjusts it. 0 needs no
            reference and loads none.
        clip: Clip of the ratio, 1 - clip to 1 + clip; None is the letter of Algorithm 1.
        updates_per_rollout: Optimiser steps per rollout.
        sampling: How completions are sampled.
        rewards: What is rewarded and how advantages are scaled.
        weighting: Where lambda comes from: CLO (eq. 6), uniform or a curriculum.
        rollout_engine: Who samples completions; None is the policy itself, in this process.
        sample_ahead: Let another engine sample the next rollout while this one is trained on: one rollout off policy,
            which its importance weights correct. An interrupted run samples that rollout anew, on policy.
        seed: Seed of sampling.
        loading: See `PolicyModule`.
        vision: See `PolicyModule`.
        optimizer: See `PolicyModule`; the learning rate of stage 2 is 1e-6.
        evaluation: See `PolicyModule`.
        emotions: See `PolicyModule`.
        max_tokens: See `PolicyModule`.

    Raises:
        ValueError: If `eta` is negative, `updates_per_rollout` below 1, or nothing can sample ahead.
    """

    def __init__(
        self,
        policy: str,
        eta: float = 0.04,
        clip: float | None = None,
        updates_per_rollout: int = 1,
        sampling: SamplingSettings = SamplingSettings(),
        rewards: RewardSettings = RewardSettings(),
        weighting: Weighting = CognitiveLoadWeighting(),
        rollout_engine: RolloutEngine | None = None,
        sample_ahead: bool = False,
        seed: int = 0,
        loading: PolicySettings = PolicySettings(),
        vision: VisionSettings = VisionSettings(),
        optimizer: OptimizerSettings = OptimizerSettings(learning_rate=1e-6),
        evaluation: EvaluationSettings = EvaluationSettings(),
        emotions: Sequence[str] = BASIC_EMOTIONS,
        max_tokens: int = 4096,
    ) -> None:
        super().__init__(policy, loading, vision, optimizer, evaluation, emotions, max_tokens)
        if eta < 0 or updates_per_rollout < 1:
            raise ValueError(
                f"expected model.eta >= 0 and model.updates_per_rollout >= 1, got {eta} and {updates_per_rollout}"
            )
        self.eta, self.clip, self.updates_per_rollout, self.seed = eta, clip, updates_per_rollout, seed
        self.sampling, self.rewards, self.weighting = sampling, rewards, weighting
        self.rollout_engine = rollout_engine or InProcessRollouts()
        if sample_ahead and self.rollout_engine.importance_cap is None:
            raise ValueError(
                "model.sample_ahead needs a model.rollout_engine other than this process, with an importance_cap: here "
                "nothing samples while the policy is trained."
            )
        self.sample_ahead = sample_ahead
        self._pending: Sampled | None = None
        self._sent = -1  # the step whose weights the engine has
        self._reference = Reference(policy, loading)
        self.rollout: Rollout | None = None
        """The rollout that is being trained on."""
        self.last_kl: float | None = None
        """KL(pi || pi_ref) of the last optimiser step, nats per token, over all its parts and ranks."""
        self._unfinished, self._agreement = False, Agreement()
        self._resumed: dict[str, Any] | None = None
        self._part_started = self._update_seconds = 0.0

    @property
    def reference(self) -> QwenVLPolicy | WithoutAdapters | None:
        """pi_ref; None where there is no KL term."""
        return self._reference.policy

    def configure_model(self) -> None:
        """Load the policy, and for training with a KL term the same weights again as the frozen reference."""
        super().configure_model()
        if self.eta > 0 and self._trainer is not None and self.trainer.training:
            assert self.policy is not None
            self._reference.load(self.policy, self.trainer)

    def on_fit_start(self) -> None:
        """Shard the reference where the policy is, and get the rollout engine ready."""
        assert self.policy is not None
        self._reference.shard(self.trainer)
        self._pending, self._sent = None, -1
        self.rollout_engine.start(self.trainer, self.policy, self.sampling)

    def teardown(self, stage: str) -> None:
        """Let the engine go."""
        self.rollout_engine.stop()

    def on_train_start(self) -> None:
        """Take up the rollout that the run was stopped in."""
        if self._resumed is not None:
            self.rollout, self._resumed = rollout_from_plain(self._resumed, self.device), None

    # ------------------------------------------------------------------------------------------------------- training

    def training_step(self, batch: Window, batch_idx: int) -> Tensor:
        """Loss of one part of a rollout; the first part brings the prompts, from which the rollout is made."""
        if batch.prompts is not None:
            self.rollout = self._roll_out(batch.prompts, batch.upcoming)
        rollout, policy = self.rollout, self.policy
        assert rollout is not None
        assert policy is not None
        self._unfinished = batch.part + 1 < batch.parts
        self._part_started = time.perf_counter()
        traversal, part = divmod(batch.part, self.trainer.accumulate_grad_batches)
        rows = self._rows(part)
        each = slice(rows[0] * rollout.group_size, (rows[-1] + 1) * rollout.group_size)
        logps_NT = completion_logps(policy, rollout.prompts, rollout.completions, rows, self.sampling.temperature)
        if traversal == 0:  # on policy: the ratio is 1 to the last bit
            old_logps_NT = logps_NT.detach()
            self._keep(old_logps_NT, each)
        else:
            assert rollout.old_logps_NT is not None
            old_logps_NT = rollout.old_logps_NT[each]
        ref_logps_NT = None if rollout.ref_logps_NT is None else rollout.ref_logps_NT[each]
        advantages_N, weights_NT = rollout.advantages_N[each], rollout.token_weights_NT[each]
        correction_NT = self._correction(rollout, each, old_logps_NT, batch)
        loss, statistics = grpo_loss(
            logps_NT, old_logps_NT, advantages_N, weights_NT, ref_logps_NT, self.eta, self.clip, correction_NT
        )
        self._log_update(loss.detach(), weights_NT.sum(), statistics, last=self._steps_after(batch))
        return self.scaled(loss)

    def _correction(self, rollout: Rollout, each: slice, logps_NT: Tensor, batch: Window) -> Tensor | None:
        """Importance weights of tokens that another engine sampled; before the first update its agreement is logged."""
        if (cap := self.rollout_engine.importance_cap) is None:
            return None
        sampled_logps_NT = rollout.completions.logps_NT[each]
        if batch.part < self.trainer.accumulate_grad_batches:
            self._agreement.add(logps_NT, sampled_logps_NT, rollout.token_weights_NT[each])
            if self._steps_after(batch):
                self.log_dict(self._agreement.take(self._gather), batch_size=1)
        return importance_weights(logps_NT, sampled_logps_NT, cap)

    def _roll_out(self, prompts: Prompts, upcoming: Prompts | None) -> Rollout:
        """Lines 2 to 14 of Algorithm 1 for this rank's prompts of the step."""
        assert self.policy is not None
        rollout = roll_out(
            self.policy,
            prompts,
            self.sampling,
            self.rewards,
            self.weighting,
            self.reference,
            progress=min(1.0, self.global_step / self.total_steps()),
            gather=self._gather,
            rank=self.global_rank,
            prompts_per_forward=max(1, len(prompts) // self.trainer.accumulate_grad_batches),
            whole=self.whole_policy,
            sampled=self._sampled(prompts, upcoming),
        )
        if self._gather(prompts.valid_B).any():  # else no clip of the step could be read
            values = rollout_statistics(rollout, self._gather)
            self.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=1)
        self.log_numbers({f"train/seconds/{phase}": value for phase, value in rollout.seconds.items()})
        return rollout

    def _sampled(self, prompts: Prompts, upcoming: Prompts | None) -> Sampled:
        """What waits for the completions, and then begins with those of the next rollout, where that is wanted."""
        waiting, self._pending = self._pending, None
        current = waiting or self._begin(prompts, self.global_step)

        def collect(prefix: Prefix) -> Completions:
            completions = current(prefix)
            if upcoming is not None:
                self._pending = self._begin(upcoming, self.global_step + self.updates_per_rollout)
            return completions

        return collect

    def _begin(self, prompts: Prompts, step: int) -> Sampled:
        """Begin with the completions of the rollout of a step, under the weights of now."""
        assert self.policy is not None
        if self._sent != self.global_step:
            self.rollout_engine.take_weights(each_weight(self.policy.model, self.trainer), self.global_step)
            self._sent = self.global_step
        generators = self._generators(len(prompts), step)
        return self.rollout_engine.begin(self.policy, prompts, self.sampling, generators)

    def _generators(self, prompts: int, step: int) -> list[torch.Generator]:
        """A generator for each of this rank's prompts, which its place in the run decides: also on other ranks."""
        first = (self.seed * 1_000_003 + step) * 1_048_583 + self.global_rank * prompts
        return [torch.Generator().manual_seed((first + place) % 2**63) for place in range(prompts)]

    def _rows(self, part: int) -> range:
        """The prompts of one part of the step."""
        assert self.rollout is not None
        size = len(self.rollout.prompts) // self.trainer.accumulate_grad_batches
        return range(part * size, (part + 1) * size)

    def _steps_after(self, batch: Window) -> bool:
        """Whether the optimiser steps after a part."""
        return (batch.part + 1) % self.trainer.accumulate_grad_batches == 0

    def _keep(self, old_logps_NT: Tensor, each: slice) -> None:
        """Remember log-probabilities before the first update, where there will be another one."""
        assert self.rollout is not None
        if self.updates_per_rollout > 1:
            if self.rollout.old_logps_NT is None:
                self.rollout.old_logps_NT = torch.zeros_like(self.rollout.completions.logps_NT)
            self.rollout.old_logps_NT[each] = old_logps_NT

    def _gather(self, values: Tensor) -> Tensor:
        """Concatenate a tensor (B,) or (N,) over the ranks."""
        if self.trainer.world_size == 1:
            return values
        gathered = self.all_gather(values)
        assert isinstance(gathered, Tensor)
        return gathered.flatten()

    def _log_update(self, loss: Tensor, weight: Tensor, statistics: dict[str, Tensor], last: bool) -> None:
        """Log the step's loss and the means of its statistics over all tokens of all parts and ranks."""
        total = self.add_up(torch.stack([loss, weight, *(weight * value for value in statistics.values())]), last)
        if total is None:
            return
        means = dict(zip(statistics, (total[2:] / total[1].clamp(min=1e-30)).unbind(), strict=True))
        if "kl" in means:
            self.last_kl = float(means["kl"])
        self.log("train/loss", total[0], prog_bar=True, batch_size=1)
        self.log_numbers({"train/eta": self.eta})
        self.log_dict({f"train/{name}": value for name, value in means.items()}, batch_size=1)

    def on_train_batch_end(self, outputs: Any, batch: Window, batch_idx: int) -> None:  # noqa: ANN401 - Lightning's hook
        """Log how long forward, backward and optimiser took, over the parts of a step."""
        self._update_seconds += time.perf_counter() - self._part_started
        if self._steps_after(batch):
            self.log_numbers({"train/seconds/update": self._update_seconds})
            self._update_seconds = 0.0

    # ---------------------------------------------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note which reference it was (it is `policy` on disk) and take every rank's unfinished rollout along."""
        super().on_save_checkpoint(checkpoint)
        if self._unfinished and self.rollout is not None:
            checkpoint["cair"]["rollouts"] = rollouts_of_all_ranks(self.rollout)
        checkpoint["cair"]["reference"] = self._reference.mark()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the reference that was loaded from `policy`, if it is the one that the run began with.

        Raises:
            ValueError: If `policy` holds other weights than when the run began, or the run was stopped within a
                rollout of another number of ranks.
        """
        super().on_load_checkpoint(checkpoint)
        if self._trainer is None or not self.trainer.training:
            return
        written = checkpoint.get("cair", {})
        self._reference.refuse_other(written)
        rollouts = written.get("rollouts")
        if rollouts is not None:
            if len(rollouts) != self.trainer.world_size:
                raise ValueError(
                    f"The run was stopped within a rollout of {len(rollouts)} ranks, and this one has "
                    f"{self.trainer.world_size}. Resume with as many devices, or from an earlier checkpoint."
                )
            self._resumed, self._unfinished = rollouts[self.global_rank], True
