"""What a rollout engine is, and the one that needs nothing: the policy itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from lightning import Trainer
from torch import Tensor

from cair_lightning.policies.batch import Prompts
from cair_lightning.policies.prefix import Prefix
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.policies.sampling import Completions, Randomness, SamplingSettings

Sampled = Callable[[Prefix], Completions]
"""Waits for the completions of prompts that have been run through the policy meanwhile."""


class EngineError(RuntimeError):
    """An engine cannot be used, or cannot go on. Says which one, why, and what to do."""


class RolloutEngine(ABC):
    """Samples G completions of each prompt under the policy's present weights.

    Every rank has its own instance. The verifier, the reference and the update are always the trainer's.
    """

    importance_cap: float | None = None
    """Largest weight of a token whose probability differs between engine and trainer (truncated importance sampling);
    None where the two are the same."""

    def start(self, trainer: Trainer, policy: QwenVLPolicy, sampling: SamplingSettings) -> None:  # noqa: B027
        """Get ready, before the first step; every rank calls it."""

    def stop(self) -> None:  # noqa: B027 - an engine may need nothing of it
        """Let go of everything; also called after a failure."""

    def take_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:  # noqa: B027
        """Sample with these weights from now on.

        Every rank calls it before a rollout. Either all ranks go through the weights or none: together they may hold
        one copy.

        Args:
            weights: Name and whole value of each weight of the Hugging Face model, one at a time; copy what is kept.
            version: The optimiser's step.
        """

    @abstractmethod
    def begin(
        self,
        policy: QwenVLPolicy,
        prompts: Prompts,
        sampling: SamplingSettings,
        randomness: Randomness | None,
    ) -> Sampled:
        """Begin to sample.

        Args:
            policy: The policy.
            prompts: This rank's prompts.
            sampling: How to sample.
            randomness: Source of randomness.

        Returns:
            What to call for the completions, once the prompts have been run.
        """


class InProcessRollouts(RolloutEngine):
    """The policy samples from the prompts' keys and values, which the verifier then goes on with: nothing to send."""

    def begin(
        self,
        policy: QwenVLPolicy,
        prompts: Prompts,
        sampling: SamplingSettings,
        randomness: Randomness | None,
    ) -> Sampled:
        """See `RolloutEngine`."""

        def sampled(prefix: Prefix) -> Completions:
            size, limit = sampling.group_size, sampling.max_new_tokens
            return policy.sample(prefix, size, limit, sampling.temperature, randomness)

        return sampled
