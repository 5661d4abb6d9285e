"""A candidate named in z: by word, inflection and synonym, never by substring."""

from __future__ import annotations

import pickle
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cair_lightning.rewards import PLACEHOLDER, LeakageLexicon
from cair_lightning.rewards.leakage import EMOTIONS, regular_inflections

MELD = ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"]
IEMOCAP = ["Anger", "Happiness", "Excited", "Sadness", "Neutral", "Frustration", "Fear", "Surprise", "Disgust", "Other"]
MTMEUR = ["disgust", "sadness", "happy", "surprise", "excited", "angry", "fear"]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("she is sad", "sad"),
        ("her sadness shows", "sad"),
        ("she smiles sadly", "sad"),
        ("SAD!", "sad"),
        ("the saddest of them", "sadness"),
        ("he is unhappy", "sad"),
        ("full of sorrow", "sadness"),
        ("he feels down today", "sad"),
        ("angry", "anger"),
        ("anger-driven", "angry"),
        ("her anger's cause", "anger"),
        ("he is furious", "angry"),
        ("mad   at\nhim", "anger"),
        ("joyful", "happy"),
        ("happily", "joy"),
        ("delighted", "Happiness"),
        ("afraid of him", "fear"),
        ("fearfully", "fearful"),
        ("terrified", "fear"),
        ("frightened", "scared"),
        ("a disgusting smell", "disgust"),
        ("revulsion", "disgusted"),
        ("he was taken aback", "surprise"),
        ("startled", "surprised"),
        ("thrilled", "excited"),
        ("excitement", "excited"),
        ("shows no particular emotion", "neutral"),
        ("neutrally", "neutral"),
        ("frustrated", "Frustration"),
        ("worry", "worried"),
        ("_sad_", "sad"),  # the underscore is no letter
    ],
)
def test_named(text, label) -> None:
    assert LeakageLexicon().leaks(text, [label])


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("this will sadden her", "sad"),  # the substring, and a word about the cause
        ("a crusade of ambassadors", "sad"),
        ("that is what she said", "hat"),
        ("enjoying the meal", "joy"),
        ("he is a stranger in danger", "anger"),
        ("the mad scientist walks down the stairs", "sad"),
        ("the mad scientist walks down the stairs", "angry"),
        ("I like the content, cheers", "happy"),
        ("a terrific, amazing dinner", "surprise"),
        ("please come in", "happy"),
        ("unhappy", "happy"),  # it names sadness instead
        ("he cries and his voice trembles", "sad"),  # evidence, not a name
        ("she is annoyed", "anger"),  # another label's word
        ("she is calm", "neutral"),
        ("the other man, and no one else", "Other"),
        ("no, there is no reason", "No"),
        ("a man", "A"),
        ("a number of men", "numb"),
        ("he hated it", "hat"),
        ("his scar", "scared"),
    ],
)
def test_not_named(text, label) -> None:
    assert not LeakageLexicon().leaks(text, [label])


@pytest.mark.parametrize("labels", [MELD, IEMOCAP, MTMEUR])
def test_every_label_of_the_data_sets_names_itself_and_neutral_words_name_none(labels) -> None:
    lexicon = LeakageLexicon()
    for label in labels:
        assert lexicon.leaks(f"The answer is {label}.", labels) == (label != "Other")
    plain = "The man lowers his gaze, his voice shakes, and he turns away after she tells him what his brother did."
    assert not lexicon.leaks(plain, labels)


def test_labels_of_one_emotion_are_interchangeable_and_emotions_are_not() -> None:
    lexicon = LeakageLexicon()
    heads = [forms.split() for forms, _ in EMOTIONS]
    for forms in heads:
        assert all(lexicon.leaks(text, [label]) for text in forms for label in forms)
    assert sorted({form for forms in heads for form in forms}) == sorted(form for forms in heads for form in forms)


def test_lexicon_entries_are_lower_case_words_that_occur_once_per_emotion() -> None:
    for forms, synonyms in EMOTIONS:
        words, *phrases = synonyms.split(",")
        entries = [*forms.split(), *words.split(), *(phrase.strip() for phrase in phrases)]
        assert len(entries) == len(set(entries))
        assert all(entry == entry.lower() and entry.replace(" ", "").isalpha() for entry in entries)
        assert all(" " in phrase.strip() for phrase in phrases)


@pytest.mark.parametrize(
    ("word", "forms"),
    [
        ("lonely", {"lonelier", "loneliest", "loneliness"}),
        ("annoy", {"annoys", "annoyed", "annoying"}),
        ("hope", {"hopes", "hoped", "hoping"}),
        ("gentle", {"gently", "gentler", "gentlest", "gentleness"}),
        ("jealous", {"jealously", "jealousness"}),
        ("wish", {"wishes", "wished", "wishing"}),
        ("calm", {"calms", "calmed", "calmer", "calmest", "calmly", "calmness"}),
        ("hat", {"hats", "hatted"}),
        ("refer", {"referred", "referring"}),
        ("offer", {"offered", "offering"}),
        ("confused", {"confusing", "confusedly"}),
        ("agreeing", {"agreed", "agreeing"}),
        ("consoling", {"consoled"}),
        ("positive", {"positives", "positively", "positiveness"}),
    ],
)
def test_regular_inflections(word, forms) -> None:
    assert forms | {word} <= regular_inflections(word)


@pytest.mark.parametrize(
    ("word", "form"),
    [("hat", "hated"), ("scared", "scar"), ("pleased", "please"), ("numb", "number"), ("tired", "tire")],
)
def test_inflections_avoid_other_words(word, form) -> None:
    assert form not in regular_inflections(word)


def test_label_outside_the_lexicon_is_inflected_by_rule() -> None:
    lexicon = LeakageLexicon()
    assert lexicon.leaks("his loneliness", ["lonely"])
    assert lexicon.leaks("a confusing remark", ["confused"])
    assert not lexicon.leaks("alone", ["lonely"])


def test_option_sentences_match_only_as_a_whole() -> None:
    lexicon = LeakageLexicon()
    options = ["He is sad because he lost.", "very happy"]
    assert lexicon.leaks("So: he IS sad  because\nhe lost, clearly", options)
    assert not lexicon.leaks("he is sad", options)
    assert not lexicon.leaks("he is sad because he lost items", ["he is sad because he lost it"])
    assert not lexicon.leaks("happy", options)
    assert not lexicon.leaks("every happy man", options)
    assert not lexicon.leaks("very happily", options)


def test_spans_are_in_order_and_take_the_longest() -> None:
    text = "Sadly, the sad man is mad at her; unhappiness."
    spans = LeakageLexicon().spans(text, ["sad", "angry"])
    assert [text[start:end] for start, end in spans] == ["Sadly", "sad", "mad at", "unhappiness"]
    assert LeakageLexicon().spans("", ["sad"]) == []
    assert LeakageLexicon().spans("a sad man", ["sad", "sad man"]) == [(2, 9)]


def test_mask_writes_the_placeholder_literally() -> None:
    lexicon = LeakageLexicon()
    assert lexicon.mask("Sadness: she is sad's sister.", ["sad"], r"\1") == r"\1: she is \1's sister."
    assert lexicon.mask("she lost", ["sad"]) == "she lost"
    assert lexicon.mask("", ["sad"]) == ""


@pytest.mark.parametrize("placeholder", ["", " ", "sad", "an unhappy one"])
def test_placeholder_that_leaks_or_vanishes_is_refused(placeholder) -> None:
    with pytest.raises(ValueError, match="placeholder"):
        LeakageLexicon().mask("she is sad", ["sad"], placeholder)


words = st.sampled_from(["sad", "Sadly", "very", "happy", "mad", "at", "joy", "no", "emotion", "he", "feels", "down"])


@given(parts=st.lists(words, max_size=12), glue=st.sampled_from([" ", "  ", "\n", ", ", "-", "_", ""]))
def test_masked_text_leaks_no_more(parts, glue) -> None:
    lexicon, text = LeakageLexicon(), glue.join(parts)
    candidates = ["sad", "joy", "very happy", "anger", "neutral"]
    masked = lexicon.mask(text, candidates)
    assert not lexicon.leaks(masked, candidates)
    assert masked.count(PLACEHOLDER) == len(lexicon.spans(text, candidates))
    assert (masked != text) == lexicon.leaks(text, candidates)


def test_extra_names_are_added() -> None:
    lexicon = LeakageLexicon({"Proud": ["pride", "puffed up"], "other": ["something else"], "sad": ["blue"]})
    assert lexicon.leaks("full of pride", ["proud"])
    assert lexicon.leaks("puffed  up", ["proud"])
    assert lexicon.leaks("proudly", ["proud"])
    assert lexicon.leaks("something else", ["Other"])
    assert lexicon.leaks("so blue", ["sadness", "sad"])
    assert not lexicon.leaks("full of pride", ["sad"])
    assert not LeakageLexicon().leaks("full of pride", ["proud"])


@pytest.mark.parametrize("extra", [{"": ["x"]}, {"proud": ["..."]}])
def test_empty_extra_names_are_refused(extra) -> None:
    with pytest.raises(ValueError, match="at least one word"):
        LeakageLexicon(extra)


def test_candidates_without_a_name_are_never_leaked() -> None:
    assert not LeakageLexicon().leaks("anything at all", [])
    assert not LeakageLexicon().leaks("anything? at all", ["?"])


def test_lexicon_can_be_pickled_to_other_ranks() -> None:
    lexicon = pickle.loads(pickle.dumps(LeakageLexicon({"proud": ["pride"]})))
    assert lexicon.leaks("full of pride", ["proud"])


@pytest.mark.parametrize("unit", ["sad ", "no ", " ", "no particular ", "x"])
def test_time_is_linear(unit) -> None:
    text = "no" + unit * 20_000
    start = time.perf_counter()
    LeakageLexicon().mask(text, [*MELD, "no no no no emotion", "very sad"])
    # A blank that every start had to walk through would cost 4e8 steps.
    assert time.perf_counter() - start < 5.0
