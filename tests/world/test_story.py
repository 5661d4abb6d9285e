"""What must hold of the stories however they are worded."""

from itertools import product

import numpy as np
import pytest

from cair_lightning.rewards import LeakageLexicon
from cair_lightning.world import story
from cair_lightning.world.story import CUES, EMOTIONS, event_of, felt, styles, tell

SEEN, HELD_OUT = styles()


def told(implicit: bool, quality: str = "full", style=SEEN, count: int = 300) -> list[story.Story]:
    rng = np.random.default_rng(0)
    return [tell(f"s{n}", implicit, quality, style, rng) for n in range(count)]


def words(example) -> list[str]:
    return " ".join([*example.context, example.question]).split()


def mentioned(example, vocabulary) -> list[str]:
    return [word for word in words(example) if word in vocabulary]


def test_no_row_or_column_of_the_tables_repeats() -> None:
    for relation in story.RELATIONS:
        assert len({event_of(relation, act) for act in story.ACTS}) == len(story.ACTS)
    for act in story.ACTS:
        assert len({event_of(relation, act) for relation in story.RELATIONS}) == len(story.RELATIONS)
    for event in story.EVENTS:
        assert len({felt(event, state) for state in story.STATES}) == len(story.STATES)
    for state in story.STATES:
        assert {felt(event, state) for event in story.EVENTS} == set(EMOTIONS)


def test_no_word_alone_tells_the_emotion() -> None:
    facts = list(product(story.RELATIONS, story.ACTS, story.STATES))
    for place in range(3):
        for word in {fact[place] for fact in facts}:
            emotions = [felt(event_of(r, a), s) for r, a, s in (fact for fact in facts if fact[place] == word)]
            assert set(emotions) == set(EMOTIONS)
            assert max(map(emotions.count, EMOTIONS)) <= 0.35 * len(emotions)


def test_names_and_phrasings_of_the_test_are_held_out_and_its_syllables_are_not() -> None:
    assert not set(SEEN.names) & set(HELD_OUT.names)
    for kind in ("lines", "moods", "questions"):
        assert not set(getattr(SEEN, kind)) & set(getattr(HELD_OUT, kind))
    for style in (SEEN, HELD_OUT):
        assert {name[:2] for name in style.names} == set(story.ONSETS)
        assert {name[2:] for name in style.names} == set(story.ENDINGS)
        assert len(set(style.names)) == len(style.names)


@pytest.mark.parametrize("style", [SEEN, HELD_OUT])
def test_an_implicit_emotion_follows_from_relation_act_and_state_and_not_from_the_face(style) -> None:
    for sample in told(True, style=style):
        example = sample.example
        (relation,), (act,) = mentioned(example, story.RELATIONS), mentioned(example, story.ACTS)
        (state,) = mentioned(example, story.STATES)
        assert example.answer == example.emotion == felt(event_of(relation, act), state)
        assert sample.expression != example.answer
        assert example.load == "high"


@pytest.mark.parametrize("style", [SEEN, HELD_OUT])
def test_an_overt_emotion_is_that_of_the_face_and_nothing_happens(style) -> None:
    for sample in told(False, style=style):
        example = sample.example
        assert example.answer == example.emotion == sample.expression
        assert not mentioned(example, story.ACTS)
        assert example.rationale == CUES[sample.expression]
        assert example.load == "low"


@pytest.mark.parametrize("implicit", [True, False])
def test_samples_are_complete(implicit) -> None:
    for n, sample in enumerate(told(implicit)):
        example = sample.example
        assert (example.id, example.clip) == (f"s{n}", f"s{n}.mp4")
        assert example.candidates == list(EMOTIONS)
        assert "{" not in " ".join([*example.context, example.question, example.rationale])
        names = [word for word in words(example) if word in SEEN.names]
        assert len(set(names)) == 2
        asked = [word for word in example.question.split() if word in SEEN.names]
        assert len(asked) == 1


def test_the_one_asked_about_is_the_one_who_is_acted_on() -> None:
    for sample in told(True):
        (asked,) = [word for word in sample.example.question.split() if word in SEEN.names]
        (state_line,) = [line for line in sample.example.context if any(s in line.split() for s in story.STATES)]
        assert asked in state_line.split()


def test_qualities_of_a_rationale() -> None:
    for sample in told(True, "full"):
        assert mentioned_in(sample.example.rationale, story.EVENTS)
    for sample in told(True, "partial"):
        rationale = sample.example.rationale
        assert not mentioned_in(rationale, story.EVENTS)
        assert mentioned_in(rationale, story.ACTS)
        assert mentioned_in(rationale, story.RELATIONS)
    for sample in told(True, "shallow"):
        assert sample.example.rationale == CUES[sample.expression]


def mentioned_in(text: str, vocabulary) -> set[str]:
    return set(text.split()) & set(vocabulary)


def test_no_reference_rationale_names_an_emotion() -> None:
    lexicon = LeakageLexicon()
    for implicit, quality in ((True, "full"), (True, "partial"), (True, "shallow"), (False, "full")):
        for sample in told(implicit, quality, count=100):
            assert not lexicon.leaks(sample.example.rationale, sample.example.candidates), sample.example.rationale


def test_all_emotions_are_told_and_the_face_misleads_to_all() -> None:
    for implicit in (True, False):
        samples = told(implicit)
        assert {s.example.answer for s in samples} == set(EMOTIONS)
        assert {s.expression for s in samples} == set(EMOTIONS)


def test_the_generator_decides() -> None:
    assert told(True, count=20) == told(True, count=20)
    rng = np.random.default_rng(0)
    first, second = (tell("s0", True, "full", SEEN, rng) for _ in range(2))
    assert first != second
