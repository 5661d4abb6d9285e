"""The mean over samples that most of the metrics are."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class SampleMean(Metric):
    """Mean of one value per sample, over all batches and ranks; nan where there was no sample.

    Sums are kept in float64. A subclass defines `update`, which hands its values to `add`.
    """

    is_differentiable: bool | None = False
    full_state_update: bool | None = False

    total: Tensor
    """Sum of the values, float64."""
    count: Tensor
    """Number of samples, int64."""

    def __init__(self) -> None:
        """Start at no sample."""
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def add(self, values_N: Tensor) -> None:
        """Take in the values (N,) of one batch."""
        self.total += values_N.detach().double().sum().to(self.total.device)
        self.count += len(values_N)

    def compute(self) -> Tensor:
        """The mean, a float64 scalar."""
        return self.total / self.count
