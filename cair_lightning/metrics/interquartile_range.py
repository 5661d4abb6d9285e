"""The spread that Table 4 calls stability."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from cair_lightning.metrics.checks import check_finite
from cair_lightning.metrics.functional import interquartile_range


class InterquartileRange(Metric):
    """Third minus first quartile of a stream of values, times `scale`, in the values' unit; nan without values.

    Quartiles are interpolated linearly, as by numpy.percentile. Give it accuracies in 0..1 and a scale of 100 for the
    percentage points of Table 4. All values are kept, since quartiles cannot be summed.

    >>> metric = InterquartileRange(scale=100)
    >>> metric.update([0.25, 0.5, 0.75])
    >>> metric.compute().item()
    25.0
    """

    is_differentiable: bool | None = False
    higher_is_better: bool | None = False
    full_state_update: bool | None = False

    values: list[Tensor]
    """Vectors, float64."""

    def __init__(self, scale: float = 1.0) -> None:
        """Choose the unit.

        Args:
            scale: Factor on the result.
        """
        super().__init__()
        # A rank that has seen nothing sends an empty vector of this dtype, which has to be the one that others send.
        self.set_dtype(torch.float64)
        self.scale = scale
        self.add_state("values", [], dist_reduce_fx="cat")

    def update(self, values: Tensor | Sequence[float] | float) -> None:
        """Take in values of any shape.

        Raises:
            ValueError: A value is nan or infinite.
        """
        added = torch.as_tensor(values, dtype=torch.float64).detach().flatten().to(self.device)
        check_finite(added)
        self.values.append(added)

    def compute(self) -> Tensor:
        """The range, a float64 scalar."""
        if not len(self.values):
            return torch.tensor(math.nan, dtype=torch.float64, device=self.device)
        return interquartile_range(dim_zero_cat(self.values), self.scale)
