"""Completion text -> Answer, or None. The only place that reads tags (eq. 1, eq. 3, eq. 8)."""

from __future__ import annotations

from cair_lightning.structures import Answer

REASON_OPEN, REASON_CLOSE = "<reason>", "</reason>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
TAGS = (REASON_OPEN, REASON_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)
WHITESPACE = " \t\r\n"


def parse(text: str) -> Answer | None:
    """Take a completion apart, or return None where it is malformed.

    Well-formed is exactly one `<reason>` block followed by exactly one `<answer>` block, with nothing but white
    space (blank, tab, newline) before, between and after. Neither block may be empty or contain a tag. The rationale
    and the answer come back without the white space around them. The time is linear in the text's length.

    >>> parse("<reason>he lost</reason><answer>sad</answer>").answer
    'sad'
    >>> parse("<answer>sad</answer><reason>he lost</reason>") is None
    True
    """
    if any(text.count(tag) != 1 for tag in TAGS):
        return None
    z_start = text.index(REASON_OPEN) + len(REASON_OPEN)
    z_end = text.index(REASON_CLOSE)
    y_open = text.index(ANSWER_OPEN)
    y_start = y_open + len(ANSWER_OPEN)
    y_end = text.index(ANSWER_CLOSE)
    if not z_start <= z_end < y_open < y_end:
        return None
    outside = (
        text[: z_start - len(REASON_OPEN)],
        text[z_end + len(REASON_CLOSE) : y_open],
        text[y_end + len(ANSWER_CLOSE) :],
    )
    if any(part.strip(WHITESPACE) for part in outside):
        return None
    rationale, answer = text[z_start:z_end], text[y_start:y_end].strip(WHITESPACE)
    if not rationale.strip(WHITESPACE) or not answer:
        return None
    z_start += len(rationale) - len(rationale.lstrip(WHITESPACE))
    z_end -= len(rationale) - len(rationale.rstrip(WHITESPACE))
    return Answer(rationale=text[z_start:z_end], answer=answer, rationale_start=z_start, rationale_end=z_end)
