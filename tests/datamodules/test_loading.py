"""The order of samples, and that a loader goes on where it stopped."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest
import torch

from cair_lightning.datamodules.loading import EpochSampler, Key, Window, WindowLoader, micro_batches, whole_window
from cair_lightning.policies.batch import Prompts
from cair_lightning.structures import Example

EXAMPLES = [Example(id=str(n), question="?", candidates=["a", "b"], answer="a") for n in range(7)]


def collate(items) -> Prompts:
    """Prompts of one token each that carry the example's number."""
    ids_BL = torch.tensor([[int(example.id)] for example, _ in items])
    return Prompts(
        examples=[example for example, _ in items],
        forms=[form for _, form in items],
        ids_BL=ids_BL,
        mask_BL=torch.ones_like(ids_BL, dtype=torch.bool),
        positions_3BL=torch.zeros(3, *ids_BL.shape, dtype=torch.long),
        forks=[0] * len(items),
        direct_tails=[[]] * len(items),
        patches=None,
        grids=[None] * len(items),
        seconds_per_grid=[None] * len(items),
        valid_B=torch.ones(len(items), dtype=torch.bool),
        completions=[[1] * (int(example.id) + 1) for example, _ in items],
    )


def epoch(**settings: object) -> list[list[Key]]:
    sampler = EpochSampler(**({"size": 7, "batch_size": 2, "shuffle": True} | settings))
    return list(sampler)


def loader(parts: int = 1, workers: int = 0, split=micro_batches, **settings: object) -> WindowLoader:
    order = EpochSampler(**({"size": 7, "batch_size": 2, "shuffle": True, "direct_fraction": 0.5} | settings))
    return WindowLoader(EXAMPLES, collate, order, split, parts, workers)


def content(window: Window) -> tuple[object, ...]:
    prompts = window.prompts
    shown = None if prompts is None else (prompts.ids_BL.flatten().tolist(), prompts.forms, prompts.valid_B.tolist())
    return (shown, window.part, window.parts, window.n_targets)


def endless(windows: WindowLoader) -> Iterator[tuple[object, ...]]:
    """As Lightning takes them: as many as an epoch has, without asking whether there are more."""
    while True:
        for window in windows:
            yield content(window)
            if windows.done == len(windows):
                break


def test_order_depends_on_seed_and_epoch_alone() -> None:
    torch.manual_seed(1)
    first = epoch(seed=3)
    torch.manual_seed(2)
    assert epoch(seed=3) == first
    assert epoch(seed=4) != first
    sampler = EpochSampler(7, 2, True, seed=3)
    sampler.epoch = 1
    assert list(sampler) != first
    sampler.epoch = 0
    assert list(sampler) == first


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 6, 7, 12])
def test_training_sees_every_sample_and_goes_round_to_the_first_ones(ranks, size) -> None:
    batches = [epoch(size=size, rank=rank, world_size=ranks) for rank in range(ranks)]
    assert len({len(of_rank) for of_rank in batches}) == 1
    assert all(len(batch) == 2 for of_rank in batches for batch in of_rank)
    # Read across the ranks, step by step, the order is that of one process.
    taken = [index for step in zip(*batches, strict=True) for batch in step for index, _, _ in batch]
    assert sorted(taken[:size]) == list(range(size))
    assert taken[size:] == [taken[n % size] for n in range(size, len(taken))]
    assert all(counts for of_rank in batches for batch in of_rank for _, _, counts in batch)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_evaluation_keeps_the_order_and_marks_fillers(ranks) -> None:
    batches = [epoch(shuffle=False, rank=rank, world_size=ranks) for rank in range(ranks)]
    taken = [key for step in zip(*batches, strict=True) for batch in step for key in batch]
    assert [index for index, _, counts in taken if counts] == list(range(7))
    assert [index for index, _, counts in taken if not counts] == [n % 7 for n in range(7, len(taken))]
    assert len({len(of_rank) for of_rank in batches}) == 1


def test_forms_are_drawn_at_the_given_rate_and_anew_each_epoch() -> None:
    sampler = EpochSampler(4000, 40, True, direct_fraction=0.25)
    forms = []
    for sampler.epoch in (0, 1):
        forms.append({index: form for batch in sampler for index, form, _ in batch})
    shares = [Counter(of_epoch.values())["direct"] / 4000 for of_epoch in forms]
    assert shares == pytest.approx([0.25, 0.25], abs=0.03)  # four standard deviations
    agree = sum(forms[0][index] == forms[1][index] for index in range(4000)) / 4000
    assert agree == pytest.approx(0.25**2 + 0.75**2, abs=0.04)
    assert {form for batch in epoch(direct_fraction=0.0) for _, form, _ in batch} == {"reason"}
    assert {form for batch in epoch(direct_fraction=1.0) for _, form, _ in batch} == {"direct"}


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"direct_fraction": 1.5}, {"direct_fraction": -0.1}])
def test_impossible_settings_are_refused(settings) -> None:
    with pytest.raises(ValueError, match=r"expected data.batch_size >= 1 and 0 <= data.direct_fraction <= 1"):
        epoch(**settings)


def test_parts_of_sft_cut_the_window_and_know_its_targets() -> None:
    windows = list(loader(parts=2, batch_size=4, size=4, shuffle=False))
    assert [content(w)[0][0] for w in windows] == [[0, 1], [2, 3]]
    assert [(w.part, w.parts, w.n_targets) for w in windows] == [(0, 2, 10), (1, 2, 10)]  # 1 + 2 + 3 + 4 tokens


def test_fillers_have_no_targets() -> None:
    *_, last = loader(shuffle=False, batch_size=4)
    assert content(last)[0][0] == [4, 5, 6, 0]
    assert content(last)[0][2] == [True, True, True, False]
    assert last.n_targets == 5 + 6 + 7


def test_parts_of_rl_bring_the_prompts_once() -> None:
    windows = list(loader(parts=3, split=whole_window))
    assert [w.part for w in windows] == [0, 1, 2] * 4
    assert [w.prompts is not None for w in windows] == [True, False, False] * 4
    assert len(loader(parts=3, split=whole_window)) == 12


@pytest.mark.parametrize(("workers", "stops"), [(0, range(20)), (2, [3, 8, 11])])
@pytest.mark.parametrize("parts", [1, 2])
def test_resumed_order_equals_the_uninterrupted_one(workers, stops, parts) -> None:
    """4 windows an epoch; the stops lie in it, at its end and in the next ones."""
    expected = list(islice(endless(loader(parts)), 30))
    for stop in stops:
        before = loader(parts, workers)
        handed_out = list(islice(endless(before), stop))
        state = before.state_dict()
        after = loader(parts, workers)
        after.load_state_dict(state)
        rest = list(islice(endless(after), len(expected) - stop))
        assert handed_out + rest == expected, f"stopped after {stop}"


def test_every_epoch_has_an_order_of_its_own_however_it_is_consumed() -> None:
    windows = loader()
    exhausted = [[content(window) for window in windows] for _ in range(3)]
    assert exhausted[0] != exhausted[1] != exhausted[2] != exhausted[0]
    assert list(islice(endless(loader()), 12)) == [window for epoch in exhausted for window in epoch]


def test_a_window_that_was_begun_is_not_repeated() -> None:
    before = loader(parts=2)
    list(islice(before, 3))
    assert before.state_dict() == {"epoch": 0, "done": 3, "parts": 2, "step": 2}
    after = loader(parts=2)
    after.load_state_dict(before.state_dict())
    assert [w.part for w in after] == [1, 0, 1, 0, 1]
    assert after.state_dict() == {"epoch": 1, "done": 0, "parts": 2, "step": 2}


def test_state_at_the_end_of_an_epoch_is_the_beginning_of_the_next_one() -> None:
    windows = loader()
    assert len(list(islice(windows, 4))) == len(windows)
    assert windows.state_dict() == {"epoch": 1, "done": 0, "parts": 1, "step": 2}


@pytest.mark.parametrize("other", [{"parts": 2, "batch_size": 4}, {"parts": 1}, {"parts": 2, "world_size": 2}])
def test_state_within_an_epoch_is_refused_for_another_cut(other) -> None:
    before = loader(parts=2)
    list(islice(before, 3))
    with pytest.raises(ValueError, match="lies within an epoch whose steps had 2 samples"):
        loader(**other).load_state_dict(before.state_dict())
    at_the_end = before.state_dict() | {"done": 0}
    loader(**other).load_state_dict(at_the_end)


def test_an_abandoned_pass_does_not_change_the_next_one() -> None:
    """Lightning's sanity check takes two validation batches and goes away."""
    windows = loader(shuffle=False)
    list(islice(windows, 2))
    assert [content(w)[0][0] for w in windows] == [[0, 1], [2, 3], [4, 5], [6, 0]]


def test_failures_are_reported_in_the_main_process() -> None:
    def broken(items) -> Prompts:
        prompts = collate(items)
        prompts.failures = [(example.id, "broken") for example, _ in items if example.id == "3"]
        return prompts

    heard = []
    order = EpochSampler(7, 2, shuffle=False)
    list(WindowLoader(EXAMPLES, broken, order, whole_window, 1, 2, heard.extend))
    assert heard == [("3", "broken")]
