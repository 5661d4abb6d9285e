import pytest
import torch
from torch import nn

from cair_lightning.policies.decoding import PATIENCE
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.policies.sampling import Completions, draw
from cair_lightning.policies.tree import Branch
from cair_lightning.world.tiny import build_model
from tests.policies.forced import dictated
from tests.policies.reference import (
    EXAMPLES,
    TOLERANCE,
    build_policy,
    collate,
    plain_logits,
    plain_logps,
    processor,
    prompt_ids,
    shared_policy,
)

SEEN, TOLD, WIDE = EXAMPLES
STEPS = 7


def token(name: str) -> int:
    return processor().tokenizer.convert_tokens_to_ids(name)


def biased(policy: QwenVLPolicy, favours: dict[int, float]) -> QwenVLPolicy:
    """The policy with something added to the logits of some tokens."""
    head = nn.Linear(*reversed(policy.model.lm_head.weight.shape))
    head.weight = policy.model.lm_head.weight
    nn.init.zeros_(head.bias)
    for index, favour in favours.items():
        head.bias.data[index] = favour
    policy.model.lm_head = head
    return policy


def sampled(policy, prompts, group=1, steps=STEPS, seed=0, **options) -> Completions:
    generator = torch.Generator().manual_seed(seed)
    with policy.scoring():
        return policy.sample(policy.prefill(prompts), group, steps, generator=generator, **options)


@pytest.mark.parametrize("attention", ["cascade", "dense", "flex"])
def test_greedy_steps_are_the_likeliest_tokens_of_a_teacher_forced_row(attention) -> None:
    policy, prompts = build_policy(attention), collate()
    got = sampled(policy, prompts, temperature=0.0)
    for row in range(len(EXAMPLES)):
        ids, before = got.ids(row), prompt_ids(prompts, row)
        assert len(ids) > 2
        with torch.no_grad():
            logits = plain_logits(policy, prompts, row, [*before, *ids])[len(before) - 1 : -1]
        assert logits.masked_fill(policy.banned_V, -torch.inf).argmax(-1).tolist() == ids
        expected = logits.log_softmax(-1)[torch.arange(len(ids)), ids]
        torch.testing.assert_close(got.logps_NT[row, : len(ids)], expected, rtol=1e-6, atol=TOLERANCE)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_log_probabilities_of_the_sampler_are_those_of_training_and_of_plain_rows(temperature) -> None:
    policy, prompts, group = shared_policy(), collate(), 3
    got = sampled(policy, prompts, group, temperature=temperature)
    trees = [[Branch(ids=got.ids(b * group + g)) for g in range(group)] for b in range(len(EXAMPLES))]
    with torch.no_grad():
        packed, logps_M = policy.logps(prompts, trees, temperature=temperature)
        trained_NT = packed.per_token(logps_M, range(len(EXAMPLES) * group), got.ids_NT.shape[1])
        torch.testing.assert_close(got.logps_NT, trained_NT, rtol=1e-6, atol=TOLERANCE)
        for n in range(len(EXAMPLES) * group):
            row = n // group
            plain = plain_logps(policy, prompts, row, prompt_ids(prompts, row), got.ids(n), temperature)
            torch.testing.assert_close(got.logps_NT[n, : len(plain)], plain, rtol=1e-6, atol=TOLERANCE)


def test_left_padding_changes_nothing() -> None:
    policy = shared_policy()
    together = sampled(policy, collate(), temperature=0.0)
    for row, example in enumerate(EXAMPLES):
        alone = sampled(policy, collate([example]), temperature=0.0)
        assert together.ids(row) == alone.ids(0)
        size = len(alone.ids(0))
        torch.testing.assert_close(together.logps_NT[row, :size], alone.logps_NT[0], rtol=1e-6, atol=TOLERANCE)


def test_a_group_is_sampled_from_its_own_prompt() -> None:
    """Greedy copies of a prompt are equal, and lie next to each other."""
    got = sampled(shared_policy(), collate(), 3, temperature=0.0)
    single = sampled(shared_policy(), collate(), 1, temperature=0.0)
    assert [got.ids(n) for n in range(9)] == [single.ids(n // 3) for n in range(9)]
    assert len({tuple(single.ids(n)) for n in range(3)}) == 3


def test_the_generator_decides_and_nothing_else() -> None:
    policy, prompts = shared_policy(), collate()
    torch.manual_seed(0)
    first = sampled(policy, prompts, 4, seed=5)
    state = torch.get_rng_state()
    assert torch.equal(sampled(policy, prompts, 4, seed=5).ids_NT, first.ids_NT)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(sampled(policy, prompts, 4, seed=6).ids_NT, first.ids_NT)
    assert len({tuple(first.ids(n)) for n in range(12)}) == 12
    assert torch.equal(
        sampled(policy, prompts, temperature=0.0, seed=1).ids_NT, sampled(policy, prompts, temperature=0.0).ids_NT
    )


def test_with_a_generator_of_its_own_a_prompt_is_answered_alike_in_any_batch() -> None:
    policy, prompts = shared_policy(), collate()

    def answers(rows: list[int]) -> list[list[int]]:
        generators = [torch.Generator().manual_seed(row) for row in rows]
        with policy.scoring():
            got = policy.sample(policy.prefill(prompts.select(rows)), 2, STEPS, generator=generators)
        return [got.ids(n) for n in range(2 * len(rows))]

    whole = answers([0, 1, 2])
    assert answers([2, 0]) == [*whole[4:], *whole[:2]]
    assert len(set(map(tuple, whole))) == 6
    with pytest.raises(ValueError, match="expected a generator for each of 3 prompts, got 1"), policy.scoring():
        policy.sample(policy.prefill(prompts), 2, STEPS, generator=[torch.Generator()])


@pytest.mark.parametrize("stop", ["<|im_end|>", "<|endoftext|>"])
def test_either_end_of_text_token_ends_a_completion(stop) -> None:
    policy, prompts = build_policy(), collate()
    policy = biased(policy, {token(stop): 10.0})
    pad = processor().tokenizer.pad_token_id
    got = sampled(policy, prompts, 8, steps=12, temperature=2.0)
    lengths = []
    for n in range(len(got.ids_NT)):
        ids, row = got.ids(n), got.ids_NT[n].tolist()
        ends = [place for place, t in enumerate(row) if t in policy.stop_ids]
        length = ends[0] + 1 if ends else len(row)
        lengths.append(length)
        assert got.mask_NT[n].tolist() == [place < length for place in range(len(row))]
        assert ids == row[:length]
        assert row[length:] == [pad] * (len(row) - length)
        assert not got.logps_NT[n, length:].any()
        assert (got.logps_NT[n, :length] < 0).all()
        assert bool(got.truncated_N[n]) == (not ends)
    assert len(set(lengths)) > 3  # completions of one batch end at different steps
    stopped = [got.ids(n)[-1] for n in range(len(got.ids_NT)) if not got.truncated_N[n]]
    assert token(stop) in stopped


def test_sampling_ends_with_the_last_completion() -> None:
    for stop in ("<|im_end|>", "<|endoftext|>"):
        got = sampled(biased(build_policy(), {token(stop): 1e4}), collate(), 2, steps=50)
        assert got.ids_NT.tolist() == [[token(stop)]] * 6
        assert got.mask_NT.all()
        assert not got.truncated_N.any()


@pytest.mark.parametrize("configured", [None, "<|im_end|>", ["<|im_end|>"]])
def test_both_end_of_text_tokens_stop_whatever_the_checkpoint_says(configured) -> None:
    model = build_model(processor(), hidden=48, layers=1)
    ids = [token(t) for t in configured] if isinstance(configured, list) else configured and token(configured)
    model.generation_config.eos_token_id = ids
    assert QwenVLPolicy(model, processor()).stop_ids == sorted([token("<|im_end|>"), token("<|endoftext|>")])


def test_further_end_of_text_tokens_of_a_checkpoint_are_taken() -> None:
    model = build_model(processor(), hidden=48, layers=1)
    model.generation_config.eos_token_id = 17
    assert 17 in QwenVLPolicy(model, processor()).stop_ids


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_of_images_and_videos_are_never_sampled(temperature) -> None:
    names = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")
    policy = biased(build_policy(), {token(name): 1e3 for name in names})
    got = sampled(policy, collate(), 4, temperature=temperature)
    assert not set(got.ids_NT.flatten().tolist()) & {token(name) for name in names}
    assert (got.logps_NT[got.mask_NT] < -900).all()  # the whole distribution, as in training


def test_rows_behind_the_vocabulary_are_never_sampled() -> None:
    """Checkpoints pad the embedding to a round number; those rows decode to nothing."""
    model = build_policy().model
    size = len(processor().tokenizer)
    model.resize_token_embeddings(size + 40, mean_resizing=False)
    policy = biased(QwenVLPolicy(model, processor()), {index: 1e3 for index in range(size, size + 40)})
    assert policy.banned_V.shape == (size + 40,)
    assert int(sampled(policy, collate(), 4).ids_NT.max()) < size


def test_draws_follow_the_tempered_distribution_without_banned_tokens() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 3.0])
    banned = torch.tensor([False, False, False, False, True])
    rows = 40_000
    for temperature in (0.5, 1.0, 2.0):
        uniform = torch.rand(rows, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        ids, logps = draw(logits.expand(rows, -1), banned, temperature, uniform)
        expected = (logits[:4] / temperature).softmax(0)
        torch.testing.assert_close(ids.bincount(minlength=5)[:4] / rows, expected, rtol=0, atol=0.01)
        assert int(ids.max()) < 4
        torch.testing.assert_close(logps, (logits / temperature).log_softmax(0)[ids])


def test_any_random_number_draws_a_token_that_may_be_drawn() -> None:
    """Also 0 and the largest number below 1, in front of and behind tokens that are banned or next to impossible."""
    banned = torch.tensor([True, False, False, False, True])
    logits = torch.tensor([[5.0, -200.0, 1.0, 2.0, 9.0]]).expand(3, -1)
    ids, _ = draw(logits, banned, 1.0, torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64))
    assert ids.tolist() == [2, 3, 3]


@pytest.mark.parametrize("static", [False, True])
def test_what_is_drawn_depends_neither_on_who_has_left_nor_on_the_others(static) -> None:
    policy, prompts = biased(build_policy(), {token("<|im_end|>"): 6.0}), collate()
    got = sampled(policy, prompts, 4, steps=24, temperature=2.0, static=static)
    lengths = got.mask_NT.sum(1).tolist()
    assert len(set(lengths)) > 3
    uniform = torch.rand(24, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for n, length in enumerate(lengths):
        before, ids = prompt_ids(prompts, n // 4), got.ids(n)
        with torch.no_grad():
            logits = plain_logits(policy, prompts, n // 4, [*before, *ids])[len(before) - 1 : -1]
        expected, _ = draw(logits, policy.banned_V, 2.0, uniform[:length, n])
        assert ids == expected.tolist()


def test_temperature_zero_takes_the_likeliest_allowed_token_and_reads_it_at_one() -> None:
    logits = torch.tensor([[2.0, 1.0, 3.0]])
    ids, logps = draw(logits, torch.tensor([False, False, True]), 0.0, None)
    assert ids.tolist() == [0]
    torch.testing.assert_close(logps, logits.log_softmax(1)[:, 0])


def test_lockstep_of_a_single_rank_changes_nothing(tmp_path) -> None:
    policy, prompts = build_policy(), collate([TOLD])
    expected = sampled(policy, prompts, 2)
    policy.lockstep = True
    assert torch.equal(sampled(policy, prompts, 2).ids_NT, expected.ids_NT)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert torch.equal(sampled(policy, prompts, 2).ids_NT, expected.ids_NT)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("steps", [1, PATIENCE, 2 * PATIENCE + 3])
def test_fixed_shapes_sample_the_same(steps) -> None:
    """What is captured on CUDA; some completions end between two looks at whether anything still runs."""
    policy, prompts = biased(build_policy(), {token("<|im_end|>"): 7.0}), collate()
    dropped, kept = (sampled(policy, prompts, 4, steps=steps, temperature=2.0, static=s) for s in (False, True))
    assert torch.equal(dropped.ids_NT, kept.ids_NT)
    assert torch.equal(dropped.mask_NT, kept.mask_NT)
    assert torch.equal(dropped.truncated_N, kept.truncated_N)
    torch.testing.assert_close(dropped.logps_NT, kept.logps_NT, rtol=1e-6, atol=TOLERANCE)


def test_completions_that_have_ended_are_no_longer_computed() -> None:
    policy, prompts = build_policy(), collate()
    end = token("<|im_end|>")
    lengths = [2, 5, 5, 9, 3, 3]  # two of each prompt
    rows = [[*range(20, 19 + length), end] for length in lengths]
    computed: list[int] = []
    handle = policy.model.model.language_model.register_forward_pre_hook(
        lambda _, __, named: computed.append(named["inputs_embeds"].shape[1]), with_kwargs=True
    )
    with policy.scoring(), dictated(rows):
        prefix = policy.prefill(prompts)
        got = policy.sample(prefix, 2, 20)
    handle.remove()
    assert [got.ids(n) for n in range(6)] == rows
    # All six; then one slot less per prompt is needed only when no prompt has two that run.
    assert computed[1:] == [6, 6, 4, 4, 1, 1, 1, 1]
    assert [stop - start for start, stop in prefix.completions.spans] == [length - 1 for length in lengths]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_captured_step_samples_what_the_same_steps_do_uncaptured(dtype) -> None:
    policy, prompts = build_policy(dtype=dtype).to("cuda"), collate().to(torch.device("cuda"))
    with policy.scoring():
        captured, plain = (
            policy.sample(policy.prefill(prompts), 4, 20, temperature=0.0, static=static) for static in (True, False)
        )
    assert torch.equal(captured.ids_NT, plain.ids_NT)
    torch.testing.assert_close(captured.logps_NT, plain.logps_NT, rtol=0, atol=1e-4 if dtype == torch.float32 else 0.1)
