"""Word-wise matching, shared by the accuracy reward and the leakage guard: one idea of what it is to name a label."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

TRAILING_PUNCTUATION = ".,;:!?…"

# A word is a run of letters and digits. `\b` would count the underscore as a letter, and "sad_angry" as one word.
WORD_START, WORD_END = r"(?<![^\W_])", r"(?![^\W_])"


def trimmed(text: str) -> str:
    """`text` without surrounding white space and trailing punctuation; inner white space becomes single blanks.

    >>> trimmed("  Very  happy. ")
    'Very happy'
    """
    return " ".join(text.split()).rstrip(TRAILING_PUNCTUATION + " ")


def normalised(text: str) -> str:
    """`trimmed`, case-folded: two answers are the same if and only if these are equal.

    >>> normalised("Sad!")
    'sad'
    """
    return trimmed(text).casefold()


def word_wise(phrases: Iterable[str]) -> str:
    """Source of a regular expression for any of `phrases` as whole words, with any white space between them.

    The longest phrase is tried first, so that of two which begin together the whole is found. White space is matched
    possessively, so that a long run of blanks costs linear time. Without phrases it matches nowhere.
    """
    longest_first = sorted(phrases, key=lambda phrase: (-len(phrase), phrase))
    if not longest_first:
        return r"(?!)"
    bodies = (r"\s++".join(map(re.escape, phrase.split())) for phrase in longest_first)
    return f"{WORD_START}(?:{'|'.join(bodies)}){WORD_END}"


@lru_cache(maxsize=4096)
def phrase_pattern(phrase: str) -> re.Pattern[str]:
    """`word_wise` for one phrase, compiled, case-insensitive, and cached: a manifest repeats its labels."""
    return re.compile(word_wise([phrase]), re.IGNORECASE)
