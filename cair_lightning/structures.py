"""The records, in the order in which they come to be. Read this file first.

Shape legend, used as a suffix of tensor names throughout the project::

    B  prompts in a batch             G  completions sampled per prompt
    N  completions, N = B * G         L  tokens of a padded prompt (padding on the left)
    T  tokens of a padded completion  Y  candidate answers of one prompt
    D  hidden size                    V  vocabulary

Probabilities and entropies are natural (nats) inside; whatever a person reads is in bits and says so in its name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Load = Literal["low", "high"]
Form = Literal["reason", "direct"]


@dataclass(slots=True, kw_only=True)
class Example:
    """One question about one clip, as an EmoReason manifest stores it.

    The records are plain, not frozen: Lightning refuses frozen dataclasses inside a batch.
    """

    id: str
    """Unique within its manifest."""
    question: str
    candidates: list[str]
    """The closed answer set Y over which beliefs are normalised."""
    answer: str
    """y*, one of `candidates`."""
    clip: str | None = None
    """Path of the clip below the manifest's clip root; None for a text-only sample."""
    start: float | None = None
    """First second of the clip that belongs to the sample; None is the beginning."""
    end: float | None = None
    """Second at which the sample ends; None is the end of the clip."""
    context: list[str] = field(default_factory=list)
    """Dialogue or transcript, one line per utterance."""
    rationale: str | None = None
    """Reference reasoning chain; SFT needs it for the reason form, Faith-F1 and ROUGE-L compare with it."""
    emotion: str | None = None
    """Emotion category under which the sample is reported; None where the answer is no emotion."""
    load: Load | None = None
    """Cognitive load of the sample, where the data set defines one (Table 2: FER is low, SCEA is high)."""
    keywords: list[str] | None = None
    """Reference keywords of Faith-F1, lemmatised and fixed before any evaluation."""
    entropy_bits: float | None = None
    """H(Y|X) under the stage-1 model as `cair curate` measured it; the curriculum of Table 4 orders by it."""


@dataclass(slots=True, kw_only=True)
class Answer:
    """A well-formed completion, taken apart: eq. 1's z and y, with z's place in the text."""

    rationale: str
    answer: str
    rationale_start: int
    """Index of z's first character in the completion's text."""
    rationale_end: int
    """Index behind z's last character."""
