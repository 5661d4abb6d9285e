"""What both stages share: loading, optimiser and schedule, validation, test and prediction."""
# ruff: noqa: B008 - settings are defaults that nobody writes to

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor

from cair_lightning.clip_cache import ClipCache
from cair_lightning.datamodules.base import EmoReasonDataModule
from cair_lightning.modules.checkpoints import refuse_to_resume
from cair_lightning.modules.evaluation import EvaluationMetrics, Prediction, predict
from cair_lightning.modules.loading import PREFIX, base_folder, load_policy, refuse_other_model
from cair_lightning.modules.settings import EvaluationSettings, OptimizerSettings, PolicySettings
from cair_lightning.policies.collation import Collator, VisionSettings
from cair_lightning.policies.lora import LOW_RANK
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.sharding import optimizer_is_offloaded, whole

if TYPE_CHECKING:
    from cair_lightning.datamodules.loading import Window

BASIC_EMOTIONS = ("angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised")


class PolicyModule(LightningModule):
    """A policy that can be evaluated. `SFTModule` and `GRPOModule` add their training steps.

    Args:
        policy: Hugging Face folder or hub id of a Qwen2.5-VL checkpoint, or a `.ckpt` that one of these modules wrote.
        loading: How the checkpoint is loaded.
        vision: How clips become tokens.
        optimizer: Optimiser and schedule.
        evaluation: How samples are evaluated.
        emotions: Categories of the accuracy per emotion.
        max_tokens: Longest prompt, with its completion in SFT (4,096 in section 4.2). Nothing is truncated.
    """

    strategies: ClassVar[tuple[type[Strategy], ...]] = (SingleDeviceStrategy, DDPStrategy)

    def __init__(
        self,
        policy: str,
        loading: PolicySettings = PolicySettings(),
        vision: VisionSettings = VisionSettings(),
        optimizer: OptimizerSettings = OptimizerSettings(),
        evaluation: EvaluationSettings = EvaluationSettings(),
        emotions: Sequence[str] = BASIC_EMOTIONS,
        max_tokens: int = 4096,
    ) -> None:
        super().__init__()
        self.policy_path = policy
        self.loading, self.vision, self.evaluation = loading, vision, evaluation
        self.optimizer_settings = optimizer
        self.emotions, self.max_tokens = list(emotions), max_tokens
        self.policy: QwenVLPolicy | None = None
        self.metrics = EvaluationMetrics(self.emotions, evaluation.keyword_model)
        self.last_metrics: dict[str, float] = {}
        """What the last validation or test measured; nan where it saw nothing to measure."""
        self._stranger: str | None = None
        self._parts_sum: Tensor | None = None
        self._whole = ExitStack()

    # ------------------------------------------------------------------------------------------------------- loading

    def setup(self, stage: str) -> None:
        """Refuse other strategies, and add the emotions of the data that is evaluated to the accuracy per emotion."""
        if not isinstance(self.trainer.strategy, self.strategies):
            raise ValueError(
                f"{type(self).__name__} runs by {', '.join(s.__name__ for s in self.strategies)} (DeepSpeedStrategy is "
                f"a DDPStrategy), got {type(self.trainer.strategy).__name__}: choose another trainer.strategy."
            )
        if self.trainer.ckpt_path is not None:
            by_deepspeed = isinstance(self.trainer.strategy, DeepSpeedStrategy)
            path, trusted = Path(self.trainer.ckpt_path), self.loading.trust_checkpoint
            refuse_to_resume(path, trusted, self.trainer.world_size, by_deepspeed)
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, EmoReasonDataModule):
            further = {e.emotion for e in data.evaluated() if e.emotion is not None} - set(self.emotions)
            self.metrics = EvaluationMetrics([*self.emotions, *sorted(further)], self.evaluation.keyword_model)

    def configure_model(self) -> None:
        """Load the checkpoint; Lightning calls this more than once, inside the strategy's own context."""
        if self.policy is None:
            self.policy = load_policy(self.policy_path, self.loading, self._trainer)
            self.policy.train()

    def collator(
        self, clips: Path, teach: bool = False, kept_clips: int = 0, cache: ClipCache | None = None
    ) -> Collator:
        """The checkpoint's own processor as a collate function; loads no weights."""
        from transformers import AutoConfig, AutoProcessor

        folder = base_folder(self.policy_path, self.loading.trust_checkpoint)
        config = AutoConfig.from_pretrained(folder)
        processor = AutoProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
        return Collator(processor, config, clips, self.vision, self.max_tokens, teach, kept_clips, cache)

    def settings(self) -> dict[str, Any]:
        """Everything that decides what a result means; written next to every result."""
        own = {"max_tokens": self.max_tokens, "dtype": self.loading.dtype}
        return {**asdict(self.vision), **asdict(self.evaluation), **own}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember which checkpoint this one was trained from, and how clips were seen."""
        folder, lora = base_folder(self.policy_path, self.loading.trust_checkpoint), self.loading.lora
        checkpoint["cair"] = {"policy": folder, "vision": asdict(self.vision), "lora": lora and asdict(lora)}
        if lora is not None and "state_dict" in checkpoint:  # all else is in the folder
            checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if LOW_RANK in k}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another model with a message that names the first difference."""
        if "state_dict" not in checkpoint:  # DeepSpeed keeps the weights elsewhere and compares them itself
            return
        if self.loading.lora is not None:
            frozen = {k: v for k, v in self.state_dict().items() if k.startswith(PREFIX) and LOW_RANK not in k}
            checkpoint["state_dict"] = frozen | checkpoint["state_dict"]
        refuse_other_model(self.state_dict(), checkpoint["state_dict"], self.policy_path)

    # ------------------------------------------------------------------------------------------------------ optimiser

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own type is a union of eight shapes
        """AdamW with linear warm-up and cosine decay to 0, both per step."""
        optimizer = self._adamw()
        settings, steps = self.optimizer_settings, self.total_steps()
        rate = warmup_cosine(steps, max(1, round(settings.warmup * steps)))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _adamw(self) -> torch.optim.Optimizer:
        settings = self.optimizer_settings
        trained = [p for p in self.parameters() if p.requires_grad]
        if optimizer_is_offloaded(self.trainer):
            from deepspeed.ops.adam import DeepSpeedCPUAdam  # AdamW on the host, beside the optimizer's state

            host: torch.optim.Optimizer = DeepSpeedCPUAdam(
                trained, settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
            )
            return host
        return torch.optim.AdamW(
            trained, settings.learning_rate, settings.betas, weight_decay=settings.weight_decay, fused=True
        )

    def total_steps(self) -> int:
        """Optimiser steps of the whole run.

        Raises:
            ValueError: If the run has no end, which the schedule needs.
        """
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ValueError("The learning rate decays to the end of the run: set trainer.max_steps or max_epochs.")
        return max(1, int(steps))

    def add_up(self, values: Tensor, last: bool) -> Tensor | None:
        """Sum of a vector over the parts of an optimiser step and over the ranks; None before its last part."""
        self._parts_sum = values if self._parts_sum is None else self._parts_sum + values
        if not last:
            return None
        total, self._parts_sum = self.global_sum(self._parts_sum), None
        return total

    def scaled(self, loss: Tensor) -> Tensor:
        """A part's share of the step's loss, scaled so that parts and ranks add up.

        Lightning divides by the parts, DeepSpeed, which accumulates by itself, once more, and all strategies by the
        ranks.
        """
        parts = self.trainer.accumulate_grad_batches
        if self.trainer.strategy.handles_gradient_accumulation:
            parts *= parts
        return loss * parts * self.trainer.world_size

    def global_sum(self, value: Tensor) -> Tensor:
        """Sum of a tensor over the ranks."""
        total: Tensor = self.trainer.strategy.reduce(value.clone(), reduce_op="sum")  # it adds up in place
        return total

    # ----------------------------------------------------------------------------------------------------- evaluation

    def whole_policy(self) -> AbstractContextManager[None]:
        """Holds all of the policy's weights here while it lasts, where they are sharded over the ranks."""
        if self.policy is None or not self.loading.gather_to_sample:
            return nullcontext()
        return whole(self.policy, self._trainer)

    def _evaluation_starts(self) -> None:
        self._whole.enter_context(self.whole_policy())

    def _evaluation_ends(self) -> None:
        self._whole.close()

    on_validation_start = on_test_start = on_predict_start = _evaluation_starts
    on_validation_end = on_test_end = on_predict_end = _evaluation_ends

    def predict_step(self, batch: Window, batch_idx: int) -> list[Prediction]:
        """Answer, rationale, both beliefs, controls and rewards of every sample of a batch."""
        predictions: list[Prediction]
        if batch.recalled is not None:
            predictions = batch.recalled
        else:
            assert self.policy is not None
            assert batch.prompts is not None
            predictions = predict(self.policy, batch.prompts, self.evaluation, self._stranger)
        self._stranger = next((p.rationale for p in predictions if p.rationale is not None), self._stranger)
        return predictions

    def test_step(self, batch: Window, batch_idx: int) -> dict[str, list[Prediction]]:
        """Predict and take the `predictions` into the metrics."""
        predictions = self.predict_step(batch, batch_idx)
        self.metrics.update(predictions)
        return {"predictions": predictions}

    def validation_step(self, batch: Window, batch_idx: int) -> dict[str, list[Prediction]]:
        """As `test_step`."""
        return self.test_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics as `val/...`."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics as `test/...`."""
        self._log_metrics("test")

    def _log_metrics(self, prefix: str) -> None:
        self.last_metrics = self.metrics.compute()
        self.metrics.reset()
        self._stranger = None
        self.log_numbers({f"{prefix}/{name}": v for name, v in self.last_metrics.items() if not math.isnan(v)})

    def log_numbers(self, numbers: dict[str, float]) -> None:
        """Log what is the same on all ranks; as float32, for under bf16-true Lightning would round them to bfloat16."""
        self.log_dict({name: torch.tensor(v, dtype=torch.float32) for name, v in numbers.items()}, batch_size=1)


def warmup_cosine(steps: int, warmup: int) -> Callable[[int], float]:
    """Factor of the learning rate at each step: linear up to 1 over `warmup` steps, then half a cosine down to 0.

    >>> rate = warmup_cosine(steps=110, warmup=10)
    >>> [round(rate(step), 2) for step in (0, 4, 9, 10, 60, 110)]
    [0.1, 0.5, 1.0, 1.0, 0.5, 0.0]
    """

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return rate
