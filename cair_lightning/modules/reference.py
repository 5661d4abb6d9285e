"""pi_ref, the policy that training began with: loaded, sharded and recognised after a resume."""

from __future__ import annotations

from typing import Any

from lightning import Trainer

from cair_lightning.modules.loading import fingerprint, load_policy
from cair_lightning.modules.settings import PolicySettings
from cair_lightning.policies.lora import WithoutAdapters
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.sharding import is_sharded, shard_reference


class Reference:
    """Holds the reference policy outside of the module tree: as a submodule it would be optimised, sharded and saved.

    Args:
        path: See `PolicyModule`.
        settings: See `PolicyModule`.
    """

    def __init__(self, path: str, settings: PolicySettings) -> None:
        self.path, self.settings = path, settings
        self.policy: QwenVLPolicy | WithoutAdapters | None = None
        self._engine: object = None
        self._mark: str | None = None

    def load(self, policy: QwenVLPolicy, trainer: Trainer) -> None:
        """Load the weights again, frozen; of a policy with adapters it is the policy without them."""
        if self.policy is not None:
            return
        if self.settings.lora is not None:
            self.policy = WithoutAdapters(policy)
            return
        loaded = load_policy(self.path, self.settings, trainer).eval().requires_grad_(False)
        if not is_sharded(trainer):
            strategy = trainer.strategy
            strategy.precision_plugin.convert_module(loaded).to(strategy.root_device)  # in place, both
        self.policy = loaded

    def shard(self, trainer: Trainer) -> None:
        """Fetch its weights by hooks of its own, where the policy's are sharded."""
        if isinstance(self.policy, QwenVLPolicy) and is_sharded(trainer) and self._engine is None:
            self._engine = shard_reference(self.policy, trainer)

    def mark(self) -> str | None:
        """What a checkpoint notes of it; None of adapters, whose checkpoint names the folder they belong to."""
        if self._mark is None and isinstance(self.policy, QwenVLPolicy):
            self._mark = fingerprint(self.policy)
        return self._mark

    def refuse_other(self, notes: dict[str, Any]) -> None:
        """Check that a run goes on with the reference that it began with.

        Raises:
            ValueError: If `path` holds other weights than then.
        """
        if notes.get("reference") not in (None, self.mark()):
            raise ValueError(
                f"The weights at model.policy ({self.path}) are not those that the run began with, and they are its "
                "reference policy. Restore them, or start anew without --ckpt_path."
            )
