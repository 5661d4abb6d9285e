"""Eq. 2 by hand, and the ways to be paid for no answer."""

from __future__ import annotations

import time

import pytest

from cair_lightning.rewards import accuracy_reward, named_candidates, same_answer
from cair_lightning.structures import Example

MELD = ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"]


def sample(answer: str, candidates: list[str]) -> Example:
    return Example(id="1", question="How does she feel?", candidates=candidates, answer=answer)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("sad", "sad"),
        ("SAD", "sad"),
        (" \n sad\t", "sad"),
        ("Sad.", "sad"),
        ("sad . !", "sad"),
        ("sad", "Sad."),  # the punctuation may be the data set's
        ("She is  happy\nnow.", "she is happy now"),  # white space is white space
        ("STRASSE", "straße"),  # case-folded, not lower-cased
    ],
)
def test_same_answer(answer, gold) -> None:
    assert same_answer(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("sadness", "sad"),
        ("not sad", "sad"),
        (".sad", "sad"),  # leading punctuation is not ignored
        ("happy-ish", "happy"),
        ("", ""),  # an empty answer is never right
        ("...", "?"),
    ],
)
def test_another_answer(answer, gold) -> None:
    assert not same_answer(answer, gold)


@pytest.mark.parametrize("answer", ["sadness", "Sadness.", " SADNESS "])
def test_right_answer_is_worth_one(answer) -> None:
    assert accuracy_reward(answer, sample("sadness", MELD)) == 1.0


@pytest.mark.parametrize("answer", [None, "", "  ", "...", "\u00a0"])
def test_missing_or_empty_answer_is_worth_nothing(answer) -> None:
    assert accuracy_reward(answer, sample("sadness", MELD)) == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        "sadness or anger",
        "sadness, anger",
        "sadness/anger",
        "sadness_anger",  # ROUGE's tokeniser takes the underscore for a blank
        "Anger. Sadness.",
        "sadness and not joy",
        " ".join(MELD),
    ],
)
def test_naming_two_candidates_is_worth_nothing(answer) -> None:
    assert accuracy_reward(answer, sample("sadness", MELD)) == 0.0


def test_naming_one_candidate_twice_is_not_naming_two() -> None:
    # LCS 1 of 3 and of 1 words: P = 1/3, R = 1, F = 1/2.
    assert accuracy_reward("sadness, deep sadness", sample("sadness", MELD)) == pytest.approx(0.5)


def test_wrong_answer_earns_its_rouge_l() -> None:
    # "very happy" against "happy": P = 1/2, R = 1, F = 2/3; the candidate itself is named once, as the longer one.
    assert accuracy_reward("very happy", sample("happy", ["happy", "very happy"])) == pytest.approx(2 / 3)
    # Common subsequence "he is at her" is 4 of 5 words on both sides.
    options = ["He is angry at her.", "He is cross at her."]
    assert accuracy_reward(options[1], sample(options[0], options)) == pytest.approx(4 / 5)
    assert accuracy_reward("anger", sample("sadness", MELD)) == 0.0
    assert accuracy_reward("I cannot tell", sample("sadness", MELD)) == 0.0


def test_right_option_that_contains_another_is_right() -> None:
    options = ["She is sad", "She is sad and he is glad", "he is glad"]
    assert accuracy_reward("She is sad and he is glad.", sample(options[1], options)) == 1.0


@pytest.mark.parametrize(
    ("answer", "candidates", "named"),
    [
        ("very happy", ["happy", "very happy"], {"very happy"}),
        ("happy or very happy", ["happy", "very happy"], {"happy", "very happy"}),
        ("unhappy", ["happy", "sad"], set()),
        ("that hat", ["hat", "that"], {"hat", "that"}),
        ("thathat", ["hat", "that"], set()),
        # The longer of two that cross, though the shorter one begins first.
        ("the man is very sad", ["the man is", "is very sad now", "man is very sad"], {"man is very sad"}),
        ("HAPPY!", ["Happy."], {"happy"}),
        ("very \n happy", ["very happy"], {"very happy"}),
        ("A or B", ["A", "B", "C"], {"a", "b"}),
        ("c++ (good)", ["c++", "(good)"], {"c++", "(good)"}),  # special characters are literal
        ("sad", ["sad", "Sad.", "?"], {"sad"}),  # duplicates are one, and a candidate without a word is none
    ],
)
def test_candidates_are_named_by_word_and_the_longest_counts(answer, candidates, named) -> None:
    assert named_candidates(answer, candidates) == named


@pytest.mark.parametrize("unit", ["sad ", "very ", " ", "sad angry "])
def test_long_answers_take_linear_time(unit) -> None:
    start = time.perf_counter()
    named_candidates(unit * 50_000, ["sad", "very happy", "angry", "very very sad"])
    assert time.perf_counter() - start < 5.0
