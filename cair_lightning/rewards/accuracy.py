"""Accuracy reward (eq. 2 and 7) and the verifier that it shares with the accuracy metric."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from cair_lightning.rewards.words import normalised, phrase_pattern
from cair_lightning.structures import Example

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


def same_answer(answer: str, gold: str) -> bool:
    """Whether `answer` is `gold`, apart from case, surrounding white space and trailing punctuation.

    The one verifier of the project: the reward, the metric and the report all ask it. An answer that is empty once
    its punctuation is gone is never right, whatever `gold` is.

    >>> same_answer(" Sad.", "sad"), same_answer("sadness", "sad"), same_answer("...", "?")
    (True, False, False)
    """
    found = normalised(answer)
    return bool(found) and found == normalised(gold)


def named_candidates(answer: str, candidates: Iterable[str]) -> set[str]:
    """The candidates that `answer` names as whole words, in their normalised form.

    Where matches overlap, the longest counts: "very happy" names `very happy` and not `happy` as well, and an option
    sentence does not name the shorter options inside it. The time is linear in the answer's length, up to a sort.

    >>> sorted(named_candidates("Happy, or very happy?", ["happy", "very happy", "sad"]))
    ['happy', 'very happy']
    """
    answer = normalised(answer)
    labels = {normalised(candidate) for candidate in candidates} - {""}
    matches = [(*found.span(), label) for label in labels for found in phrase_pattern(label).finditer(answer)]
    taken, named = bytearray(len(answer)), set()
    for start, end, label in sorted(matches, key=lambda match: match[0] - match[1]):
        # Whatever was taken before is at least as long, so it cannot lie strictly between the two ends.
        if not taken[start] and not taken[end - 1]:
            taken[start:end] = b"\x01" * (end - start)
            named.add(label)
    return named


def accuracy_reward(answer: str | None, example: Example) -> float:
    """R_acc of eq. 2: 1 for the right answer, else its ROUGE-L F-measure with the right one.

    Two cases are 0 where the paper's formula would pay. An answer that is missing or empty is a miss. And an answer
    that names two or more of the candidates ("sad or angry") is no answer; ROUGE-L would pay it 0.5 on every prompt. A
    wrong answer that is exactly another candidate keeps its ROUGE-L: options that share words earn partial credit.

    Args:
        answer: What stood in the answer tags; None where the completion was malformed.
        example: The sample; its `answer` is y*, and its `candidates` are the closed set Y.

    Returns:
        A reward between 0 and 1.
    """
    if answer is None or not normalised(answer):
        return 0.0
    if same_answer(answer, example.answer):
        return 1.0
    if len(named_candidates(answer, example.candidates)) > 1:
        return 0.0
    return float(_rouge_scorer().score(example.answer, answer)["rougeL"].fmeasure)


@lru_cache(maxsize=1)
def _rouge_scorer() -> RougeScorer:
    # Imported late: it loads nltk, which a run without this reward (or a user of `same_answer`) need not pay for.
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])
