"""Both paths against plain full rows: one row of the Hugging Face model per context and candidate."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from cair_lightning.parsing import parse
from cair_lightning.policies.qwen import Completions, QwenVLPolicy
from cair_lightning.prompts import after_rationale, direct_completion, reason_completion
from cair_lightning.verifier import cut_rationale, entropy, observe, verify
from cair_lightning.world.tiny import build_model, build_processor
from tests.policies.forced import dictated
from tests.policies.reference import (
    EXAMPLES,
    TOLERANCE,
    build_policy,
    collate,
    plain_logps,
    prompt_ids,
    shared_policy,
)

SEEN, TOLD, WIDE = EXAMPLES
TEXTS = [
    # two completions of each prompt
    "<reason>she lost.</reason><answer>sad</answer>",  # `.</` is one token
    " \n<reason>\n she lost it all \n</reason>\n<answer> angry </answer>",
    "<reason>he won the cup 🏆</reason><answer>happy</answer>",  # ` 🏆</` is one token
    "<reason>he won</reason>",  # malformed
    "<reason>the café is calm, <|im_start|> é 🔥</reason><answer>no idea at all</answer>",
    "<reason>how odd?!</reason><answer>something else</answer>",  # `?!</` is one token
]


def written(texts: list[str], policy: QwenVLPolicy) -> Completions:
    """Completions as a sampler would return them."""
    rows = [[*policy.encode(text), policy.tokenizer.convert_tokens_to_ids("<|im_end|>")] for text in texts]
    return from_ids(rows)


def from_ids(rows: list[list[int]]) -> Completions:
    width = max(map(len, rows))
    ids_NT = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask_NT = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    cut_N = torch.zeros(len(rows), dtype=torch.bool)
    return Completions(ids_NT=ids_NT, mask_NT=mask_NT, logps_NT=torch.zeros(len(rows), width), truncated_N=cut_N)


def beliefs(policy, prompts, row: int, contexts: list[list[int]], continuations: list[list[int]]) -> torch.Tensor:
    """Log-beliefs from one plain row per candidate, every token of the continuation counted."""
    with torch.no_grad():
        before = [[*prompt_ids(prompts, row), *context] for context in contexts]
        scores = [
            plain_logps(policy, prompts, row, b, c).double().sum() for b, c in zip(before, continuations, strict=True)
        ]
    return torch.stack(scores).log_softmax(0).float()


def path_a(policy, row: int) -> torch.Tensor:
    """The direct prompt, collated as one of its own, then each candidate."""
    answers = [policy.encode(direct_completion(y)) for y in EXAMPLES[row].candidates]
    return beliefs(policy, collate(form="direct"), row, [[] for _ in answers], answers)


def kept_tokens(policy, ids: list[int]) -> tuple[int, str]:
    """The longest run of whole tokens that decodes to a beginning of what ends with z, and what of z is missing."""
    text = policy.decode(ids)
    until = text[: parse(text).rationale_end]
    kept = max(k for k in range(len(ids)) if until.startswith(policy.decode(ids[:k])))
    return kept, until[len(policy.decode(ids[:kept])) :]


def path_b(policy, prompts, row: int, ids: list[int]) -> torch.Tensor:
    """The generated tokens up to z's end, then the rest of z and each candidate."""
    kept, rest = kept_tokens(policy, ids)
    answers = [policy.encode(rest + after_rationale(y)) for y in EXAMPLES[row].candidates]
    return beliefs(policy, prompts, row, [ids[:kept] for _ in answers], answers)


@pytest.mark.parametrize("attention", ["cascade", "dense", "flex"])
def test_both_paths_are_those_of_plain_rows(attention) -> None:
    policy, prompts = build_policy(attention), collate()
    completions = written(TEXTS, policy)
    with policy.scoring():
        verdict = verify(policy, policy.prefill(prompts), completions, 2)
    assert verdict.texts == TEXTS
    assert [a is None for a in verdict.answers] == [False, False, False, True, False, False]
    assert verdict.log_p_obs_BY.shape == (3, 5)
    assert verdict.log_p_int_NY.shape == (6, 5)
    for row, example in enumerate(EXAMPLES):
        size = len(example.candidates)
        torch.testing.assert_close(verdict.log_p_obs_BY[row, :size], path_a(policy, row), rtol=1e-6, atol=TOLERANCE)
        assert (verdict.log_p_obs_BY[row, size:] == -torch.inf).all()
    for n in (0, 1, 2, 4, 5):
        row, size = n // 2, len(EXAMPLES[n // 2].candidates)
        expected = path_b(policy, prompts, row, completions.ids(n))
        torch.testing.assert_close(verdict.log_p_int_NY[n, :size], expected, rtol=1e-6, atol=TOLERANCE)
        assert (verdict.log_p_int_NY[n, size:] == -torch.inf).all()
    assert verdict.log_p_int_NY[3].isnan().all()
    known = [0, 1, 2, 4, 5]
    torch.testing.assert_close(verdict.log_p_int_NY[known].exp().sum(1), torch.ones(5))
    torch.testing.assert_close(verdict.log_p_obs_BY.exp().sum(1), torch.ones(3))
    spread = verdict.log_p_int_NY[0, :3] - verdict.log_p_int_NY[1, :3]
    assert spread.abs().max() > 0.1  # else no test could see whether z is read


def test_sampled_tokens_are_kept_as_they_were_generated() -> None:
    """A sampler may spell a word by other tokens than the tokenizer does; path B reads those."""
    policy, prompts = shared_policy(), collate([SEEN])
    letters = [policy.encode(c)[0] for c in "<reason>she lost.</reason><answer>sad</answer>"]
    with policy.scoring():
        got = verify(policy, policy.prefill(prompts), from_ids([letters]), 1).log_p_int_NY
    torch.testing.assert_close(got[0], path_b(policy, prompts, 0, letters), rtol=1e-6, atol=TOLERANCE)
    usual = path_b(policy, prompts, 0, written(TEXTS[:1], policy).ids(0))
    assert (got[0] - usual).abs().max() > 0.01


def test_rewritten_rationales_are_those_of_plain_rows() -> None:
    policy, prompts = shared_policy(), collate()
    asked: list[tuple[str, int]] = []

    def shorten(rationale: str, row: int) -> str | None:
        asked.append((rationale, row))
        return None if row == 2 else rationale.split()[0]

    rewrites = {"same": lambda z, n: z, "short": shorten}
    with policy.scoring():
        verdict = verify(policy, policy.prefill(prompts), written(TEXTS, policy), 2, rewrites)
    assert asked == [(a.rationale, n) for n, a in enumerate(verdict.answers) if a is not None]
    assert set(verdict.rewritten) == {"same", "short"}
    for name, missing in (("same", [3]), ("short", [2, 3])):
        for n, answer in enumerate(verdict.answers):
            got = verdict.rewritten[name][n]
            if n in missing:
                assert got.isnan().all()
                continue
            z, row = answer.rationale if name == "same" else answer.rationale.split()[0], n // 2
            texts = [policy.encode(reason_completion(z, y)) for y in EXAMPLES[row].candidates]
            expected = beliefs(policy, prompts, row, [[] for _ in texts], texts)
            torch.testing.assert_close(got[: len(expected)], expected, rtol=1e-6, atol=TOLERANCE)
            assert (got[len(expected) :] == -torch.inf).all()
    # What the tokenizer itself would have written gives the same as a text and as generated tokens.
    torch.testing.assert_close(verdict.rewritten["same"][0], verdict.log_p_int_NY[0], rtol=1e-6, atol=TOLERANCE)


def test_path_a_alone() -> None:
    policy, prompts = shared_policy(), collate()
    with policy.scoring():
        prefix = policy.prefill(prompts)
        both = verify(policy, prefix, written(TEXTS, policy), 2)
        torch.testing.assert_close(observe(policy, prefix), both.log_p_obs_BY, rtol=1e-6, atol=TOLERANCE)


def test_a_single_candidate_is_certain() -> None:
    policy, prompts = shared_policy(), collate([replace(SEEN, candidates=["sad"])])
    with policy.scoring():
        verdict = verify(policy, policy.prefill(prompts), written(TEXTS[:1], policy), 1)
    assert verdict.log_p_obs_BY.tolist() == [[0.0]]
    assert verdict.log_p_int_NY.tolist() == [[0.0]]


def test_nothing_but_malformed_completions() -> None:
    policy, prompts = shared_policy(), collate([SEEN])
    with policy.scoring():
        verdict = verify(policy, policy.prefill(prompts), written(["", "sad"], policy), 2, {"same": lambda z, n: z})
    assert verdict.answers == [None, None]
    assert verdict.log_p_int_NY.isnan().all()
    assert verdict.rewritten["same"].isnan().all()
    torch.testing.assert_close(verdict.log_p_obs_BY[0], path_a(policy, 0), rtol=1e-6, atol=TOLERANCE)


def test_tower_and_prompt_are_computed_once_for_sampling_and_both_paths() -> None:
    policy, prompts, group, steps = build_policy(), collate(), 4, 6
    tower: list[int] = []
    handle = policy.model.model.visual.register_forward_pre_hook(lambda _, args: tower.append(len(args[0])))
    rows = [[*policy.encode(TEXTS[4])[: steps - 1], policy.stop_ids[0]] for _ in range(3 * group)]
    with policy.scoring(), counted_tokens(policy) as read, dictated(rows):
        prefix = policy.prefill(prompts)
        drawn = policy.sample(prefix, group, steps)
        verify(policy, prefix, drawn, group)
    handle.remove()
    assert tower == [len(prompts.patches)]
    assert read[0] == int(prompts.mask_BL.sum())
    assert read[1:-1] == [3 * group] * (steps - 1)
    # Per candidate a few tokens, whatever the prompt is: the direct tail, then at most 5 labels of 3 to 7 tokens.
    assert read[-1] < 60 * 3


@pytest.mark.parametrize(
    ("text", "kept", "rest"),
    [
        ("<reason>she lost</reason><answer>sad</answer>", "<reason>she lost", ""),
        ("<reason>she lost.</reason><answer>sad</answer>", "<reason>she lost", "."),
        ("<reason>how odd?!</reason><answer>sad</answer>", "<reason>how odd", "?!"),
        ("<reason>he won the cup 🏆</reason><answer>sad</answer>", "<reason>he won the cup", " 🏆"),
        ("<reason>the café</reason><answer>sad</answer>", "<reason>the café", ""),
        ("<reason>a 🔥 é</reason><answer>é</answer>", "<reason>a 🔥 é", ""),
        ("<reason>  she lost \t\n</reason><answer>sad</answer>", "<reason>  she lost", ""),
        ("\n <reason>\nshe lost.\n\n</reason>\n<answer>sad</answer>\n", "\n <reason>\nshe lost", "."),  # `.\n`
        ("<reason>so <|im_start|> it is</reason><answer>sad</answer>", "<reason>so <|im_start|> it is", ""),
        ("<reason><|video_pad|></reason><answer>sad</answer>", "<reason><|video_pad|>", ""),
    ],
)
def test_z_is_cut_after_its_last_whole_token(text, kept, rest) -> None:
    policy = shared_policy()
    ids = [*policy.encode(text), policy.stop_ids[0]]
    count, missing = cut_rationale(policy, ids)
    assert (policy.decode(ids[:count]), missing) == (kept, rest)
    assert (count, missing) == kept_tokens(policy, ids)


def test_bytes_that_are_no_character_do_not_move_the_cut() -> None:
    """Each decodes to U+FFFD, which is three bytes of text: counted as such, the cut would fall into the answer."""
    policy = shared_policy()
    stray = policy.tokenizer.convert_tokens_to_ids(["Ã", "ł", "ð"])  # the bytes 0xc3, 0xa0 (apart) and 0xf0
    inside = [*policy.encode("<reason>she"), stray[0], *policy.encode(" lost"), stray[2], stray[0]]
    ids = [*inside, *policy.encode("</reason><answer>sad</answer>")]
    assert policy.decode(ids) == "<reason>she� lost��</reason><answer>sad</answer>"
    assert cut_rationale(policy, ids) == (len(inside), "")
    behind = [*policy.encode("<reason>she lost"), *policy.encode("</reason>"), *policy.encode("<answer>"), stray[0]]
    assert cut_rationale(policy, [*behind, *policy.encode("</answer>")])[0] == len(policy.encode("<reason>she lost"))


def test_a_character_that_straddles_the_end_of_z_is_given_back_whole() -> None:
    """Where a token holds a character's last bytes and the tag, its first bytes must not be left behind."""
    symbols = [chr(0x1F025 + 0x40 * n) for n in range(30)]  # all end in the byte 0xa5
    corpus = [f"<reason>{s}</reason><answer>sad</answer>" for s in symbols] * 4
    processor = build_processor(corpus, vocabulary=290)
    policy = QwenVLPolicy(build_model(processor, hidden=48, layers=1), processor)
    ids = policy.encode(f"<reason>x {symbols[3]}</reason><answer>sad</answer>")
    spelt = policy.tokenizer.convert_ids_to_tokens(ids)
    straddling = next(n for n, token in enumerate(spelt) if token == "ĥ¥</")
    kept, rest = cut_rationale(policy, ids)
    assert rest == symbols[3]
    assert policy.decode(ids[:kept]) == "<reason>x "
    assert kept < straddling


def test_entropy_by_hand() -> None:
    log_p = torch.tensor([[0.25] * 4, [0.5, 0.25, 0.25, 0.0], [1.0, 0.0, 0.0, 0.0]]).log()
    torch.testing.assert_close(entropy(log_p) / math.log(2), torch.tensor([2.0, 1.5, 0.0]))
    assert entropy(torch.full((1, 3), torch.nan)).isnan().all()


def test_entropy_ignores_candidates_that_only_pad() -> None:
    log_p = torch.tensor([[0.7, 0.3]]).log()
    padded = torch.cat([log_p, torch.full((1, 3), -torch.inf)], dim=1)
    torch.testing.assert_close(entropy(padded), entropy(log_p))


def test_a_prompt_is_judged_alike_alone_and_in_a_batch() -> None:
    policy = shared_policy()
    close = {"rtol": 0, "atol": TOLERANCE, "equal_nan": True}
    with policy.scoring():
        whole = verify(policy, policy.prefill(collate()), written(TEXTS, policy), 2, {"same": lambda z, n: z})
        for row, example in enumerate(EXAMPLES):
            pair, size = slice(2 * row, 2 * row + 2), len(example.candidates)
            prefix = policy.prefill(collate([example]))
            alone = verify(policy, prefix, written(TEXTS[pair], policy), 2, {"same": lambda z, n: z})
            assert (alone.texts, alone.answers) == (whole.texts[pair], whole.answers[pair])
            torch.testing.assert_close(alone.log_p_obs_BY[0], whole.log_p_obs_BY[row, :size], **close)
            torch.testing.assert_close(alone.log_p_int_NY, whole.log_p_int_NY[pair, :size], **close)
            torch.testing.assert_close(alone.rewritten["same"], whole.rewritten["same"][pair, :size], **close)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("attention", ["cascade", "dense", "flex"])
def test_kept_completions_are_judged_as_those_that_are_read_anew(attention, static) -> None:
    policy, prompts, completions = build_policy(attention), collate(), written(TEXTS, shared_policy())
    rows = [completions.ids(n) for n in range(len(TEXTS))]
    with policy.scoring():
        prefix = policy.prefill(prompts)
        with counted_tokens(policy) as read_anew:
            expected = verify(policy, prefix, completions, 2)
        prefix = policy.prefill(prompts, prompts_per_forward=2)
        with dictated(rows):
            drawn = policy.sample(prefix, 2, 40, static=static)
        assert [drawn.ids(n) for n in range(len(TEXTS))] == rows
        with counted_tokens(policy) as read:
            verdict = verify(policy, prefix, drawn, 2)
    assert read == [read_anew[0] - sum(kept_tokens(policy, rows[n])[0] for n in (0, 1, 2, 4, 5))]
    close = {"rtol": 0, "atol": 2 * TOLERANCE, "equal_nan": True}  # each is within TOLERANCE of a plain row
    torch.testing.assert_close(verdict.log_p_obs_BY, expected.log_p_obs_BY, **close)
    torch.testing.assert_close(verdict.log_p_int_NY, expected.log_p_int_NY, **close)


def test_other_completions_than_the_kept_ones_are_refused() -> None:
    policy, prompts = shared_policy(), collate([SEEN])
    with policy.scoring():
        prefix = policy.prefill(prompts)
        policy.sample(prefix, 2, 3, generator=torch.Generator().manual_seed(0))
        with pytest.raises(ValueError, match="those that were sampled from it last"):
            verify(policy, prefix, written(TEXTS[:2], policy), 2)


@contextmanager
def counted_tokens(policy: QwenVLPolicy) -> Iterator[list[int]]:
    """How many tokens the language model is given, call by call."""
    calls: list[int] = []
    handle = policy.model.model.language_model.register_forward_pre_hook(
        lambda _, __, named: calls.append(named["inputs_embeds"].shape[1]), with_kwargs=True
    )
    yield calls
    handle.remove()
