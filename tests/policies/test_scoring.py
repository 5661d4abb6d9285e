import torch

from cair_lightning.policies.scoring import token_logps


def test_blocks_change_neither_values_nor_gradients() -> None:
    torch.manual_seed(0)
    weight, hidden = torch.randn(5, 3, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    targets, weights = torch.tensor([0, 4, 2, 2, 1, 3, 0]), torch.arange(7.0)
    plain = torch.nn.functional.log_softmax(hidden @ weight.T / 0.7, -1)[torch.arange(7), targets]
    expected = torch.autograd.grad((weights * plain).sum(), [weight, hidden])
    for rows in (1, 3, 7, 100):
        got = token_logps(lambda h: h @ weight.T, hidden, targets, 0.7, rows)
        torch.testing.assert_close(got, plain)
        torch.testing.assert_close(torch.autograd.grad((weights * got).sum(), [weight, hidden]), expected)


def test_logits_exist_a_block_at_a_time() -> None:
    sizes = []

    def head(hidden: torch.Tensor) -> torch.Tensor:
        sizes.append(len(hidden))
        return hidden

    with torch.no_grad():
        token_logps(head, torch.zeros(7, 4), torch.zeros(7, dtype=torch.long), 1.0, rows=3)
    assert sizes == [3, 2, 2]


def test_temperature_zero_counts_as_one_and_nothing_scores_nothing() -> None:
    hidden, targets = torch.tensor([[2.0, 1.0]]), torch.tensor([1])
    zero, one = (token_logps(lambda h: h, hidden, targets, t) for t in (0.0, 1.0))
    assert torch.equal(zero, one)
    empty = token_logps(lambda h: h, torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), 1.0)
    assert (empty.shape, empty.dtype) == ((0,), torch.float32)
