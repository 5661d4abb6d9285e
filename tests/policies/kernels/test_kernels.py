"""Every way to compute a layout's attention, in value and gradient, against a softmax over the keys that are seen."""

import random
import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from cair_lightning.policies.attention import TreeAttend
from cair_lightning.policies.kernels import cascade, dense, flex, varlen
from cair_lightning.policies.tree import Branch, Kept, Layout, pack

HEADS, SHARED, WIDTH = 4, 2, 8
SCALE = 0.3
Kernel = Callable[[Tensor, Tensor, Tensor, float], Tensor]
CPU = torch.device("cpu")


def layouts() -> dict[str, Layout]:
    """A group behind its prompt, trees of several levels, plain rows, prompts, and labels of kept completions."""
    rng = random.Random(0)

    def ids(size: int) -> list[int]:
        return [1] * size

    def positions(*sizes: int) -> list[Tensor]:
        return [torch.arange(size).expand(3, -1) for size in sizes]

    group = [Branch(ids=ids(rng.randrange(3, 40))) for _ in range(6)]
    tree = [Branch(ids=ids(9)), Branch(ids=ids(3), parent=0, at=4), *(Branch(ids=ids(2), parent=1) for _ in range(3))]
    tree += [Branch(ids=ids(5), at=7), *(Branch(ids=ids(2), parent=5) for _ in range(3))]
    leaves = [Branch(ids=ids(2), parent=g, at=at) for g, at in ((0, 5), (0, 5), (1, 2), (1, 2))]
    kept = [
        Kept(prompt=(0, 30), completions=[(53, 60), (60, 64)]),
        Kept(prompt=(30, 53), completions=[(64, 70), (70, 73)]),
    ]
    return {
        "group": pack([group], positions(150)),
        "trees": pack([tree, tree[:4]], positions(30, 23)),
        "rows": pack([[Branch(ids=ids(n))] for n in (5, 17, 5)], positions(40, 11, 40)),
        "prompts": pack([[], [], []], positions(12, 33, 12)),
        "kept": pack([leaves + tree[5:6], leaves], positions(30, 23), kept, columns=73),
    }


LAYOUTS = layouts()


def plain(layout: Layout, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Token by token, from the definition of a run."""
    key, value = (x.repeat_interleave(HEADS // SHARED, dim=1) for x in (key, value))
    rows = []
    for run in layout.runs:
        context = [column for start, stop in run.context for column in range(start, stop)]
        for column in range(run.start, run.stop):
            seen = [*context, *range(run.start, column + 1)]
            scores = torch.einsum("hd,hcd->hc", query[0, :, column - layout.kept], key[0][:, seen]) * SCALE
            rows.append(torch.einsum("hc,hcd->hd", scores.softmax(-1), value[0][:, seen]))
    return torch.stack(rows)[None]


def tensors(layout: Layout, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    columns = layout.kept + layout.size
    shapes = [(1, HEADS, layout.size, WIDTH), (1, SHARED, columns, WIDTH), (1, SHARED, columns, WIDTH)]
    return [(2 * torch.randn(s, generator=generator, dtype=dtype)).requires_grad_() for s in shapes]


def cascade_of(layout: Layout) -> Kernel:
    return cascade.prepare(cascade.pieces_of(layout))


def dense_of(layout: Layout) -> Kernel:
    return dense.prepare(layout, CPU)


def varlen_of(layout: Layout) -> Kernel:
    return varlen.prepare(layout, CPU)


@pytest.fixture
def flash_attn(monkeypatch) -> None:
    """What flash-attention says of its function, in PyTorch: rows by their ends, the causal mask at bottom right."""

    def flash_attn_varlen_func(q, k, v, ends_q, ends_k, longest_q, longest_k, softmax_scale, causal) -> Tensor:
        assert causal
        assert ends_q.dtype == ends_k.dtype == torch.int32
        outs, lengths_q, lengths_k = [], ends_q.diff().tolist(), ends_k.diff().tolist()
        assert (max(lengths_q), max(lengths_k)) == (longest_q, longest_k)
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        for q_n, k_n, v_n in zip(q.split(lengths_q), k.split(lengths_k), v.split(lengths_k), strict=True):
            scores = torch.einsum("qhd,khd->hqk", q_n, k_n) * softmax_scale
            seen = torch.ones(len(q_n), len(k_n), dtype=torch.bool).tril(len(k_n) - len(q_n))
            outs.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v_n))
        return torch.cat(outs)

    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_varlen_func=flash_attn_varlen_func))


@pytest.mark.usefixtures("flash_attn")
@pytest.mark.parametrize("kernel", [cascade_of, dense_of, varlen_of])
@pytest.mark.parametrize("name", LAYOUTS)
def test_values_and_gradients_are_those_of_a_softmax_over_what_is_seen(name, kernel) -> None:
    layout = LAYOUTS[name]
    ours, reference = tensors(layout, torch.float64), tensors(layout, torch.float64)
    got, expected = kernel(layout)(*ours, SCALE), plain(layout, *reference)
    assert got.shape == (1, layout.size, HEADS, WIDTH)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    weights = torch.randn(got.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (got * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", [cascade_of, dense_of])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["group", "trees"])
def test_in_other_types(name, kernel, dtype) -> None:
    layout = LAYOUTS[name]
    ours, reference = tensors(layout, dtype), [t.detach().double().requires_grad_() for t in tensors(layout, dtype)]
    got, expected = kernel(layout)(*ours, SCALE), plain(layout, *reference)
    assert got.dtype == dtype
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)
    got.double().sum().backward()
    expected.sum().backward()
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=3 * tolerance, atol=3 * tolerance)


@pytest.mark.parametrize("name", LAYOUTS)
def test_flex_attention_sees_the_same(name) -> None:
    """Its values; PyTorch has no backward pass of it on the CPU."""
    layout = LAYOUTS[name]
    q, k, v = (t.detach() for t in tensors(layout, torch.float32))
    expected = plain(layout, q, k, v)
    torch.testing.assert_close(flex.prepare(layout, CPU)(q, k, v, SCALE), expected, rtol=1e-6, atol=1e-5)


def test_a_group_is_computed_in_few_pieces() -> None:
    group = pack([[Branch(ids=[1] * 20) for _ in range(9)]], [torch.arange(100).expand(3, -1)])
    prompt, completions, look = cascade.pieces_of(group)  # the first completion continues the prompt's run
    assert (prompt.queries, prompt.causal) == (slice(0, 120), True)
    assert (completions.queries.shape, completions.causal) == ((8, 20), True)
    assert look == (slice(120, 280), slice(0, 100), False)
    assert [cascade.pairs(piece) for piece in (prompt, completions, look)] == [120 * 120, 8 * 20 * 20, 160 * 100]
    assert dense.pairs(group) == 280 * 280


def test_on_the_cpu_short_pieces_are_masked_and_long_ones_are_not(monkeypatch) -> None:
    taken = []
    monkeypatch.setattr(cascade, "prepare", lambda pieces: taken.append("cascade"))
    monkeypatch.setattr(dense, "prepare", lambda layout, device: taken.append("dense"))
    short = [[Branch(ids=[1] * n) for n in (2, 3, 4)]] * 2
    for trees, size in ((short, 12), ([[Branch(ids=[1] * 60)] * 8], 500)):
        TreeAttend(pack(trees, [torch.arange(size).expand(3, -1)] * len(trees)), "auto", CPU, [], hidden_size=512)
    assert taken == ["dense", "cascade"]


@pytest.mark.usefixtures("flash_attn")
def test_flash_attention_is_not_given_a_copy_of_the_prompt_for_each_label(monkeypatch) -> None:
    taken = []
    monkeypatch.setattr(varlen, "prepare", lambda layout, device: taken.append("varlen"))
    monkeypatch.setattr(dense, "prepare", lambda layout, device: taken.append("dense"))
    positions, kept = [torch.arange(500).expand(3, -1)], [Kept(prompt=(0, 500))]
    for branches in (8, 63):
        layout = pack([[Branch(ids=[1] * 3) for _ in range(branches)]], positions, kept, columns=500)
        assert varlen.copied(layout) == branches * 503
        TreeAttend(layout, "varlen", CPU, [], hidden_size=512)
    assert taken == ["varlen", "dense"]


@pytest.mark.gpu
@pytest.mark.parametrize("name", LAYOUTS)
def test_on_a_gpu(name) -> None:
    """Dense in float32, flash-attention and FlexAttention in bfloat16, all with gradients."""
    layout, cuda = LAYOUTS[name], torch.device("cuda")
    kernels = [(dense, torch.float32, 1e-5), (dense, torch.bfloat16, 3e-2), (flex, torch.bfloat16, 3e-2)]
    if find_spec("flash_attn") is not None:
        kernels.append((varlen, torch.bfloat16, 3e-2))
    for kernel, dtype, tolerance in kernels:
        ours = [t.detach().to(cuda).requires_grad_() for t in tensors(layout, dtype)]
        reference = [t.detach().double().requires_grad_() for t in tensors(layout, dtype)]
        got, expected = kernel.prepare(layout, cuda)(*ours, SCALE), plain(layout, *reference)
        torch.testing.assert_close(got.double().cpu(), expected, rtol=tolerance, atol=tolerance)
        got.double().sum().backward()
        expected.sum().backward()
        for mine, theirs in zip(ours, reference, strict=True):
            torch.testing.assert_close(mine.grad.double().cpu(), theirs.grad, rtol=5 * tolerance, atol=5 * tolerance)
