"""dH, the information that rationales add."""

from __future__ import annotations

from cair_lightning.metrics.beliefs import Beliefs
from cair_lightning.metrics.functional import information_gain
from cair_lightning.metrics.sample_mean import SampleMean


class InformationGain(SampleMean):
    """Mean dH = H(Y|X) - H(Y|X, z), section 4.1, in bits unless another base is asked for; nan without samples.

    A policy can raise it by mere overconfidence: read it beside `LogRatio` and `BeliefCalibration`.

    >>> import torch
    >>> metric = InformationGain()
    >>> metric.update([torch.tensor([0.5, 0.5]), torch.full((4,), 0.25)], [torch.tensor([0.5, 0.5]), torch.eye(4)[0]])
    >>> metric.compute().item()
    1.0
    """

    higher_is_better: bool | None = True

    def __init__(self, base: float = 2.0) -> None:
        """Choose the unit.

        Args:
            base: Of the logarithm: 2 gives bits, math.e nats.
        """
        super().__init__()
        self.base = base

    def update(self, p_obs: Beliefs, p_int: Beliefs) -> None:
        """Take in a batch.

        Args:
            p_obs: P(Y|X), path A; (N, Y), or N vectors where each sample has its own number of candidates.
            p_int: P(Y|X, do(z)), path B, over the same candidates.

        Raises:
            ValueError: Rows are no distributions, the paths do not match, or the base is not above 1.
        """
        self.add(information_gain(p_obs, p_int, self.base))
