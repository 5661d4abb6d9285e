"""Likeness of rationales to the reference rationales."""

from __future__ import annotations

from collections.abc import Sequence

from cair_lightning.metrics.functional import rouge_l
from cair_lightning.metrics.sample_mean import SampleMean


class RougeL(SampleMean):
    """Mean ROUGE-L F-measure by rouge-score, in 0..1 (Table 2 prints it times 100); nan without samples.

    >>> metric = RougeL()
    >>> metric.update(["he lost his job", None], ["she lost her job", "she left"])
    >>> metric.compute().item()
    0.25
    """

    higher_is_better: bool | None = True

    def __init__(self, use_stemmer: bool = False) -> None:
        """Choose what is compared.

        Args:
            use_stemmer: Whether to compare Porter stems rather than words.
        """
        super().__init__()
        self.use_stemmer = use_stemmer

    def update(self, predictions: Sequence[str | None], references: Sequence[str]) -> None:
        """Take in a batch.

        Args:
            predictions: Rationales; None where a completion was malformed, which scores 0.
            references: One reference rationale for each.

        Raises:
            ValueError: The lengths differ.
            ImportError: rouge-score is not installed.
        """
        self.add(rouge_l(predictions, references, self.use_stemmer))
