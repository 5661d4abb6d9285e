import pytest
import torch

from cair_lightning.policies.tree import PROMPT, Branch, pack

MASK = torch.tensor([[False, True, True, True], [True, True, True, True]])
POSITIONS = torch.tensor(
    [
        [[0, 0, 1, 2], [0, 1, 4, 5]],
        [[0, 0, 1, 2], [0, 1, 4, 5]],
        [[0, 0, 1, 2], [0, 2, 4, 5]],  # the second token of the second prompt lies in a video
    ]
)
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


def seen(packed, row: int, column: int) -> list[int]:
    """The columns that the token in a column of the packed row attends to; the prompt has columns 0 to 3."""
    return packed.visible[row, column - 4].nonzero().flatten().tolist()


def test_columns_and_padding() -> None:
    packed = pack(TREES, MASK, POSITIONS)
    assert packed.ids_BS.tolist() == [[10, 11, 12, 20, 21, 30, 40, 50], [60, 61, 0, 0, 0, 0, 0, 0]]
    assert packed.visible.shape == (2, 8, 12)
    assert packed.n_branches == 6


def test_positions_continue_where_a_branch_leaves() -> None:
    packed = pack(TREES, MASK, POSITIONS)
    expected = [[3, 4, 5, 5, 6, 7, 2, 3], [5, 6, 0, 0, 0, 0, 0, 0]]
    assert packed.positions_3BS.tolist() == [expected] * 3


def test_a_branch_sees_its_ancestors_up_to_where_it_leaves_and_itself() -> None:
    packed = pack(TREES, MASK, POSITIONS)
    assert [seen(packed, 0, column) for column in range(4, 12)] == [
        [1, 2, 3, 4],
        [1, 2, 3, 4, 5],
        [1, 2, 3, 4, 5, 6],
        [1, 2, 3, 4, 5, 7],
        [1, 2, 3, 4, 5, 7, 8],
        [1, 2, 3, 4, 5, 7, 8, 9],
        [1, 2, 10],
        [1, 2, 10, 11],
    ]
    assert [seen(packed, 1, column) for column in range(4, 12)] == [
        [0, 1, 2, 4],
        [0, 1, 2, 4, 5],
        *([column] for column in range(6, 12)),
    ]


def test_scored_tokens_are_predicted_by_the_one_before_them() -> None:
    packed = pack(TREES, MASK, POSITIONS)
    first, second = 0, 12  # where the two rows start among the flattened hidden states
    predictors = [3, 4, 5, 5, 7, 8, 10, 2, 4]
    assert packed.predictors_M.tolist() == [first + c for c in predictors[:7]] + [second + c for c in predictors[7:]]
    assert packed.targets_M.tolist() == [10, 11, 12, 20, 21, 30, 50, 60, 61]
    assert packed.branches_M.tolist() == [0, 0, 0, 1, 1, 2, 4, 5, 5]
    assert packed.steps_M.tolist() == [0, 1, 2, 0, 1, 0, 0, 0, 1]


def test_sums_and_matrices_of_branches() -> None:
    packed = pack(TREES, MASK, POSITIONS)
    logps_M = torch.arange(1.0, 10.0)
    assert packed.per_branch(logps_M).tolist() == [6, 9, 6, 0, 7, 17]  # branch 3 is not scored
    assert packed.per_token(logps_M, [5, 0], 4).tolist() == [[8, 9, 0, 0], [1, 2, 3, 0]]
    assert packed.to(torch.device("meta")).visible.is_meta


def test_prompt_without_branches_and_without_scores() -> None:
    packed = pack([[], [Branch(ids=[1], scored=False)]], MASK, POSITIONS)
    assert packed.ids_BS.tolist() == [[0], [1]]
    assert packed.predictors_M.dtype == torch.long
    assert packed.per_branch(torch.zeros(0)).tolist() == [0]


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
        pack([branches], MASK[1:], POSITIONS[:, 1:])


def test_the_prompt_is_the_default_parent() -> None:
    assert Branch(ids=[1]).parent == PROMPT
