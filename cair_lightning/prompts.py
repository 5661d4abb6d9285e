"""All wording of the project: the prompt X, the completion in both forms, and what is scored as an answer.

X is the clip, the dialogue, the question and its candidates, and one of two instructions. They share everything up to
the instruction, so that a model reads the clip once for both. The reason form asks for eq. 1's completion; the direct
form asks for the bare answer and is what path A conditions on: a belief P(Y|X) is meaningful only for a form that SFT
has trained, and sampled rollouts keep the reason form only where the two forms have instructions of their own.
"""

from __future__ import annotations

from cair_lightning.parsing import ANSWER_CLOSE, ANSWER_OPEN, REASON_CLOSE, REASON_OPEN
from cair_lightning.structures import Example, Form

INSTRUCTIONS: dict[Form, str] = {
    "reason": f"Reason in {REASON_OPEN}{REASON_CLOSE}, then answer in {ANSWER_OPEN}{ANSWER_CLOSE}.",
    "direct": f"Answer directly in {ANSWER_OPEN}{ANSWER_CLOSE}.",
}


def question_text(example: Example, form: Form) -> str:
    """The user's turn beside the clip: dialogue, question, candidates, and the instruction of one form."""
    lines = [*example.context, example.question, f"Choose one of: {', '.join(example.candidates)}.", INSTRUCTIONS[form]]
    return "\n".join(lines)


def messages(example: Example, form: Form) -> list[dict[str, object]]:
    """The chat that a checkpoint's own template renders: one user turn, the clip before the text."""
    content: list[dict[str, str]] = [{"type": "video"}] if example.clip is not None else []
    return [{"role": "user", "content": [*content, {"type": "text", "text": question_text(example, form)}]}]


def direct_completion(answer: str) -> str:
    """What follows the direct prompt. Path A scores it for every candidate.

    >>> direct_completion("sad")
    '<answer>sad</answer>'
    """
    return f"{ANSWER_OPEN}{answer}{ANSWER_CLOSE}"


def after_rationale(answer: str) -> str:
    """What follows z. Path B scores it for every candidate."""
    return f"{REASON_CLOSE}{direct_completion(answer)}"


def reason_completion(rationale: str, answer: str) -> str:
    """Eq. 1's completion, the target of SFT.

    >>> reason_completion("he lost", "sad")
    '<reason>he lost</reason><answer>sad</answer>'
    """
    return f"{REASON_OPEN}{rationale}{after_rationale(answer)}"
