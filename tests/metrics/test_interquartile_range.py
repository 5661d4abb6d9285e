import math

import numpy as np
import pytest
import torch

from cair_lightning.metrics import InterquartileRange
from cair_lightning.metrics.functional import interquartile_range


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 100, 1001])
def test_agrees_with_numpy(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count) * 1e3
    upper, lower = np.percentile(values, [75, 25])
    metric = InterquartileRange()
    metric.update(torch.from_numpy(values))
    assert metric.compute().item() == pytest.approx(upper - lower, rel=1e-12, abs=1e-12)


def test_points_of_accuracy_by_scale() -> None:
    metric = InterquartileRange(scale=100)
    metric.update(0.61)
    metric.update([0.63, 0.65])
    metric.update(torch.tensor([[0.67, 0.69]], dtype=torch.float64))
    assert metric.compute().item() == pytest.approx(4.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_real_number_is_refused_and_not_kept(bad: float) -> None:
    metric = InterquartileRange()
    with pytest.raises(ValueError, match="finite"):
        metric.update([1.0, bad])
    metric.update([2.0])
    assert metric.compute().item() == 0.0
    with pytest.raises(ValueError, match="finite"):
        interquartile_range(torch.tensor([bad]))


def test_no_values_are_nan() -> None:
    assert interquartile_range(torch.tensor([])).isnan()
