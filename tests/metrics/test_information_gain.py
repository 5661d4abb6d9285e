import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from cair_lightning.metrics import InformationGain
from cair_lightning.metrics.functional import entropy, information_gain


def ragged(seed: int, samples: int = 40) -> list[Tensor]:
    random = np.random.default_rng(seed)
    sizes = np.random.default_rng(99).integers(1, 9, samples)
    return [torch.from_numpy(random.dirichlet(np.full(size, 0.3))) for size in sizes]


@pytest.mark.parametrize("base", [2.0, math.e, 10.0])
def test_entropy_agrees_with_scipy(base: float) -> None:
    beliefs = ragged(0)
    expected = [scipy.stats.entropy(p.numpy(), base=base) for p in beliefs]
    assert entropy(beliefs, base).tolist() == pytest.approx(expected, abs=1e-12)


def test_uniform_over_four_is_two_bits_and_certainty_is_zero() -> None:
    p_NY = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0, 1, 0, 0]])
    assert entropy(p_NY).tolist() == [2.0, 0.0]
    assert entropy(p_NY, base=math.e).tolist() == pytest.approx([math.log(4), 0.0])
    assert not entropy(p_NY).signbit().any()


def test_zero_padding_changes_nothing() -> None:
    p_NY = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4]])
    assert torch.equal(entropy(p_NY), entropy([p_NY[0, :2], p_NY[1]]))


def test_the_metric_is_the_mean_difference_in_bits() -> None:
    metric = InformationGain()
    metric.update(ragged(1), ragged(2))
    expected = [
        scipy.stats.entropy(p.numpy(), base=2) - scipy.stats.entropy(q.numpy(), base=2)
        for p, q in zip(ragged(1), ragged(2), strict=True)
    ]
    assert metric.compute().item() == pytest.approx(np.mean(expected), abs=1e-12)
    assert metric.compute().dtype == torch.float64


def test_gain_is_negative_where_the_rationale_confuses() -> None:
    assert information_gain(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])).tolist() == [-1.0]


def test_many_float32_samples_lose_no_digits() -> None:
    metric = InformationGain()
    p_obs, p_int = torch.tensor([[0.5, 0.5]]).expand(100_000, 2), torch.tensor([[0.9, 0.1]]).expand(100_000, 2)
    for _ in range(5):
        metric.update(p_obs, p_int)
    assert metric.compute().item() == pytest.approx(information_gain(p_obs[:1], p_int[:1]).item(), rel=1e-12)


def test_the_gradient_reaches_both_paths_and_no_graph_is_kept() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True)
    information_gain(logits.softmax(1), (2 * logits).softmax(1)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
    metric = InformationGain()
    metric(logits.softmax(1), (2 * logits).softmax(1))
    assert not metric.total.requires_grad


@pytest.mark.parametrize(
    ("p_obs", "message"),
    [
        (torch.tensor([[0.5, 0.502]]), "sum to 1"),
        (torch.tensor([[1.5, -0.5]]), "non-negative"),
        (torch.tensor([[math.nan, 1.0]]), "non-negative"),
        (torch.tensor([[math.inf, 0.0]]), "sum to 1"),
        (torch.zeros(1, 2), "sum to 1"),
        (torch.tensor([0.5, 0.5]), "matrix"),
        ([torch.tensor([[0.5, 0.5]])], "vector"),
        ([torch.tensor([])], "sum to 1"),
        ([torch.full((3,), 1 / 3)], "same candidates"),
        (torch.full((2, 2), 0.5), "same candidates"),
    ],
)
def test_what_is_no_pair_of_distributions_is_refused(p_obs: Tensor | list[Tensor], message: str) -> None:
    metric = InformationGain()
    with pytest.raises(ValueError, match=message):
        metric.update(p_obs, [torch.tensor([0.5, 0.5])])
    assert metric.count == 0


def test_a_sum_within_a_thousandth_is_accepted_and_the_bad_row_is_named() -> None:
    entropy(torch.tensor([[0.5, 0.5009]]))
    with pytest.raises(ValueError, match="in row 1"):
        entropy([torch.tensor([1.0]), torch.tensor([0.5, 0.4])])


@pytest.mark.parametrize("base", [1.0, 0.5, math.nan])
def test_a_base_that_is_none_is_refused(base: float) -> None:
    with pytest.raises(ValueError, match="above 1"):
        entropy(torch.tensor([[1.0]]), base)
