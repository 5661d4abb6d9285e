"""The causal mediation reward as a measure: what rationales add to the true answer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cair_lightning.metrics.beliefs import Beliefs
from cair_lightning.metrics.functional import log_ratio
from cair_lightning.metrics.sample_mean import SampleMean


class LogRatio(SampleMean):
    """Mean of log P(y*|X, do(z)) - log P(y*|X), eq. 4 without clipping, in nats; nan without samples.

    Probabilities below 1.2e-38 count as 1.2e-38, so that one sample weighs at most 87.34 nats.

    >>> import torch
    >>> metric = LogRatio()
    >>> metric.update(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 1.0]]), [1])
    >>> metric.compute().exp().item()
    2.0
    """

    higher_is_better: bool | None = True

    def update(self, p_obs: Beliefs, p_int: Beliefs, target: Tensor | Sequence[int]) -> None:
        """Take in a batch.

        Args:
            p_obs: P(Y|X), path A; (N, Y), or N vectors where each sample has its own number of candidates.
            p_int: P(Y|X, do(z)), path B, over the same candidates.
            target: Index of y* among each sample's candidates, (N,).

        Raises:
            ValueError: Rows are no distributions, the paths do not match, or a target is no candidate.
        """
        self.add(log_ratio(p_obs, p_int, target))
