import dataclasses
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cair_lightning.policies.batch import Prompts
from tests.policies.reference import EXAMPLES, build_policy, collate

SEEN, TOLD, WIDE = EXAMPLES
GONE = replace(SEEN, id="gone", clip="missing.mp4")
BATCH = [WIDE, TOLD, GONE, SEEN]


def assert_same(got: Prompts, expected: Prompts) -> None:
    for field in dataclasses.fields(Prompts):
        one, other = getattr(got, field.name), getattr(expected, field.name)
        same = torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else one == other
        assert same, field.name


@pytest.mark.parametrize("rows", [[0], [1], [2], [1, 3], [3, 0], [0, 1, 2, 3], [3, 3, 1]])
@pytest.mark.parametrize("teach", [False, True])
def test_selected_rows_are_as_if_collated_by_themselves(rows, teach) -> None:
    assert_same(collate(BATCH, teach=teach).select(rows), collate([BATCH[row] for row in rows], teach=teach))


def test_rows_without_a_clip_have_no_patches() -> None:
    assert collate(BATCH).select([1]).patches is None
    assert collate([TOLD]).select([0]).patches is None


def test_features_are_taken_along() -> None:
    policy, prompts = build_policy(freeze_vision=True), collate(BATCH)
    with torch.no_grad():
        policy.vision(prompts)
        assert len(prompts.features) == sum(t * h * w // 4 for t, h, w in (g for g in prompts.grids if g))
        for rows in ([3, 0], [1, 2], [1]):
            chosen = prompts.select(rows)
            if any(prompts.grids[row] for row in rows):
                alone = collate([BATCH[row] for row in rows])
                torch.testing.assert_close(chosen.features, policy.vision(alone), rtol=0, atol=1e-5)
            else:
                assert len(chosen.features) == 0
            assert len(policy.embed(chosen)) == int(chosen.mask_BL.sum())


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        collate([SEEN]).select([])


def test_all_tensors_and_nothing_else_move_to_a_device() -> None:
    prompts = collate(BATCH, teach=True)
    moved = prompts.to(torch.device("meta"))
    for field in dataclasses.fields(Prompts):
        before, after = getattr(prompts, field.name), getattr(moved, field.name)
        if isinstance(before, Tensor):
            assert after.is_meta, field.name
            assert not before.is_meta, field.name
        else:
            assert after == before
    assert len(moved) == 4
