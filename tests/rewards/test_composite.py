"""Eq. 5 by hand, and the rows of Tables 2 and 3 as settings of it."""

from __future__ import annotations

import pytest
import torch

from cair_lightning.rewards import composite_reward

ACCURACY = torch.tensor([1.0, 0.0, 0.5])
FORMAT = torch.tensor([1.0, 1.0, 0.0])
MEDIATION = torch.tensor([0.2, -1.0, -3.0])
WEIGHTS = torch.tensor([0.5, 0.5, 2.0])


def test_sum_by_hand() -> None:
    total = composite_reward(ACCURACY, FORMAT, MEDIATION, WEIGHTS, alpha=2.0, beta=0.5)
    torch.testing.assert_close(total, torch.tensor([2.0 + 0.5 + 0.1, 0.0 + 0.5 - 0.5, 1.0 + 0.0 - 6.0]))


@pytest.mark.parametrize(
    ("mediation", "alpha", "beta", "expected"),
    [
        (None, 1.0, 0.0, [1.0, 0.0, 0.5]),  # Table 3, + Acc
        (None, 1.0, 1.0, [2.0, 1.0, 0.5]),  # Table 3, + Format; Table 2, Naive RL
        (MEDIATION, 1.0, 1.0, [2.1, 0.5, -5.5]),  # Table 3, + CMR
        (MEDIATION, 0.0, 0.0, [0.1, -0.5, -6.0]),  # the mediation alone
    ],
)
def test_ablation_rows(mediation, alpha, beta, expected) -> None:
    total = composite_reward(ACCURACY, FORMAT, mediation, WEIGHTS, alpha, beta)
    torch.testing.assert_close(total, torch.tensor(expected))


def test_weights_are_not_needed_without_mediation() -> None:
    torch.testing.assert_close(composite_reward(ACCURACY, FORMAT, None, None), ACCURACY + FORMAT)


def test_sum_is_float32() -> None:
    half = [tensor.bfloat16() for tensor in (ACCURACY, FORMAT, MEDIATION, WEIGHTS)]
    assert composite_reward(*half).dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ACCURACY, FORMAT, MEDIATION, None), "weights_N"),
        ((ACCURACY, FORMAT[:2], None, None), "format_N"),
        ((ACCURACY, FORMAT, MEDIATION[:1], WEIGHTS), "mediation_N"),
        ((ACCURACY, FORMAT, MEDIATION, WEIGHTS[:1]), "weights_N"),  # would be broadcast: one prompt's weight for all
        ((ACCURACY[:, None], FORMAT[:, None], None, None), "one number per completion"),
        ((ACCURACY, FORMAT, None, None, -1.0), "alpha"),
        ((ACCURACY, FORMAT, None, None, 1.0, -1.0), "beta"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        composite_reward(*arguments)
