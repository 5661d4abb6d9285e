"""What is computed where and how often: chunks, references, frozen towers, clips that could not be read."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cair_lightning.losses import grpo_loss
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.rollout import RewardSettings, Rollout, completion_logps
from cair_lightning.rollout_statistics import rollout_statistics
from cair_lightning.weighting import UniformWeighting
from cair_lightning.world.tiny import build_model
from tests.policies.reference import EXAMPLES, TOLERANCE, collate, plain_logps, processor, prompt_ids
from tests.policies.taught import GONE, SAMPLING, G, rolled, taught_policy

SEEN, TOLD, WIDE = EXAMPLES


@pytest.fixture(scope="module")
def policy() -> QwenVLPolicy:
    return taught_policy()


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    return rolled()


def softmax(values: list[float]) -> list[float]:
    total = sum(map(math.exp, values))
    return [math.exp(value) / total for value in values]


def assert_list(got: Tensor, expected: list[float], tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got.double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance)


def test_the_policy_of_these_tests_is_neither_perfect_nor_hopeless(rollout) -> None:
    formed = [a is not None for a in rollout.verdict.answers]
    right = [accuracy == 1 for accuracy in rollout.rewards["accuracy"].tolist()]
    assert 0 < sum(formed) < len(formed)
    assert 0 < sum(right) < sum(formed)
    assert 0 < int(rollout.leaked_N.sum()) < sum(formed)
    assert (rollout.group_size, len(rollout.completions.ids_NT)) == (G, 3 * G)


def test_one_prompt_at_a_time_gives_what_the_whole_batch_gives(policy) -> None:
    prompts = collate([WIDE, TOLD, GONE, SEEN])
    greedy = replace(SAMPLING, temperature=0.0, max_new_tokens=12)
    whole, *chunked = (
        rolled(prompts, sampling=greedy, reference=policy, prompts_per_forward=size) for size in (None, 1, 2, 3)
    )
    close = {"rtol": 0, "atol": TOLERANCE, "equal_nan": True}
    for got in chunked:
        assert torch.equal(got.completions.ids_NT, whole.completions.ids_NT)
        assert torch.equal(got.completions.mask_NT, whole.completions.mask_NT)
        assert torch.equal(got.leaked_N, whole.leaked_N)
        assert got.verdict.texts == whole.verdict.texts
        assert got.rewards.keys() == whole.rewards.keys()
        for name in whole.rewards:
            torch.testing.assert_close(got.rewards[name], whole.rewards[name], **close)
        for name in ("lambda_B", "entropy_B", "advantages_N", "token_weights_NT", "ref_logps_NT"):
            torch.testing.assert_close(getattr(got, name), getattr(whole, name), **close)
        torch.testing.assert_close(got.completions.logps_NT, whole.completions.logps_NT, **close)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("weighting", [None, UniformWeighting()])
def test_prompts_whose_clip_could_not_be_read_weigh_nothing(policy, scale, weighting) -> None:
    prompts = collate([SEEN, GONE, TOLD, WIDE])
    got = rolled(prompts, rewards=RewardSettings(advantage_scale=scale), weighting=weighting)
    valid_N = prompts.valid_B.repeat_interleave(G)
    assert (got.token_weights_NT[~valid_N] == 0).all()
    torch.testing.assert_close(got.token_weights_NT.sum(), torch.tensor(1.0))
    assert got.lambda_B[1] == 0
    if weighting is None:
        assert_list(got.lambda_B[prompts.valid_B], softmax(got.entropy_B[prompts.valid_B].tolist()))
    for name in ("lambda_B", "entropy_B", "advantages_N", "token_weights_NT", *got.rewards):
        values = got.rewards[name] if name in got.rewards else getattr(got, name)
        assert values.isfinite().all(), name
    total = got.rewards["total"].view(4, G)
    if scale == "batch":
        std = total[prompts.valid_B].double().std()
        expected = (total - total.mean(1, keepdim=True)) / std
        assert_list(got.advantages_N, expected.flatten().tolist())
        assert abs(std - total.double().std()) > 1e-3  # else the test could not tell


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_step_without_a_single_valid_prompt_makes_no_nan(policy, scale) -> None:
    got = rolled(collate([GONE]), rewards=RewardSettings(advantage_scale=scale), reference=policy)
    assert not got.token_weights_NT.any()
    assert got.advantages_N.isfinite().all()
    logps = completion_logps(policy, got.prompts, got.completions, [0], 1.0)
    loss, _ = grpo_loss(logps, logps.detach(), got.advantages_N, got.token_weights_NT, got.ref_logps_NT, 0.04)
    loss.backward()
    assert loss == 0
    assert all(not p.grad.any() for p in policy.parameters())
    policy.zero_grad(set_to_none=True)
    assert rollout_statistics(got) == {}


def test_the_reference_of_the_same_weights_has_no_divergence(policy) -> None:
    got = rolled(reference=policy)
    torch.testing.assert_close(got.ref_logps_NT, got.completions.logps_NT, rtol=0, atol=TOLERANCE)
    logps_NT = completion_logps(policy, got.prompts, got.completions, range(3), SAMPLING.temperature)
    _, statistics = grpo_loss(
        logps_NT, logps_NT.detach(), got.advantages_N, got.token_weights_NT, got.ref_logps_NT, eta=0.04
    )
    assert abs(float(statistics["kl"])) < 1e-9
    assert float(statistics["ratio"]) == pytest.approx(1, abs=1e-6)
    assert rolled().ref_logps_NT is None


def test_log_probabilities_of_training_are_those_of_the_sampler_and_of_plain_rows(policy, rollout) -> None:
    completions = rollout.completions
    with torch.no_grad():
        logps_NT = completion_logps(policy, rollout.prompts, completions, range(3), SAMPLING.temperature)
        torch.testing.assert_close(logps_NT, completions.logps_NT, rtol=0, atol=TOLERANCE)
        for rows in ([1], [2, 0]):
            some = completion_logps(policy, rollout.prompts, completions, rows, SAMPLING.temperature)
            expected = logps_NT.view(3, G, -1)[rows].flatten(0, 1)
            torch.testing.assert_close(some, expected, rtol=0, atol=TOLERANCE)
        for n in range(0, 3 * G, 5):
            row, ids = n // G, completions.ids(n)
            before = prompt_ids(rollout.prompts, row)
            plain = plain_logps(policy, rollout.prompts, row, before, ids, SAMPLING.temperature)
            torch.testing.assert_close(logps_NT[n, : len(ids)], plain, rtol=0, atol=TOLERANCE)
            assert not logps_NT[n, len(ids) :].any()


def test_a_frozen_tower_runs_once_per_prompt_for_the_whole_step(policy) -> None:
    frozen = QwenVLPolicy(build_model(processor(), hidden=48, layers=2), processor(), freeze_vision=True)
    seen: list[int] = []
    handle = frozen.model.model.visual.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    for size in (None, 1, 2):
        seen.clear()
        prompts = collate()
        got = rolled(prompts, frozen, reference=frozen, prompts_per_forward=size)
        for rows in ([0], [1, 2]):
            completion_logps(frozen, prompts, got.completions, rows, 1.0)
        assert sum(seen) == len(prompts.patches)
    handle.remove()


def test_the_policy_is_left_in_its_mode_and_the_rollout_without_gradients(policy) -> None:
    for training in (True, False):
        got = rolled(policy=policy.train(training), reference=policy)
        assert policy.training == training
        tensors = [got.completions.logps_NT, got.advantages_N, got.ref_logps_NT, *got.rewards.values()]
        assert not any(tensor.requires_grad for tensor in tensors)
    assert set(got.seconds) == {"prefill", "generate", "verify", "reference"}
    assert all(value > 0 for value in got.seconds.values())
