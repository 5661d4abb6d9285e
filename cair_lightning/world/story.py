"""The stories of the embedded world: what happens, what the face shows, what is felt, and how people explain it.

What an act amounts to depends on who does it, and how that feels depends on the state one is in: relation and act make
an *event* (a betrayal, a gift...), event and state make an emotion. Both tables are cut from Latin squares, so that a
single word says next to nothing about the emotion; it takes two look-ups, one after the other. In the *implicit* half
(high load) somebody acts on the person asked about, and the face shows something else than what is felt. In the *overt*
half (low load) nothing happens to the person, and the face says it all. What a language model would know beforehand,
the tiny one is taught first: the two tables as single facts (`knowledge`), and the seven expressions.

Rationales are of mixed quality, as annotators' are: *full* ones name the facts and the event, *partial* ones the facts
only, *shallow* ones describe the face although it misleads. Reference rationales for the evaluation are all full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cair_lightning.structures import Example
from cair_lightning.world.face import EXPRESSIONS

Quality = Literal["full", "partial", "shallow"]

EMOTIONS = EXPRESSIONS
RELATIONS = ("sister", "brother", "boss", "rival", "teacher", "neighbor")
ACTS = ("praised", "fooled", "helped", "ignored", "pushed", "thanked")
IDLE_ACTS = ("passed", "saw", "met", "heard")
EVENTS = ("betrayal", "trick", "threat", "gift", "habit", "loss", "twist")
STATES = {"proud": 0, "tired": 1, "lonely": 2, "busy": 3, "hungry": 4, "shy": 5, "lost": 6}
"""How far a state shifts an event's emotion in the Latin square."""
CUES = {
    "angry": "the brows press down",
    "disgusted": "the lip curls up",
    "fearful": "the eyes open wide",
    "happy": "the mouth curves up",
    "neutral": "the face stays still",
    "sad": "the mouth curves down",
    "surprised": "the jaw drops low",
}
ONSETS = ("mi", "to", "ra", "lu", "ke", "da", "so", "vi")
ENDINGS = ("na", "bo", "ri", "la", "mu", "ta", "ze", "ko")
TRAIN_LINES = (
    "{actor} , the {relation} of {target} , {act} {target} .",
    "the {relation} of {target} , {actor} , {act} {target} .",
    "{actor} is the {relation} of {target} and {act} {target} .",
    "{target} has a {relation} , {actor} , who {act} {target} .",
)
TEST_LINES = (
    "{actor} , who is the {relation} of {target} , {act} {target} .",
    "the {relation} of {target} is {actor} , who {act} {target} .",
)
TRAIN_MOODS = ("{target} is {state} today .", "today {target} is {state} .", "{target} feels {state} .")
TEST_MOODS = ("{target} is {state} .",)
TRAIN_QUESTIONS = ("what does {target} feel ?", "how does {target} feel ?")
TEST_QUESTIONS = ("how is {target} ?",)


@dataclass(slots=True, kw_only=True)
class Style:
    """What one split may draw on: names and phrasings of the test split are held out of training."""

    names: list[str]
    lines: tuple[str, ...]
    moods: tuple[str, ...]
    questions: tuple[str, ...]


def styles() -> tuple[Style, Style]:
    """The styles of training and of testing. Every fourth combination of syllables occurs in the test only."""
    grid = [(i, j) for i in range(len(ONSETS)) for j in range(len(ENDINGS))]
    held_out = [ONSETS[i] + ENDINGS[j] for i, j in grid if (i + j) % 4 == 0]
    seen = [ONSETS[i] + ENDINGS[j] for i, j in grid if (i + j) % 4]
    return Style(names=seen, lines=TRAIN_LINES, moods=TRAIN_MOODS, questions=TRAIN_QUESTIONS), Style(
        names=held_out, lines=TEST_LINES, moods=TEST_MOODS, questions=TEST_QUESTIONS
    )


def event_of(relation: str, act: str) -> str:
    """What an act by somebody amounts to: part of a Latin square over relations and acts."""
    return EVENTS[(RELATIONS.index(relation) + ACTS.index(act)) % len(EVENTS)]


def felt(event: str, state: str) -> str:
    """The emotion that an event causes in somebody: part of a Latin square over events and states."""
    return EMOTIONS[(EVENTS.index(event) + STATES[state]) % len(EMOTIONS)]


@dataclass(slots=True, kw_only=True)
class Story:
    """A sample together with the expression that its clip has to show."""

    example: Example
    expression: str


def tell(identifier: str, implicit: bool, quality: Quality, style: Style, rng: np.random.Generator) -> Story:
    """Make up one sample.

    Args:
        identifier: The sample's id.
        implicit: Whether the emotion is caused by an act that the face contradicts.
        quality: How good the rationale of an implicit sample is; overt samples are explained by the face.
        style: Names and phrasings.
        rng: Source of randomness.
    """
    names = _names(style.names, rng)
    relation, state = str(rng.choice(RELATIONS)), str(rng.choice(list(STATES)))
    act = str(rng.choice(ACTS if implicit else IDLE_ACTS))
    event = event_of(relation, act) if implicit else None
    emotion = str(rng.choice(EMOTIONS)) if event is None else felt(event, state)
    expression = emotion if event is None else str(rng.choice([e for e in EMOTIONS if e != emotion]))
    about = str(rng.choice(style.lines)).format(actor=names[0], target=names[1], relation=relation, act=act)
    mood = str(rng.choice(style.moods)).format(target=names[1], state=state)
    context = [about, mood] if rng.random() < 0.5 else [mood, about]
    example = Example(
        id=identifier,
        clip=f"{identifier}.mp4",
        context=context,
        question=str(rng.choice(style.questions)).format(target=names[1]),
        candidates=list(EMOTIONS),
        answer=emotion,
        rationale=CUES[expression] if event is None else explain(relation, act, event, state, expression, quality),
        emotion=emotion,
        load="high" if implicit else "low",
    )
    return Story(example=example, expression=expression)


def knowledge(identifier: str, rng: np.random.Generator) -> Example:
    """One fact of either table as a question without a clip: what the base model knows before it learns to reason.

    A model that knows both tables still cannot compose them in one step; a rationale that writes the event down can.
    """
    relation, act = str(rng.choice(RELATIONS)), str(rng.choice(ACTS))
    event, state = str(rng.choice(EVENTS)), str(rng.choice(list(STATES)))
    acts, events = len(RELATIONS) * len(ACTS), len(EVENTS) * len(STATES)
    if rng.random() < acts / (acts + events):  # each fact as often as any other
        candidates, answer = EVENTS, event_of(relation, act)
        question, rationale = f"what is it when a {relation} {act} ?", f"a {relation} {act} , a {answer}"
    else:
        candidates, answer = EMOTIONS, felt(event, state)
        question, rationale = f"how is a {event} when {state} ?", f"a {event} when {state}"
    return Example(id=identifier, question=question, candidates=list(candidates), answer=answer, rationale=rationale)


def explain(relation: str, act: str, event: str, state: str, expression: str, quality: Quality) -> str:
    """The rationale of an implicit sample, at one level of quality."""
    match quality:
        case "full":
            return f"a {relation} {act} , a {event} when {state}"
        case "partial":
            return f"a {relation} {act} when {state}"
        case "shallow":
            return CUES[expression]


def _names(names: list[str], rng: np.random.Generator) -> list[str]:
    """Two different names: actor and target."""
    return [str(n) for n in rng.choice(names, 2, replace=False)]
