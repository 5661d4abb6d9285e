"""Stage 2: GRPO with the dual-path verifier (Algorithm 1)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cair_lightning.losses import grpo_loss
from cair_lightning.modules.base import BASIC_EMOTIONS, PolicyModule
from cair_lightning.modules.loading import fingerprint, load_policy
from cair_lightning.modules.settings import EvaluationSettings, OptimizerSettings, PolicySettings
from cair_lightning.policies.collation import VisionSettings
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.rollout import RewardSettings, Rollout, SamplingSettings, completion_logps, roll_out
from cair_lightning.rollout_statistics import rollout_statistics
from cair_lightning.weighting import CognitiveLoadWeighting, Weighting

if TYPE_CHECKING:
    from cair_lightning.datamodules.loading import Window


class GRPOModule(PolicyModule):
    """Maximise E[ratio * A - eta * KL(pi || pi_ref)] over groups of completions that the policy itself judges.

    `policy` is stage 1's checkpoint; it is both where training starts and the frozen reference, also after a resume. One
    rollout serves `updates_per_rollout` optimiser steps; on policy (1, the default) the ratio is exactly 1.

    What differs from the paper: R_CMR is clipped and malformed completions get its floor, and the std that divides the
    advantages has a floor (see `RewardSettings`, docs/decisions.md).

    Args:
        policy: See `PolicyModule`; stage 1's checkpoint.
        eta: Initial weight of the KL term (0.04 in section 4.2); the `AdaptiveKL` callback adjusts it. 0 needs no
            reference and loads none.
        clip: Clip of the ratio, 1 - clip to 1 + clip; None is the letter of Algorithm 1.
        updates_per_rollout: Optimiser steps per rollout.
        sampling: How completions are sampled.
        rewards: What is rewarded and how advantages are scaled.
        weighting: Where lambda comes from: CLO (eq. 6), uniform or a curriculum.
        seed: Seed of sampling.
        loading: See `PolicyModule`.
        vision: See `PolicyModule`.
        optimizer: See `PolicyModule`; the learning rate of stage 2 is 1e-6.
        evaluation: See `PolicyModule`.
        emotions: See `PolicyModule`.
        max_tokens: See `PolicyModule`.
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
        seed: int = 0,
        loading: PolicySettings = PolicySettings(),
        vision: VisionSettings = VisionSettings(),
        optimizer: OptimizerSettings = OptimizerSettings(learning_rate=1e-6),
        evaluation: EvaluationSettings = EvaluationSettings(),
        emotions: Sequence[str] = BASIC_EMOTIONS,
        max_tokens: int = 4096,
    ) -> None:
        super().__init__(policy, loading, vision, optimizer, evaluation, emotions, max_tokens)
        self.eta, self.clip, self.updates_per_rollout, self.seed = eta, clip, updates_per_rollout, seed
        self.sampling, self.rewards, self.weighting = sampling, rewards, weighting
        self.reference: QwenVLPolicy | None = None
        self.rollout: Rollout | None = None
        """The rollout that is being trained on."""
        self.last_kl: float | None = None
        """KL(pi || pi_ref) of the last step, nats per token, over all ranks."""
        self._update_started = 0.0

    def configure_model(self) -> None:
        """Load the policy, and for training with a KL term the same weights again as the frozen reference."""
        super().configure_model()
        if self.reference is None and self.eta > 0 and self._trainer is not None and self.trainer.training:
            self.reference = load_policy(self.policy_path, self.loading, self.trainer).eval().requires_grad_(False)

    # ------------------------------------------------------------------------------------------------------- training

    def training_step(self, batch: Window, batch_idx: int) -> Tensor:
        """Loss of one part of a rollout; the first part brings the prompts, from which the rollout is made."""
        if batch.prompts is not None:
            self.rollout = self._roll_out(batch)
        rollout, policy = self.rollout, self.policy
        assert rollout is not None and policy is not None
        self._update_started = time.perf_counter()
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
        loss, statistics = grpo_loss(logps_NT, old_logps_NT, advantages_N, weights_NT, ref_logps_NT, self.eta, self.clip)
        self._log_update(statistics, loss)
        # The sum over parts and ranks is the step's loss; Lightning divides by the parts, DDP by the ranks.
        return loss * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def _roll_out(self, batch: Window) -> Rollout:
        """Lines 2 to 14 of Algorithm 1 for this rank's prompts of the step."""
        assert self.policy is not None and batch.prompts is not None
        generator = torch.Generator(self.device).manual_seed(self._draw_seed())
        rollout = roll_out(
            self.policy,
            batch.prompts,
            self.sampling,
            self.rewards,
            self.weighting,
            self.reference,
            generator,
            progress=self.global_step / max(1, int(self.trainer.estimated_stepping_batches)),
            gather=self._gather,
            rank=self.global_rank,
            prompts_per_forward=max(1, len(batch.prompts) // self.trainer.accumulate_grad_batches),
            lockstep=bool(getattr(self.trainer.strategy, "zero_stage_3", False)),
        )
        values = rollout_statistics(rollout, self._gather)
        self.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=len(batch.prompts))
        self.log_dict({f"train/seconds/{phase}": value for phase, value in rollout.seconds.items()}, batch_size=1)
        return rollout

    def _draw_seed(self) -> int:
        """A seed for each rollout of each rank: the same after a resume as without one."""
        return ((self.seed * 1_000_003 + self.global_step) * 4_099 + self.global_rank) % 2**63

    def _rows(self, part: int) -> range:
        """The prompts of one part of the step."""
        assert self.rollout is not None
        size = len(self.rollout.prompts) // self.trainer.accumulate_grad_batches
        return range(part * size, (part + 1) * size)

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
        gathered: Tensor = self.all_gather(values)
        return gathered.flatten()

    def _log_update(self, statistics: dict[str, Tensor], loss: Tensor) -> None:
        if "kl" in statistics:
            self.last_kl = float(self.trainer.strategy.reduce(statistics["kl"].detach(), reduce_op="mean"))
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=1)
        self.log("train/eta", self.eta, batch_size=1)
        self.log_dict({f"train/{name}": value for name, value in statistics.items()}, batch_size=1)

    def on_train_batch_end(self, outputs: Any, batch: Window, batch_idx: int) -> None:  # noqa: ANN401 - Lightning's hook
        """Log how long forward, backward and optimiser took."""
        self.log("train/seconds/update", time.perf_counter() - self._update_started, batch_size=1)

    # ---------------------------------------------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the reference out (it is `policy` on disk) and take an unfinished rollout along."""
        super().on_save_checkpoint(checkpoint)
        if self.reference is not None:
            checkpoint["cair"]["reference"] = fingerprint(self.reference)
            checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith("reference.")}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the reference that was loaded from `policy`, if it is the one that the run began with.

        Raises:
            ValueError: If `policy` holds other weights than when the run began.
        """
        super().on_load_checkpoint(checkpoint)
        if self.reference is None:
            return
        written = checkpoint.get("cair", {}).get("reference")
        if written is not None and written != fingerprint(self.reference):
            raise ValueError(f"The weights at model.policy ({self.policy_path}) are not those the run began with, and they are its reference policy. Restore them.")
        checkpoint["state_dict"] |= {k: v for k, v in self.state_dict().items() if k.startswith("reference.")}
