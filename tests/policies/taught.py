"""A policy that has learned to answer, and its rollouts."""

import functools
from dataclasses import replace

import torch

from cair_lightning.policies.batch import Prompts
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.policies.sampling import SamplingSettings
from cair_lightning.policies.tree import Branch
from cair_lightning.prompts import reason_completion
from cair_lightning.rollout import RewardSettings, Rollout, roll_out
from cair_lightning.world.tiny import build_model
from tests.policies.reference import EXAMPLES, collate, processor

GONE = replace(EXAMPLES[0], id="gone", clip="missing.mp4")
TAUGHT = {
    "seen": ["she lost.", "she is sad", "you kept it"],  # the second one leaks
    "told": ["he won the cup 🏆", "so very happy", "he won"],
    "wide": ["the café is quiet", "she is not angry", "how odd?!"],
}
G = 6
SAMPLING = SamplingSettings(group_size=G, max_new_tokens=16, temperature=1.1)


@functools.cache
def taught_policy() -> QwenVLPolicy:
    """Knows three rationales and the answers of each prompt, well enough to be right or malformed now and then."""
    policy = QwenVLPolicy(build_model(processor(), hidden=48, layers=2), processor())
    prompts = collate()
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    end = policy.tokenizer.convert_tokens_to_ids("<|im_end|>")
    texts = [[reason_completion(z, y) for z in TAUGHT[e.id] for y in e.candidates] for e in EXAMPLES]
    trees = [[Branch(ids=[*policy.encode(text), end]) for text in group] for group in texts]
    for _ in range(60):
        optimizer.zero_grad()
        (-policy.logps(prompts, trees)[1].mean()).backward()
        optimizer.step()
    policy.zero_grad()
    return policy.eval()


def rolled(prompts: Prompts | None = None, policy: QwenVLPolicy | None = None, **changes) -> Rollout:
    """A rollout of the three examples, always from the same seed."""
    settings = {"sampling": SAMPLING, "rewards": RewardSettings()} | changes
    generator = torch.Generator().manual_seed(5)
    return roll_out(policy or taught_policy(), prompts or collate(), generator=generator, **settings)
