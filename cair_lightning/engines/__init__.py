"""Who samples the completions of a rollout: the policy in this process, or another engine."""

from cair_lightning.engines.base import EngineError, InProcessRollouts, RolloutEngine, Sampled

__all__ = ["EngineError", "InProcessRollouts", "RolloutEngine", "Sampled"]
