"""The rewards of eq. 2 to 5 and the guard against leakage: pure functions, no input or output, no logging."""

from cair_lightning.rewards.accuracy import accuracy_reward, named_candidates, same_answer
from cair_lightning.rewards.composite import composite_reward
from cair_lightning.rewards.format import format_reward
from cair_lightning.rewards.leakage import PLACEHOLDER, LeakageLexicon
from cair_lightning.rewards.mediation import LeakagePolicy, causal_mediation, mediation_rewards

__all__ = [
    "PLACEHOLDER",
    "LeakageLexicon",
    "LeakagePolicy",
    "accuracy_reward",
    "causal_mediation",
    "composite_reward",
    "format_reward",
    "mediation_rewards",
    "named_candidates",
    "same_answer",
]
