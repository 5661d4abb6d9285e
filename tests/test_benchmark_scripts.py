"""What the scripts of speed count and compare is what they say; their timings are nobody's test."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.verifier import verify

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def as_scripts(monkeypatch) -> None:
    """They are run from their folder, and import each other by bare names."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


SIZES = (64, 2, 96, 4, 2, 1024, 32, 2, 48, 2)


@pytest.fixture
def policy() -> QwenVLPolicy:
    from shapes import Shape, build_model, processor

    made = processor()
    return QwenVLPolicy(build_model(Shape(*SIZES), made), made)


def flops_of(call) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_operations_are_those_of_the_model(policy) -> None:
    """Counted by PyTorch in an eager forward, which computes the causal half that nobody sees as well."""
    from roofline import attended, language_operations, vision_operations
    from shapes import Shape, prompts_of

    shape, prompts = Shape(*SIZES), prompts_of(policy, 192, 16, 1)
    tower = policy.model.model.visual
    tower.set_attn_implementation("eager")
    grid = torch.tensor([prompts.grids[0]])
    assert flops_of(lambda: tower(prompts.patches, grid_thw=grid)) == vision_operations(shape, 192)
    policy.model.set_attn_implementation({"text_config": "eager"})
    ids = torch.randint(0, 200, (1, 30))
    scored = flops_of(lambda: policy.model(input_ids=ids, logits_to_keep=7, use_cache=False))
    rotary = 2 * 3 * 30 * shape.hidden // shape.heads // 2  # transformers multiplies positions with frequencies; a few
    assert 0 <= scored - language_operations(shape, 30, 30 * 30, 7) <= rotary
    assert attended(4, [2, 1]) == (1 + 2 + 3 + 4) + (5 + 6) + 5


def test_dictated_completions_are_well_formed_and_of_one_length(policy) -> None:
    from shapes import dictated, prompts_of

    prompts = prompts_of(policy, 192, 32, 2)
    assert prompts.mask_BL.sum(1).tolist() == [192 + 32] * 2
    with policy.scoring(), dictated(policy, 40):
        prefix = policy.prefill(prompts)
        completions = policy.sample(prefix, 3, 40)
        verdict = verify(policy, prefix, completions, 3)
    assert completions.mask_NT.sum(1).tolist() == [40] * 6
    assert all(answer is not None for answer in verdict.answers)


def test_the_naive_verifier_and_curation_say_what_ours_say(policy) -> None:
    from dual_path import naive
    from shapes import dictated, prompts_of

    prompts = prompts_of(policy, 192, 32, 1)
    with policy.scoring(), dictated(policy, 24):
        prefix = policy.prefill(prompts)
        completions = policy.sample(prefix, 2, 24)
        verdict = verify(policy, prefix, completions, 2)
        expected = naive(policy, prompts, [completions.ids(n) for n in range(2)])
    ours = torch.cat([verdict.log_p_obs_BY, verdict.log_p_int_NY])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_plain_rows_and_a_bare_forward_have_the_same_numbers(policy) -> None:
    from grpo_step import plain_rows
    from sft_step import bare, ours, samples
    from shapes import dictated, prompts_of

    from cair_lightning.rollout import completion_logps

    prompts = prompts_of(policy, 192, 32, 2)
    with policy.scoring(), dictated(policy, 24):
        completions = policy.sample(policy.prefill(prompts), 2, 24)
        for rows in ([0, 1], [1]):
            shared = completion_logps(policy, prompts, completions, rows, 1.0)
            torch.testing.assert_close(plain_rows(policy, prompts, completions, rows, 1.0), shared, rtol=0, atol=1e-5)
        batch = samples(policy, 192, 3)
        torch.testing.assert_close(ours(policy, *batch), bare(policy, *batch), rtol=0, atol=1e-5)
