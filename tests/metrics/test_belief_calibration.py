import math

import numpy as np
import numpy.typing as npt
import pytest
import sklearn.metrics
import torch

from cair_lightning.metrics import BeliefCalibration
from cair_lightning.metrics.functional import calibration_bins, expected_calibration_error


def sample(samples: int = 500, candidates: int = 7) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    random = np.random.default_rng(0)
    return random.dirichlet(np.full(candidates, 0.5), samples), random.integers(0, candidates, samples)


def ece_reference(p: npt.NDArray[np.float64], target: npt.NDArray[np.int64], bins: int) -> float:
    confidence, hit = p.max(1), p.argmax(1) == target
    error = 0.0
    for lower in np.arange(bins) / bins:
        inside = (confidence > lower) & (confidence <= lower + 1 / bins)
        if inside.any():
            error += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    return error


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_agrees_with_scikit_learn_and_numpy(bins: int) -> None:
    p, target = sample()
    metric = BeliefCalibration(bins)
    metric.update(torch.from_numpy(p), torch.from_numpy(target))
    value = metric.compute()
    assert value["nll"].item() == pytest.approx(sklearn.metrics.log_loss(target, p, labels=range(7)), rel=1e-12)
    assert value["ece"].item() == pytest.approx(ece_reference(p, target, bins), rel=1e-12)


def test_ragged_and_padded_beliefs_agree() -> None:
    padded = torch.tensor([[0.6, 0.4, 0.0], [0.2, 0.3, 0.5]])
    dense, lists = BeliefCalibration(), BeliefCalibration()
    dense.update(padded, [0, 1])
    lists.update([padded[0, :2], padded[1]], [0, 1])
    assert dense.compute() == lists.compute()


def test_a_true_answer_without_probability_costs_a_finite_price() -> None:
    metric = BeliefCalibration()
    metric.update(torch.tensor([[1.0, 0.0]]), [1])
    assert metric.compute()["nll"].item() == pytest.approx(-math.log(2.0**-126))
    assert metric.compute()["ece"].item() == 1.0


def test_the_upper_edge_belongs_to_a_bin_and_the_first_of_equals_is_the_answer() -> None:
    p_NY = torch.tensor([[0.5, 0.5], [0.75, 0.25], [0.0, 1.0]], dtype=torch.float64)
    sums = calibration_bins(p_NY, [0, 1, 1], bins=4)
    assert sums.tolist() == [[0, 0, 0], [1, 1, 0.5], [1, 0, 0.75], [1, 1, 1]]
    assert expected_calibration_error(sums).item() == pytest.approx((0.5 + 0.75 + 0) / 3)


def test_float32_rounding_above_one_stays_in_the_last_bin() -> None:
    assert calibration_bins(torch.tensor([[1.0000001, 0.0]]), [0], bins=3)[2, 0] == 1


def test_no_bin_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 bin"):
        BeliefCalibration(bins=0)
    with pytest.raises(ValueError, match="at least 1 bin"):
        calibration_bins(torch.tensor([[1.0]]), [0], bins=0)


def test_a_bad_target_leaves_the_state_alone() -> None:
    metric = BeliefCalibration()
    with pytest.raises(ValueError, match=r"in 0\.\.1"):
        metric.update(torch.tensor([[0.5, 0.5]]), [2])
    assert metric.bin_sums.sum() == 0
    assert metric.nll_sum == 0
