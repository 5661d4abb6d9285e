import pytest
import torch

from cair_lightning.policies.kernels.dense import columns_of, visibility
from cair_lightning.policies.tree import PROMPT, Branch, Kept, pack

POSITIONS = [
    torch.arange(3).expand(3, -1),
    torch.tensor([[0, 1, 4, 5], [0, 1, 4, 5], [0, 2, 4, 5]]),  # the second token lies in a video
]
TREES = [
    [
        Branch(ids=[10, 11, 12]),
        Branch(ids=[20, 21], parent=0, at=2),  # leaves in the middle: does not see 12
        Branch(ids=[30], parent=1),  # a grandchild
        Branch(ids=[40], at=2, scored=False),  # leaves the prompt after two of its three tokens
        Branch(ids=[50], parent=3),
    ],
    [Branch(ids=[60, 61], at=3)],
]
KEPT = [Kept(prompt=(0, 3)), Kept(prompt=(3, 7))]


def seen(layout) -> list[list[int]]:
    """The columns that each new token attends to."""
    rows = []
    for first, last in layout.prompts:
        runs = layout.runs[first:last]
        if runs:
            columns = columns_of(runs)
            rows += [columns[row].tolist() for row in visibility(runs, columns)]
    return rows


def test_prompts_and_branches_lie_behind_each_other() -> None:
    layout = pack(TREES, POSITIONS)
    assert (layout.kept, layout.size, layout.n_branches) == (0, 17, 6)
    tokens = torch.tensor([1, 2, 3, 4, 5, 6, 7, *layout.branch_ids])[layout.source_S]
    assert tokens.tolist() == [1, 2, 3, 10, 11, 12, 20, 21, 30, 40, 50, 4, 5, 6, 7, 60, 61]


def test_behind_kept_prompts_lie_branches_alone() -> None:
    layout = pack(TREES, POSITIONS, KEPT, columns=7)
    assert (layout.kept, layout.size) == (7, 10)
    assert layout.branch_ids[layout.source_S].tolist() == [10, 11, 12, 20, 21, 30, 40, 50, 60, 61]


def test_positions_continue_where_a_branch_leaves() -> None:
    expected = [3, 4, 5, 5, 6, 7, 2, 3, 5, 6]
    assert pack(TREES, POSITIONS, KEPT, columns=7).positions_3S.tolist() == [expected] * 3
    whole = pack(TREES, POSITIONS).positions_3S
    assert whole[0].tolist() == [0, 1, 2, *expected[:8], 0, 1, 4, 5, 5, 6]
    assert whole[2].tolist() == [0, 1, 2, *expected[:8], 0, 2, 4, 5, 5, 6]


def test_a_branch_sees_its_ancestors_up_to_where_it_leaves_and_itself() -> None:
    assert seen(pack(TREES, POSITIONS, KEPT, columns=7)) == [
        [0, 1, 2, 7],
        [0, 1, 2, 7, 8],
        [0, 1, 2, 7, 8, 9],
        [0, 1, 2, 7, 8, 10],
        [0, 1, 2, 7, 8, 10, 11],
        [0, 1, 2, 7, 8, 10, 11, 12],
        [0, 1, 13],
        [0, 1, 13, 14],
        [3, 4, 5, 15],
        [3, 4, 5, 15, 16],
    ]
    assert seen(pack(TREES, POSITIONS)) == [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 3, 4, 6],
        [0, 1, 2, 3, 4, 6, 7],
        [0, 1, 2, 3, 4, 6, 7, 8],
        [0, 1, 9],
        [0, 1, 9, 10],
        *([*range(11, n)] for n in range(12, 16)),
        [11, 12, 13, 15],
        [11, 12, 13, 15, 16],
    ]


def test_a_plain_row_is_one_run_and_a_group_looks_at_its_prompt_once() -> None:
    row = pack([[Branch(ids=[1, 2]), Branch(ids=[3], parent=0)]], POSITIONS[:1])
    assert [(r.start, r.stop, r.context) for r in row.runs] == [(0, 6, ())]
    assert row.looks() == []
    group = pack([[Branch(ids=[1, 2]), Branch(ids=[3]), Branch(ids=[4])]], POSITIONS[:1])
    assert [(r.start, r.stop, r.context) for r in group.runs] == [(0, 5, ()), (5, 6, ((0, 3),)), (6, 7, ((0, 3),))]
    assert [(x.start, x.stop, x.span) for x in group.looks()] == [(5, 7, (0, 3))]


def test_branches_of_kept_completions() -> None:
    kept = [Kept(prompt=(0, 3), completions=[(3, 5), (5, 5)])]
    leaves = [Branch(ids=[7], parent=0, at=1), Branch(ids=[8], parent=0), Branch(ids=[9]), Branch(ids=[1], parent=4)]
    layout = pack([leaves], POSITIONS[:1], kept, columns=5)
    assert seen(layout) == [[0, 1, 2, 3, 5], [0, 1, 2, 3, 4, 6], [0, 1, 2, 7], [0, 1, 2, 7, 8]]
    assert layout.positions_3S[0].tolist() == [4, 5, 3, 4]
    assert layout.predictors_M.tolist() == [3, 4, 2, 7]
    assert layout.branches_M.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="after token 0 of 0"):  # nothing was read of the second completion
        pack([[Branch(ids=[7], parent=1)]], POSITIONS[:1], kept, columns=5)


def test_scored_tokens_are_predicted_by_the_one_before_them() -> None:
    layout = pack(TREES, POSITIONS, KEPT, columns=7)
    assert layout.predictors_M.tolist() == [2, 7, 8, 8, 10, 11, 13, 5, 15]
    assert layout.targets_M.tolist() == [10, 11, 12, 20, 21, 30, 50, 60, 61]
    assert layout.branches_M.tolist() == [0, 0, 0, 1, 1, 2, 4, 5, 5]
    assert layout.steps_M.tolist() == [0, 1, 2, 0, 1, 0, 0, 0, 1]
    assert pack(TREES, POSITIONS).predictors_M.tolist() == [2, 3, 4, 4, 6, 7, 9, 13, 15]


def test_sums_and_matrices_of_branches() -> None:
    layout = pack(TREES, POSITIONS)
    logps_M = torch.arange(1.0, 10.0)
    assert layout.per_branch(logps_M).tolist() == [6, 9, 6, 0, 7, 17]  # branch 3 is not scored
    assert layout.per_token(logps_M, [5, 0], 4).tolist() == [[8, 9, 0, 0], [1, 2, 3, 0]]
    assert layout.to(torch.device("meta")).source_S.is_meta


def test_prompt_without_branches_and_without_scores() -> None:
    layout = pack([[], [Branch(ids=[1], scored=False)]], POSITIONS, KEPT, columns=7)
    assert layout.branch_ids.tolist() == [1]
    assert layout.prompts == [(0, 0), (0, 1)]
    assert layout.predictors_M.dtype == torch.long
    assert layout.per_branch(torch.zeros(0)).tolist() == [0]


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        ([Branch(ids=[1], at=0)], "after token 0 of 4; expected 1 to 4"),
        ([Branch(ids=[1], at=5)], "after token 5 of 4"),
        ([Branch(ids=[])], "A branch of 0 tokens"),
        ([Branch(ids=[1]), Branch(ids=[2], parent=0, at=2)], "after token 2 of 1"),
        ([Branch(ids=[1], parent=1), Branch(ids=[2])], "names the parent 1, and 0 branches come before"),
        ([Branch(ids=[1], parent=-2)], "names the parent -2"),
        ([Branch(ids=[1], at=2)], r"inside a video, after the token at \[1, 1, 2\]"),
    ],
)
def test_impossible_branches_are_refused(branches, message) -> None:
    with pytest.raises(ValueError, match=message):
        pack([branches], POSITIONS[1:])


def test_the_prompt_is_the_default_parent() -> None:
    assert Branch(ids=[1]).parent == PROMPT
