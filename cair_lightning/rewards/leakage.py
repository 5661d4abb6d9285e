"""Leakage guard: is a candidate named in z? "The answer is angry" raises P(y*) without any cause.

A candidate is named by its own word, by an inflection or by a synonym, always as a whole word: `sad` is named by
"sadness" and by "unhappy", `hat` is not named by "that". English only.

How the lexicon was reviewed. A word belongs to a label if, put for it in "the person feels ..." or "the person's ...",
it states the same emotion. Left out on purpose:

* milder or neighbouring states, which some data set has as a label of its own: annoyed and irritated are not anger,
  worried is not fear, calm is not neutral; and upset, which fits sad and angry alike;
* what is seen or heard and is evidence, not a name: tears, smile, laughter, scream, trembling;
* words that mostly mean something else in a description: mad, down and blue stand only in phrases ("mad at", "feeling
  down"); like, content, cross, gross, cheers, terrific, dreadful, amazing, stunning and outrageous do not stand at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from cair_lightning.rewards.words import normalised, word_wise

PLACEHOLDER = "[...]"
"""What `LeakageLexicon.mask` writes by default; it holds no word, so it can neither name nor complete a phrase."""

# Per emotion: the labels with their inflections (each is a label that data sets use, or may), then the synonyms. A
# comma ends an entry of several words.
EMOTIONS: tuple[tuple[str, str], ...] = (
    (
        "neutral neutrally neutrality",
        "unemotional unemotionally emotionless emotionlessly impassive impassively, no emotion, no emotions, "
        "no particular emotion, no strong emotion, without emotion, lack of emotion",
    ),
    (
        "happy happier happiest happily happiness joy joys joyful joyfully joyfulness joyous joyously joyousness",
        "glad gladness delight delights delighted delightedly pleased cheerful cheerfully cheerfulness overjoyed "
        "elated elation gleeful gleefully glee jubilant jubilantly jubilation rejoice rejoices rejoiced rejoicing "
        "ecstatic ecstatically blissful blissfully thrilled",
    ),
    (
        # Not sadden, saddens and saddening: they tell of what causes it. A person who is saddened is sad.
        "sad sadder saddest sadly sadness",
        "saddened unhappy unhappier unhappily unhappiness sorrow sorrows sorrowful sorrowfully grief grieve grieves "
        "grieved grieving miserable miserably misery gloomy gloomily gloom dejected dejectedly dejection despondent "
        "despondently despondency heartbroken melancholy melancholic mournful mournfully depressed depressing "
        "depression downcast downhearted, feeling down, feels down, feel down, felt down, feeling blue, feels blue",
    ),
    (
        "anger angers angered angering angry angrier angriest angrily",
        "furious furiously fury rage rages raged raging enraged enraging infuriate infuriates infuriated infuriating "
        "irate irately ireful wrath wrathful wrathfully livid incensed outrage outraged fuming seething, mad at, "
        "gets mad, got mad, getting mad, makes him mad, makes her mad, makes them mad",
    ),
    (
        "fear fears feared fearing fearful fearfully fearfulness afraid scared",
        "scare scares scaring scary scarier fright frighten frightens frightened frightening "
        "frighteningly frightful terror terrors terrify terrifies terrified terrifying terrifyingly petrified panic "
        "panics panicked panicking panicky dread dreads dreaded dreading horrified alarmed spooked",
    ),
    (
        "disgust disgusts disgusted disgustedly disgusting disgustingly disgustful",
        "revulsion revolted revolting repulse repulsed repulsion repulsive repugnance repugnant loathing loathe "
        "loathes loathed loathsome abhor abhors abhorred abhorrence abhorrent nauseated nauseating sickened, "
        "grossed out, grosses him out, grosses her out",
    ),
    (
        "surprise surprises surprised surprisedly surprising surprisingly",
        "astonish astonishes astonished astonishing astonishingly astonishment amazed amazement astound astounds "
        "astounded astounding startle startles startled startling shock shocks shocked shocking shockingly stunned "
        "dumbfounded flabbergasted thunderstruck, taken aback",
    ),
    (
        "excite excites excited excitedly exciting excitingly excitement",
        "thrill thrills thrilled thrilling exhilarated exhilarating exhilaration",
    ),
    (
        "frustrate frustrates frustrated frustratedly frustrating frustratingly frustration frustrations",
        "exasperated exasperatedly exasperating exasperation, fed up",
    ),
    ("worry worries worried worriedly worrying worryingly", "anxious anxiously anxiety anxieties apprehensive"),
    ("contempt contemptuous contemptuously", "scorn scornful scornfully disdain disdainful disdainfully"),
    ("calm calms calmer calmest calmly calmness calmed", "serene serenely serenity"),
)

# As labels these cannot be told from everyday words, so no z is said to name them. Single letters belong here too.
UNNAMEABLE = frozenset({"yes", "no", "other", "none", "not"})

# Forms that the rules derive and that are another, common word ("numb", "number").
COLLISIONS = frozenset({"number"})


class LeakageLexicon:
    """Finds the candidates of a closed set Y that a rationale names.

    A label of one word is looked for in every form that the reviewed lexicon knows or, if the lexicon does not know
    it, in its regular English inflections. A label of several words is an option sentence and is looked for as the
    whole phrase only. Patterns are compiled once per candidate set; a search takes time linear in z's length.

    Args:
        extra: Further names per label, for labels or languages that the lexicon does not know:
            `{"proud": ["pride", "puffed up"]}`. They are added to what is looked for anyway.

    Raises:
        ValueError: A label or a name in `extra` holds no word.

    >>> LeakageLexicon().mask("Her sadness shows; that hat is fine.", ["sad", "hat"], "___")
    'Her ___ shows; that ___ is fine.'
    """

    def __init__(self, extra: Mapping[str, Sequence[str]] | None = None) -> None:
        named = {normalised(label): tuple(map(normalised, names)) for label, names in (extra or {}).items()}
        if "" in named or any("" in names for names in named.values()):
            raise ValueError(
                f"expected labels and names with at least one word in extra, got {extra}; drop the empty ones"
            )
        self._extra = tuple(named.items())

    def spans(self, rationale: str, candidates: Sequence[str]) -> list[tuple[int, int]]:
        """Where `rationale` names a candidate: (first character, one behind the last), in order, not overlapping."""
        return [found.span() for found in self._pattern(candidates).finditer(rationale)]

    def leaks(self, rationale: str, candidates: Sequence[str]) -> bool:
        """Whether `rationale` names a candidate, the right or a wrong one; negated ("not angry") counts as well."""
        return self._pattern(candidates).search(rationale) is not None

    def mask(self, rationale: str, candidates: Sequence[str], placeholder: str = PLACEHOLDER) -> str:
        """`rationale` with every named candidate replaced.

        The result leaks no more, unless a placeholder of your own happens to complete an option sentence.

        Raises:
            ValueError: `placeholder` is blank, or names a candidate itself.
        """
        pattern = self._pattern(candidates)
        if not placeholder.strip() or pattern.search(placeholder):
            raise ValueError(f"expected a placeholder that is not blank and names no candidate, got {placeholder!r}")
        return pattern.sub(lambda _: placeholder, rationale)

    def _pattern(self, candidates: Sequence[str]) -> re.Pattern[str]:
        return _compiled(tuple(candidates), self._extra)


def regular_inflections(word: str) -> set[str]:
    """`word` with its regular English inflections, whatever part of speech it is.

    Plural or third person, past, -ing, comparative, superlative, -ly and -ness. Forms that do not exist do no harm;
    forms that are another word do, so an -ed or -ing label gets its sister participle but not the verb, which would
    be a guess ("scared" would give "scar").

    >>> sorted(regular_inflections("lonely"))[:4]
    ['lonelied', 'lonelier', 'lonelies', 'loneliest']
    """
    if re.fullmatch(r"\w*[aeiouy]\w+(ed|ing)", word):
        stem = word.removesuffix("ing") if word.endswith("ing") else word.removesuffix("ed")
        past = f"{stem}d" if stem.endswith("e") else f"{stem}ed"
        return {word, past, f"{past}ly", f"{stem}ing", f"{stem}ings", f"{stem}ingly"}
    if re.search(r"[^aeiou]y$", word):
        endings = ("ies", "ied", "ier", "iest", "ily", "iness", "ying")
        return {word} | {word[:-1] + ending for ending in endings}
    if word.endswith("e"):
        stem = word[:-1]
        forms = {word} | {word + ending for ending in ("s", "d", "r", "st", "ly", "ness")} | {f"{stem}ing"}
        return forms | ({f"{stem}y"} if word.endswith("le") else set())
    verbal = ("ed", "ing", "er", "est")
    plural = "es" if re.search(r"(s|x|z|ch|sh)$", word) else "s"
    forms = {word} | {word + ending for ending in (plural, "ly", "ness")}
    # A short word doubles its last letter and does nothing else: "hat" gives "hatted", and "hated" is not its form.
    doubles = re.search(r"[^aeiou][aeiou][^aeiouwxy]$", word) is not None
    if not (doubles and len(re.findall(r"[aeiouy]+", word)) == 1):
        forms |= {word + ending for ending in verbal}
    if doubles:
        forms |= {word + word[-1] + ending for ending in verbal}
    return forms - COLLISIONS


def _names(label: str, extra: Mapping[str, tuple[str, ...]]) -> set[str]:
    further = set(extra.get(label, ()))
    if " " in label:
        return further | {label}
    if len(label) <= 1 or label in UNNAMEABLE:
        return further
    known = [_entries(forms) | _entries(synonyms) for forms, synonyms in EMOTIONS if label in _entries(forms)]
    return further | (known[0] if known else regular_inflections(label))


def _entries(text: str) -> set[str]:
    """Words of the part before the first comma, then one phrase per comma."""
    words, *phrases = text.split(",")
    return {*words.split(), *(phrase.strip() for phrase in phrases)}


@lru_cache(maxsize=4096)
def _compiled(candidates: tuple[str, ...], extra: tuple[tuple[str, tuple[str, ...]], ...]) -> re.Pattern[str]:
    names: set[str] = set()
    for label in {normalised(candidate) for candidate in candidates}:
        names |= _names(label, dict(extra))
    return re.compile(word_wise(names), re.IGNORECASE)
