"""Whether a belief deserves its certainty."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from cair_lightning.metrics.beliefs import Beliefs
from cair_lightning.metrics.functional import calibration_bins, expected_calibration_error, negative_log_likelihood


class BeliefCalibration(Metric):
    """Negative log-likelihood of the true answer and calibration of one belief; nan without samples.

    `compute` returns `nll`, the mean of -log P(y*) in nats, at most 87.34 for each sample (probabilities below 1.2e-38
    count as 1.2e-38), and `ece`, the expected calibration error in 0..1 of the most probable candidate over bins of
    equal width (Guo et al., 2017, https://arxiv.org/abs/1706.04599).

    >>> metric = BeliefCalibration()
    >>> metric.update(torch.tensor([[0.25, 0.75], [0.5, 0.5]]), [1, 0])
    >>> {name: round(value.item(), 3) for name, value in metric.compute().items()}
    {'nll': 0.49, 'ece': 0.375}
    """

    is_differentiable: bool | None = False
    higher_is_better: bool | None = False
    full_state_update: bool | None = False

    bin_sums: Tensor
    """(bins, 3), float64: samples, right answers, sum of confidences."""
    nll_sum: Tensor
    """Float64, in nats."""

    def __init__(self, bins: int = 15) -> None:
        """Choose the resolution.

        Args:
            bins: Number of bins of equal width.

        Raises:
            ValueError: There is no bin.
        """
        super().__init__()
        if bins < 1:
            raise ValueError(f"expected at least 1 bin, got {bins}; 15 is usual")
        self.bins = bins
        self.add_state("bin_sums", torch.zeros(bins, 3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("nll_sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, p: Beliefs, target: Tensor | Sequence[int]) -> None:
        """Take in a batch.

        Args:
            p: One path's belief; (N, Y), or N vectors where each sample has its own number of candidates.
            target: Index of y* among each sample's candidates, (N,).

        Raises:
            ValueError: Rows are no distributions, or a target is no candidate.
        """
        device = self.nll_sum.device
        self.nll_sum += negative_log_likelihood(p, target).detach().sum().to(device)
        self.bin_sums += calibration_bins(p, target, self.bins).detach().to(device)

    def compute(self) -> dict[str, Tensor]:
        """`nll` in nats and `ece`, float64 scalars."""
        return {"nll": self.nll_sum / self.bin_sums[:, 0].sum(), "ece": expected_calibration_error(self.bin_sums)}
