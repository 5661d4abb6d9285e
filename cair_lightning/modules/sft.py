"""Stage 1: supervised fine-tuning (section 4.2, A.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor

from cair_lightning.losses import sft_loss, token_weights
from cair_lightning.modules.base import PolicyModule
from cair_lightning.policies.tree import Branch
from cair_lightning.sharding import shard_by_fsdp

if TYPE_CHECKING:
    from cair_lightning.datamodules.loading import Window


class SFTModule(PolicyModule):
    """Imitate rationales and answers: cross-entropy on completion tokens only.

    What differs from the paper: a fraction of the samples (`data.direct_fraction`) is taught in the direct form under
    its own instruction, because path A of stage 2 reads its beliefs from that form. The loss is the mean over the
    target tokens of the whole optimiser step, over all ranks and accumulated parts, so that it does not depend on how
    they are cut.
    """

    strategies: ClassVar[tuple[type[Strategy], ...]] = (*PolicyModule.strategies, ModelParallelStrategy)

    def configure_model(self) -> None:
        """Load the policy; FSDP2 shards it here, after every rank has loaded all of it."""
        fresh = self.policy is None
        super().configure_model()
        if fresh and self._trainer is not None and isinstance(self.trainer.strategy, ModelParallelStrategy):
            assert self.policy is not None
            assert self.device_mesh is not None
            shard_by_fsdp(self.policy, self.device_mesh)

    def training_step(self, batch: Window, batch_idx: int) -> Tensor:
        """Cross-entropy of one part of a step, in nats per target token of the step.

        Logs it once per step, as `train/loss` for whoever monitors a loss and as `train/nll` for what it is.
        """
        prompts, policy = batch.prompts, self.policy
        assert policy is not None
        assert prompts is not None
        assert prompts.completions is not None
        packed, logps_M = policy(prompts, [[Branch(ids=ids)] for ids in prompts.completions])
        lengths_B = torch.tensor([len(ids) for ids in prompts.completions], device=self.device)
        logps_BT = packed.per_token(logps_M, range(len(prompts)), int(lengths_B.max()))
        trained_BT = torch.arange(logps_BT.shape[1], device=self.device) < lengths_B[:, None]
        trained_BT &= prompts.valid_B[:, None]
        n_tokens = int(self.global_sum(torch.tensor(batch.n_targets, device=self.device)))
        weights_BT = token_weights(trained_BT, "token", logps_BT.shape[1], len(prompts), n_tokens)
        loss = sft_loss(logps_BT, weights_BT)
        total = self.add_up(loss.detach()[None], last=batch.part + 1 == batch.parts)
        if total is not None:
            self.log("train/loss", total[0], prog_bar=True, batch_size=1)
            self.log("train/nll", total[0], batch_size=1)
        return self.scaled(loss)
