"""Everything behind the verdict of a rollout, recomputed by hand."""

import math

import pytest
import torch
from torch import Tensor

from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.rewards import LeakageLexicon, accuracy_reward
from cair_lightning.rollout import RewardSettings, Rollout
from cair_lightning.verifier import verify
from cair_lightning.weighting import CurriculumWeighting, UniformWeighting
from tests.policies.reference import EXAMPLES, TOLERANCE
from tests.policies.taught import SAMPLING, G, rolled, taught_policy

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


def beliefs_in_truth(rollout: Rollout, log_p_NY: Tensor) -> list[float]:
    group = len(log_p_NY) // len(rollout.prompts)
    examples = rollout.prompts.examples
    return [float(log_p_NY[n, (e := examples[n // group]).candidates.index(e.answer)]) for n in range(len(log_p_NY))]


def clipped(value: float, bound: float) -> float:
    return max(-bound, min(bound, value))


def softmax(values: list[float]) -> list[float]:
    total = sum(map(math.exp, values))
    return [math.exp(value) / total for value in values]


def assert_list(got: Tensor, expected: list[float], tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got.double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance)


def test_rewards_by_hand(rollout) -> None:
    answers, examples = rollout.verdict.answers, [e for e in EXAMPLES for _ in range(G)]
    obs, after = (beliefs_in_truth(rollout, p) for p in (rollout.verdict.log_p_obs_BY, rollout.verdict.log_p_int_NY))
    mediation = [-5.0 if answers[n] is None else clipped(after[n] - obs[n // G], 5.0) for n in range(3 * G)]
    accuracy = [accuracy_reward(a and a.answer, e) for a, e in zip(answers, examples, strict=True)]
    form = [float(a is not None) for a in answers]
    entropies = [-sum(p.exp() * p for p in row if p > -math.inf).item() for row in rollout.verdict.log_p_obs_BY]
    weights = softmax(entropies)
    assert_list(rollout.rewards["accuracy"], accuracy)
    assert_list(rollout.rewards["format"], form)
    assert_list(rollout.rewards["mediation"], mediation)
    assert_list(rollout.entropy_B, entropies)
    assert_list(rollout.lambda_B, weights)
    assert_list(
        rollout.rewards["total"], [accuracy[n] + form[n] + weights[n // G] * mediation[n] for n in range(3 * G)]
    )


def test_weights_of_the_rewards_and_of_the_prompts(policy) -> None:
    rewards = RewardSettings(alpha=0.5, beta=0.25, clip=None)
    got = rolled(rewards=rewards, weighting=UniformWeighting())
    parts = got.rewards
    assert got.lambda_B.tolist() == [1, 1, 1]
    expected = 0.5 * parts["accuracy"] + 0.25 * parts["format"] + parts["mediation"]
    torch.testing.assert_close(parts["total"], expected)


def test_advantages_by_hand(policy, rollout) -> None:
    total = rollout.rewards["total"].double().view(3, G)
    for scale, floor in (("group", 0.1), ("group", 5.0), ("batch", 0.1), ("batch", 9.0), ("none", 0.1)):
        got = rolled(rewards=RewardSettings(advantage_scale=scale, std_floor=floor))
        divisors = {"group": total.std(1, keepdim=True), "batch": total.std(), "none": torch.tensor(1.0)}
        divisor = divisors[scale] if scale == "none" else divisors[scale].clamp(min=floor)
        expected = (total - total.mean(1, keepdim=True)) / divisor
        assert_list(got.advantages_N, expected.flatten().tolist())


def test_token_weights_by_hand(policy) -> None:
    for name in ("sequence", "token", "constant"):
        got = rolled(rewards=RewardSettings(normalisation=name))
        lengths = got.completions.mask_NT.sum(1).tolist()
        assert len(set(lengths)) > 1
        weight = {
            "sequence": [1 / (3 * G * length) for length in lengths],
            "token": [1 / sum(lengths)] * 3 * G,
            "constant": [1 / (3 * G * SAMPLING.max_new_tokens)] * 3 * G,
        }[name]
        expected = [[weight[n] if step < lengths[n] else 0.0 for step in range(max(lengths))] for n in range(3 * G)]
        torch.testing.assert_close(got.token_weights_NT, torch.tensor(expected))


def test_lambda_and_token_weights_are_computed_over_all_ranks(policy, rollout) -> None:
    gathered = 0

    def gather(values: Tensor) -> Tensor:
        nonlocal gathered
        gathered += 1
        return torch.cat([torch.flip(values, [0]), values])  # the other rank has the prompts in another order

    other = rolled(gather=gather, rank=1)
    assert gathered
    assert_list(other.lambda_B, (rollout.lambda_B / 2).tolist())
    assert_list(rolled(gather=gather, rank=0).lambda_B, (rollout.lambda_B.flip(0) / 2).tolist())
    for name in ("sequence", "token", "constant"):
        settings = RewardSettings(normalisation=name)
        alone, shared = (rolled(rewards=settings, gather=g) for g in (lambda x: x, of_two_ranks))
        torch.testing.assert_close(shared.token_weights_NT, alone.token_weights_NT / 2)


def test_the_std_of_the_batch_is_that_of_all_ranks(policy) -> None:
    settings = RewardSettings(advantage_scale="batch")
    got = rolled(rewards=settings, gather=of_two_ranks)
    total = got.rewards["total"].double()
    expected = (total.view(3, G) - total.view(3, G).mean(1, keepdim=True)) / torch.cat([total, total]).std()
    assert_list(got.advantages_N, expected.flatten().tolist())


def test_a_curriculum_reads_the_stored_entropies_in_nats_and_the_progress(policy) -> None:
    """Stored are 1, 0.25 and 2 bits, and at most log2(3), 1 and log2(5) are possible."""
    curriculum = CurriculumWeighting(start=0.5, full_at=1.0)
    assert rolled(weighting=curriculum).lambda_B.tolist() == [0, 1, 0]
    assert rolled(weighting=curriculum, progress=0.5).lambda_B.tolist() == [1, 1, 0]
    assert rolled(weighting=curriculum, progress=1.0).lambda_B.tolist() == [1, 1, 1]


def test_leaks_are_found_and_masked_beliefs_are_those_of_the_masked_rationale(policy, rollout) -> None:
    lexicon, answers = LeakageLexicon(), rollout.verdict.answers
    candidates = [e.candidates for e in EXAMPLES for _ in range(G)]
    leaks = [a is not None and lexicon.leaks(a.rationale, candidates[n]) for n, a in enumerate(answers)]
    assert rollout.leaked_N.tolist() == leaks
    with policy.scoring():
        prefix = policy.prefill(rollout.prompts)
        rewrites = {"masked": lambda z, n: lexicon.mask(z, candidates[n])}
        every = verify(policy, prefix, rollout.completions, G, rewrites).rewritten["masked"]
    masked, raw = rollout.verdict.rewritten["masked"], rollout.verdict.log_p_int_NY
    torch.testing.assert_close(masked[leaks], every[leaks], rtol=0, atol=TOLERANCE)
    clean = [not leak for leak in leaks]
    assert torch.equal(masked[clean].nan_to_num(9.0), raw[clean].nan_to_num(9.0))
    assert (masked[leaks] - raw[leaks]).abs().nan_to_num(0).max() > 1e-3


def test_leakage_policies_by_hand(policy, rollout) -> None:
    answers, leaked = rollout.verdict.answers, rollout.leaked_N.tolist()
    obs = beliefs_in_truth(rollout, rollout.verdict.log_p_obs_BY)
    after, masked = (
        beliefs_in_truth(rollout, p) for p in (rollout.verdict.log_p_int_NY, rollout.verdict.rewritten["masked"])
    )

    def expected(beliefs: list[float], penalty: float = 0.0, bound: float = 0.5) -> list[float]:
        ratios = [clipped(beliefs[n] - obs[n // G], bound) - penalty * leaked[n] for n in range(3 * G)]
        return [-bound if answers[n] is None else max(-bound, ratios[n]) for n in range(3 * G)]

    for leakage, values in (("raw", expected(after)), ("masked", expected(masked)), ("penalty", expected(after, 0.3))):
        for score in (True, False):
            settings = RewardSettings(leakage=leakage, leakage_penalty=0.3, clip=0.5, score_masked=score)
            parts = rolled(rewards=settings).rewards
            assert_list(parts["mediation"], values)
            assert ("mediation_masked" in parts) == (score or leakage == "masked")
            if score:
                assert_list(parts["mediation_masked"], expected(masked))


def test_masked_rationales_are_scored_only_where_asked_for(policy) -> None:
    assert RewardSettings().score_masked
    for settings in (RewardSettings(score_masked=False), RewardSettings(mediation=False)):
        assert rolled(rewards=settings).verdict.rewritten == {}


def test_without_mediation_the_reward_is_accuracy_and_format(policy, rollout) -> None:
    got = rolled(rewards=RewardSettings(mediation=False))
    assert got.rewards.keys() == {"accuracy", "format", "total"}
    torch.testing.assert_close(got.rewards["total"], got.rewards["accuracy"] + got.rewards["format"])
    assert got.verdict.texts == rollout.verdict.texts
    torch.testing.assert_close(got.lambda_B, rollout.lambda_B)
