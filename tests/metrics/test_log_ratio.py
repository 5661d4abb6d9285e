import math

import pytest
import torch

from cair_lightning.metrics import LogRatio
from cair_lightning.metrics.functional import log_ratio

P_OBS = [torch.tensor([0.5, 0.5]), torch.tensor([0.2, 0.3, 0.5])]
P_INT = [torch.tensor([0.25, 0.75]), torch.tensor([0.4, 0.4, 0.2])]


def test_hand_checked_mean_in_nats() -> None:
    metric = LogRatio()
    metric.update(P_OBS, P_INT, torch.tensor([1, 0]))
    assert metric.compute().item() == pytest.approx((math.log(1.5) + math.log(2)) / 2, rel=1e-6)


def test_nothing_is_clipped_until_the_smallest_float32() -> None:
    certain, lost = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert log_ratio(certain, lost, [0]).item() == pytest.approx(math.log(torch.finfo(torch.float32).tiny))
    assert log_ratio(lost, certain, [0]).item() == pytest.approx(-math.log(torch.finfo(torch.float32).tiny))
    assert log_ratio(lost, lost, [0]).item() == 0.0
    tiny = torch.tensor([[1e-30, 1.0]], dtype=torch.float64)
    assert log_ratio(certain, tiny, [0]).item() == pytest.approx(-30 * math.log(10))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([0, 3], r"targets\[1\] in 0..2"),
        ([2, 0], r"targets\[0\] in 0..1"),  # inside the padded width, outside the sample's own candidates
        ([-1, 0], r"targets\[0\]"),
        ([0], "2 target indices"),
        ([[0, 0]], "2 target indices"),
        (torch.tensor([0.0, 1.0]), "integers"),
        (torch.tensor([True, False]), "integers"),
    ],
)
def test_a_target_that_is_no_candidate_is_refused(target: list[int] | torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LogRatio().update(P_OBS, P_INT, target)


def test_paths_over_other_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match="same candidates"):
        LogRatio().update(P_OBS, P_INT[::-1], [0, 0])
