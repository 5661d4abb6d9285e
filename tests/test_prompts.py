import pytest

from cair_lightning.prompts import (
    INSTRUCTIONS,
    after_rationale,
    direct_completion,
    messages,
    question_text,
    reason_completion,
)
from cair_lightning.structures import Example

EXAMPLE = Example(
    id="x",
    context=["Ann: You kept it.", "Bob: I had to."],
    question="How does Ann feel?",
    candidates=["sad", "very sad"],
    answer="sad",
)


def test_the_question_is_dialogue_question_candidates_and_instruction() -> None:
    assert question_text(EXAMPLE, "reason").splitlines() == [
        "Ann: You kept it.",
        "Bob: I had to.",
        "How does Ann feel?",
        "Choose one of: sad, very sad.",
        INSTRUCTIONS["reason"],
    ]


def test_without_a_dialogue_the_question_comes_first() -> None:
    plain = Example(id="x", question="Q?", candidates=["a", "b"], answer="a")
    assert question_text(plain, "direct") == f"Q?\nChoose one of: a, b.\n{INSTRUCTIONS['direct']}"


def test_both_forms_differ_in_their_instruction_only() -> None:
    """The prompt is computed once for both, and sampled rollouts keep the form that they were asked for."""
    reason, direct = (question_text(EXAMPLE, form) for form in ("reason", "direct"))
    assert reason.removesuffix(INSTRUCTIONS["reason"]) == direct.removesuffix(INSTRUCTIONS["direct"])
    assert reason != direct


def test_wording_is_what_checkpoints_were_trained_with() -> None:
    assert INSTRUCTIONS == {
        "reason": "Reason in <reason></reason>, then answer in <answer></answer>.",
        "direct": "Answer directly in <answer></answer>.",
    }


@pytest.mark.parametrize(("clip", "kinds"), [("a.mp4", ["video", "text"]), (None, ["text"])])
def test_the_clip_comes_before_the_text(clip, kinds) -> None:
    example = Example(id="x", question="Q?", candidates=["a", "b"], answer="a", clip=clip)
    (turn,) = messages(example, "direct")
    assert turn["role"] == "user"
    assert [part["type"] for part in turn["content"]] == kinds
    assert turn["content"][-1]["text"] == question_text(example, "direct")


def test_what_is_scored_is_the_end_of_what_is_taught() -> None:
    assert direct_completion("sad") == "<answer>sad</answer>"
    assert after_rationale("sad") == "</reason><answer>sad</answer>"
    assert reason_completion("he lost", "sad") == "<reason>he lost" + after_rationale("sad")
    assert after_rationale("sad").endswith(direct_completion("sad"))
