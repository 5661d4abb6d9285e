"""Accuracy per emotion, with malformed completions as misses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from cair_lightning.metrics.functional import emotion_accuracy, emotion_counts


class EmotionAccuracy(Metric):
    """Accuracy overall and per emotion, as shares in 0..1.

    `compute` returns `accuracy`, `unparsed` (the share of malformed completions) and `accuracy/<emotion>` for every
    emotion, nan where there was no sample. A malformed completion is a miss of its sample's emotion, never a class.

    >>> metric = EmotionAccuracy(["happy", "sad"])
    >>> metric.update([True, False, None, True], ["happy", "sad", "sad", "sad"])
    >>> {name: round(share.item(), 2) for name, share in metric.compute().items()}
    {'accuracy': 0.5, 'unparsed': 0.25, 'accuracy/happy': 1.0, 'accuracy/sad': 0.33}
    """

    is_differentiable: bool | None = False
    higher_is_better: bool | None = True
    full_state_update: bool | None = False

    counts: Tensor
    """(emotions, 3), int64: wrong, right, unparsed."""

    def __init__(self, emotions: Sequence[str]) -> None:
        """Name the categories.

        Args:
            emotions: All categories, in the order of the result.

        Raises:
            ValueError: There is none, or one is named twice.
        """
        super().__init__()
        if not emotions or len(set(emotions)) < len(emotions):
            raise ValueError(
                f"expected at least one emotion and none twice, got {list(emotions)}; name each category once"
            )
        self.emotions = list(emotions)
        self.add_state("counts", torch.zeros(len(self.emotions), 3, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, correct: Sequence[bool | None], emotions: Sequence[str]) -> None:
        """Take in a batch.

        Args:
            correct: Whether each answer is right; None where the completion was malformed.
            emotions: The category under which each sample is reported.

        Raises:
            ValueError: The lengths differ, or a category was not named at construction.
            TypeError: An outcome is neither a bool nor None.
        """
        self.counts += emotion_counts(correct, emotions, self.emotions).to(self.counts.device)

    def compute(self) -> dict[str, Tensor]:
        """The shares by name, float64 scalars."""
        return emotion_accuracy(self.counts, self.emotions)
