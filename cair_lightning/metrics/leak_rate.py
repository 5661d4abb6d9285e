"""How often rationales give the answer away."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cair_lightning.metrics.checks import as_bool
from cair_lightning.metrics.sample_mean import SampleMean


class LeakRate(SampleMean):
    """Share of rationales, in 0..1, that name a candidate; nan without rationales.

    >>> metric = LeakRate()
    >>> metric.update([True, False, False, False])
    >>> metric.compute().item()
    0.25
    """

    higher_is_better: bool | None = False

    def update(self, leaks: Sequence[bool]) -> None:
        """Take in a batch.

        Args:
            leaks: Whether each rationale names a candidate. A malformed completion has no rationale: leave it out.

        Raises:
            TypeError: A value is no bool.
        """
        self.add(torch.tensor([as_bool(leak) for leak in leaks]))
