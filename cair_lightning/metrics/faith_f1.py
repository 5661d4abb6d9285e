"""Faith-F1, the overlap of a rationale's keywords with the reference's."""

from __future__ import annotations

from collections.abc import Sequence

from cair_lightning.metrics.checks import check_references, check_same_length
from cair_lightning.metrics.functional import keyword_f1
from cair_lightning.metrics.keywords import Extractor, KeywordExtractor, extract_keywords
from cair_lightning.metrics.sample_mean import SampleMean


class FaithF1(SampleMean):
    """Mean F1 between keyword sets, sections 4.1 and A.1, in 0..1 (the tables print percent); nan without samples.

    Keywords are compared without regard to case. The references' keywords are fixed before any evaluation: extract them
    once, with the same extractor, by `extract_keywords`.

    >>> metric = FaithF1(extractor=lambda texts: [text.split() for text in texts])
    >>> metric.update(["lie friend", None], [["lie", "betray"], ["lie"]])
    >>> metric.compute().item()
    0.25
    """

    higher_is_better: bool | None = True

    def __init__(self, extractor: Extractor | None = None, top_n: int = 5) -> None:
        """Choose how keywords are found.

        Args:
            extractor: Returns the keywords of each text, the best ones first; None is `KeywordExtractor(top_n=top_n)`.
                One that is to be pickled with the metric must not be a lambda.
            top_n: How many of a rationale's keywords count.

        Raises:
            ValueError: `top_n` is below 1.
        """
        super().__init__()
        if top_n < 1:
            raise ValueError(f"expected top_n of at least 1 keyword, got {top_n}; the paper has 5")
        self.extractor = KeywordExtractor(top_n=top_n) if extractor is None else extractor
        self.top_n = top_n

    def update(self, rationales: Sequence[str | None], references: Sequence[Sequence[str]]) -> None:
        """Take in a batch.

        Args:
            rationales: One text per sample; None where a completion was malformed, which scores 0.
            references: The keywords of each sample's reference, at least one.

        Raises:
            ValueError: The lengths differ, or a reference is not a list of at least one keyword.
            ImportError: The default extractor lacks a package.
        """
        check_same_length("rationales", rationales, "references", references)
        check_references(references)
        texts = [rationale for rationale in rationales if rationale is not None]
        found = iter(extract_keywords(texts, self.extractor))
        self.add(keyword_f1([None if text is None else next(found)[: self.top_n] for text in rationales], references))
