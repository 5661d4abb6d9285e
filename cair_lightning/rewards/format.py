"""Format compliance reward (eq. 3 and 8)."""

from __future__ import annotations

from cair_lightning.parsing import parse


def format_reward(completion: str) -> float:
    """R_format of eq. 3: 1 if the completion is well-formed, that is if `parsing.parse` can take it apart, else 0.

    The same parser hands z to the verifier and y to the accuracy reward, so that no completion can be paid for its
    format and yet have no rationale.

    Args:
        completion: The generated text, special tokens removed.

    >>> format_reward("<reason>he lost</reason><answer>sad</answer>"), format_reward("sad")
    (1.0, 0.0)
    """
    return float(parse(completion) is not None)
