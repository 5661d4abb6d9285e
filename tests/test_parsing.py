"""The parser against lists of strings, an independent regular expression, and the wording that it must invert."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cair_lightning.parsing import TAGS, WHITESPACE, parse
from cair_lightning.prompts import direct_completion, reason_completion

VALID = [
    ("<reason>he lost</reason><answer>sad</answer>", "he lost", "sad"),
    (" \n<reason>\nhe lost\n</reason>\n\t<answer> sad </answer>\r\n", "he lost", "sad"),  # white space around blocks
    ("<reason>a\n\nb</reason><answer>very\nsad</answer>", "a\n\nb", "very\nsad"),  # several lines inside
    ("<reason>1 < 2 > 0, <b>, </i></reason><answer>a<b</answer>", "1 < 2 > 0, <b>, </i>", "a<b"),  # other brackets
    ("<reason>reason, answer</reason><answer>answer</answer>", "reason, answer", "answer"),  # the words are no tags
    ("<reason>< reason ></reason><answer>sad</answer>", "< reason >", "sad"),  # a tag is spelled exactly
    ("<reason>悲しい 😢</reason><answer>sad</answer>", "悲しい 😢", "sad"),  # any script
]

INVALID = [
    "",  # nothing
    "sad",  # no tag
    "<answer>sad</answer>",  # the direct form has no z
    "<reason>he lost</reason>",  # no answer
    "<reason>he lost</reason><answer>sad",  # cut off inside the answer
    "<reason>he lost",  # cut off inside the reasoning
    "<reason>he lost<answer>sad</answer>",  # reasoning never closed
    "he lost</reason><answer>sad</answer>",  # reasoning never opened
    "<answer>sad</answer><reason>he lost</reason>",  # wrong order
    "<reason>he lost<answer>sad</answer></reason>",  # nested
    "<answer><reason>he lost</reason>sad</answer>",  # nested the other way round
    "<reason>he lost<answer></reason>sad</answer>",  # crossed
    "</reason>he lost<reason><answer>sad</answer>",  # closed before it is opened
    "<reason>he lost</reason></answer>sad<answer>",  # the same for the answer
    "<reason></reason><answer>sad</answer>",  # empty reasoning
    "<reason> \n</reason><answer>sad</answer>",  # blank reasoning
    "<reason>he lost</reason><answer></answer>",  # empty answer
    "<reason>he lost</reason><answer>\t</answer>",  # blank answer
    "Sure: <reason>he lost</reason><answer>sad</answer>",  # text before
    "<reason>he lost</reason> so <answer>sad</answer>",  # text between
    "<reason>he lost</reason><answer>sad</answer>.",  # text after
    "<reason>a</reason><reason>b</reason><answer>sad</answer>",  # two reasonings
    "<reason>a<reason>b</reason><answer>sad</answer>",  # a second opening tag inside
    "<reason>a</reason><answer>sad</answer><answer>angry</answer>",  # two answers
    "<reason>a</reason><answer>sad<answer>angry</answer>",  # a second opening tag inside
    "<reason>a</reason><answer>sad</answer></answer>",  # one tag too many at the end
    "<Reason>a</Reason><Answer>sad</Answer>",  # tags are lower case
    "<think>a</think><answer>sad</answer>",  # another project's tag
]

# A tag may not occur inside a block. Written apart from the parser: a pattern, not a search for indices.
INSIDE = rf"((?:(?!{'|'.join(map(re.escape, TAGS))}).)+?)"
BLANK = f"[{WHITESPACE}]*"
ORACLE = re.compile(
    f"{BLANK}<reason>{BLANK}{INSIDE}{BLANK}</reason>{BLANK}<answer>{BLANK}{INSIDE}{BLANK}</answer>{BLANK}", re.DOTALL
)

plain = st.text(alphabet=st.characters(exclude_characters="<>"), min_size=1).filter(lambda text: text.strip(WHITESPACE))


@pytest.mark.parametrize(("text", "rationale", "answer"), VALID)
def test_wellformed_completion_is_taken_apart(text, rationale, answer) -> None:
    parsed = parse(text)
    assert parsed is not None
    assert (parsed.rationale, parsed.answer) == (rationale, answer)
    assert text[parsed.rationale_start : parsed.rationale_end] == rationale


@pytest.mark.parametrize("text", INVALID)
def test_malformed_completion_is_none(text) -> None:
    assert parse(text) is None


@given(rationale=plain, answer=plain)
def test_parser_inverts_the_wording(rationale, answer) -> None:
    text = reason_completion(rationale, answer)
    parsed = parse(text)
    assert parsed is not None
    assert parsed.rationale == rationale.strip(WHITESPACE)
    assert parsed.answer == answer.strip(WHITESPACE)
    assert text[parsed.rationale_start : parsed.rationale_end] == parsed.rationale
    assert parse(direct_completion(answer)) is None


@given(parts=st.lists(st.sampled_from([*TAGS, "a", " ", "\n", "<", ">", "/", "reason"]), max_size=9))
def test_parser_agrees_with_a_regular_expression_on_any_order_of_tags(parts) -> None:
    text = "".join(parts)
    parsed, match = parse(text), ORACLE.fullmatch(text)
    assert (parsed is None) == (match is None)
    if parsed is not None and match is not None:
        assert text[parsed.rationale_start : parsed.rationale_end] == parsed.rationale
        # The lazy group keeps blanks that the block's end needs not to be reached in one step.
        assert (parsed.rationale, parsed.answer) == tuple(group.strip(WHITESPACE) for group in match.groups())


@pytest.mark.parametrize(
    "unit", ["<reason>", "<", "<reason", " ", "<answer></answer>", "<reason>a</reason><answer>", "</answer><reason>"]
)
def test_time_is_linear_in_the_length_of_hostile_text(unit) -> None:
    for text in (unit * 200_000, f"<reason>a{unit * 200_000}</reason><answer>sad</answer>"):
        start = time.perf_counter()
        parse(text)
        # Quadratic time would be hours at two million characters; linear time is milliseconds.
        assert time.perf_counter() - start < 2.0
