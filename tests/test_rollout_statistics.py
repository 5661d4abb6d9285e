"""What is logged of a rollout, recomputed by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.rollout import Rollout
from cair_lightning.rollout_statistics import rollout_statistics
from tests.policies.reference import EXAMPLES, collate
from tests.policies.taught import GONE, SAMPLING, G, rolled, taught_policy

SEEN, TOLD, WIDE = EXAMPLES


@pytest.fixture(scope="module")
def policy() -> QwenVLPolicy:
    return taught_policy()


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    return rolled()


def of_two_ranks(values: Tensor) -> Tensor:
    """What a gather over two ranks with the same prompts would return."""
    return torch.cat([values, values])


@pytest.mark.parametrize("gather", [lambda x: x, of_two_ranks])
def test_statistics_by_hand(policy, gather: Callable[[Tensor], Tensor]) -> None:
    prompts = collate([SEEN, GONE, TOLD, WIDE])
    rollout = rolled(prompts)
    got = {name: float(value) for name, value in rollout_statistics(rollout, gather).items()}
    kept = [n for n in range(4 * G) if n // G != 1]
    ranks = len(gather(torch.zeros(1)))
    for name, values_N in rollout.rewards.items():
        values = values_N[kept].double().repeat(ranks)
        assert got[f"reward/{name}/mean"] == pytest.approx(float(values.mean()), abs=1e-5)
        assert got[f"reward/{name}/std"] == pytest.approx(float(values.std()), abs=1e-5)
    groups = [rollout.rewards["total"][b * G : (b + 1) * G].tolist() for b in (0, 2, 3)]
    assert got["zero_variance_groups"] == pytest.approx(sum(max(g) - min(g) < 1e-6 for g in groups) / 3)
    lengths = [len(rollout.completions.ids(n)) for n in kept]
    assert got["completion_length"] == pytest.approx(sum(lengths) / len(kept))
    cut = [
        lengths[i] == SAMPLING.max_new_tokens and bool(rollout.completions.truncated_N[n]) for i, n in enumerate(kept)
    ]
    assert got["truncated"] == pytest.approx(sum(cut) / len(kept))
    formed = [n for n in kept if rollout.verdict.answers[n] is not None]
    assert got["leak_rate"] == pytest.approx(sum(bool(rollout.leaked_N[n]) for n in formed) / len(formed))
    lambdas = rollout.lambda_B[[0, 2, 3]].double()
    assert got["lambda/min"] == pytest.approx(float(lambdas.min()))
    assert got["lambda/max"] == pytest.approx(float(lambdas.max()))
    assert got["lambda/std"] == pytest.approx(float(lambdas.std(correction=0)), abs=1e-6)
    bits = rollout.entropy_B[[0, 2, 3]].double().mean() / math.log(2)
    assert got["entropy_bits"] == pytest.approx(float(bits), abs=1e-5)


def test_groups_of_equal_rewards_and_missing_rationales_are_counted(policy) -> None:
    greedy = replace(SAMPLING, temperature=0.0, max_new_tokens=2)  # cut off, and the same for the whole group
    got = rollout_statistics(rolled(sampling=greedy))
    assert float(got["zero_variance_groups"]) == 1
    assert float(got["truncated"]) == 1
    assert "leak_rate" not in got
