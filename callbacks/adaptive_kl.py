"""Keeps the policy at a chosen distance from the reference."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer

from cair_lightning.modules.grpo import GRPOModule


class AdaptiveKL(Callback):
    """Adjust eta, the weight of the KL term, towards a target KL (section 4.2: "dynamic adjustment").

    A proportional controller, once per optimiser step: eta grows by up to `rate` of itself while the KL is above the
    target, and shrinks while it is below; the relative error is clipped to 1, so that no step changes eta by more. Its
    value survives a resume.

    Args:
        target: KL(pi || pi_ref) to keep, in nats per token.
        rate: Largest relative change of eta in one step.
        minimum: Least eta; never 0, from which it could not grow again.
        maximum: Largest eta.
    """

    def __init__(self, target: float = 0.05, rate: float = 0.05, minimum: float = 1e-3, maximum: float = 1.0) -> None:
        if not (target > 0 and 0 < rate < 1 and 0 < minimum <= maximum):
            raise ValueError(
                f"expected target > 0, 0 < rate < 1, 0 < minimum <= maximum; got {target}, {rate}, {minimum}, {maximum}"
            )
        self.target, self.rate, self.minimum, self.maximum = target, rate, minimum, maximum
        self._eta: float | None = None
        self._step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse runs that have no KL term to control."""
        if stage == "fit" and (not isinstance(pl_module, GRPOModule) or pl_module.eta == 0):
            raise TypeError(
                "AdaptiveKL controls the eta of a GRPOModule, and eta must not be 0; remove it from trainer.callbacks."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up the eta of a resumed run."""
        assert isinstance(pl_module, GRPOModule)
        self._step = trainer.global_step
        if self._eta is not None:
            pl_module.eta = self._eta

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's hook
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Adjust once per optimiser step."""
        assert isinstance(pl_module, GRPOModule)
        if trainer.global_step == self._step or pl_module.last_kl is None:
            return
        self._step = trainer.global_step
        error = max(-1.0, min(1.0, pl_module.last_kl / self.target - 1.0))
        pl_module.eta = min(self.maximum, max(self.minimum, pl_module.eta * (1.0 + self.rate * error)))
        self._eta = pl_module.eta

    def state_dict(self) -> dict[str, Any]:
        """The eta that the run has come to."""
        return {"eta": self._eta}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up again."""
        self._eta = state_dict["eta"]
