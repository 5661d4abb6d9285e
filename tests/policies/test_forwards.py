"""Prompts and branches, packed or on kept keys and values, against plain full rows of the Hugging Face model."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.policies.tree import PROMPT, Branch
from cair_lightning.world import tiny
from tests.policies.reference import (
    EXAMPLES,
    TOLERANCE,
    build_policy,
    collate,
    plain_logps,
    processor,
    prompt_ids,
    shared_policy,
)

SEEN, TOLD, WIDE = EXAMPLES


def random_trees(prompts, rng: random.Random) -> list[list[Branch]]:
    """Branches of branches that leave their parents anywhere, a few of them from the middle of the prompt's text."""
    trees = []
    for row in range(len(prompts)):
        tree: list[Branch] = []
        for _ in range(rng.randrange(3, 8)):
            parent = rng.randrange(PROMPT, len(tree))
            size = prompts.forks[row] if parent == PROMPT else len(tree[parent].ids)
            at = rng.choice([None, size, rng.randrange(1, size + 1)]) if parent != PROMPT else rng.choice([None, size])
            ids = [rng.randrange(300) for _ in range(rng.randrange(1, 7))]
            tree.append(Branch(ids=ids, parent=parent, at=at, scored=rng.random() < 0.8))
        trees.append(tree)
    return trees


def tokens_before(prompt: list[int], tree: list[Branch], index: int) -> list[int]:
    """The row that a branch continues, spelt out."""
    branch = tree[index]
    if branch.parent == PROMPT:
        return prompt[: branch.at]
    return [*tokens_before(prompt, tree, branch.parent), *tree[branch.parent].ids[: branch.at]]


@contextmanager
def counted(module: torch.nn.Module) -> Iterator[list[int]]:
    """The rows of the first tensor that a module is given, call by call."""
    calls: list[int] = []

    def note(_, args) -> None:
        calls.append(len(args[0]))

    handle = module.register_forward_pre_hook(note)
    yield calls
    handle.remove()


def test_the_row_before_a_branch_is_spelt_out_rightly() -> None:
    tree = [Branch(ids=[5, 6, 7]), Branch(ids=[8], parent=0, at=2), Branch(ids=[9], parent=1), Branch(ids=[1], at=1)]
    assert [tokens_before([2, 3], tree, index) for index in range(4)] == [[2, 3], [2, 3, 5, 6], [2, 3, 5, 6, 8], [2]]


@pytest.mark.parametrize("attention", ["auto", "cascade", "dense", "flex"])
@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0], [1], [0]], ids=str)
def test_packed_rows_and_kept_prompts_score_branches_as_plain_rows_do(order, attention) -> None:
    policy, prompts = build_policy(attention), collate([EXAMPLES[row] for row in order])
    trees = random_trees(prompts, random.Random(len(order)))
    with torch.no_grad():
        expected = [
            plain_logps(policy, prompts, row, tokens_before(prompt_ids(prompts, row), tree, index), branch.ids)
            for row, tree in enumerate(trees)
            for index, branch in enumerate(tree)
            if branch.scored
        ]
        for prefix in (None, policy.prefill(prompts)):
            packed, logps_M = policy.logps(prompts, trees, prefix)
            torch.testing.assert_close(logps_M, torch.cat(expected), rtol=0, atol=TOLERANCE)
            sums = packed.per_branch(logps_M)[[b.scored for tree in trees for b in tree]]
            torch.testing.assert_close(sums, torch.stack([e.sum() for e in expected]), rtol=0, atol=6 * TOLERANCE)


def test_temperature_divides_the_logits() -> None:
    policy, prompts = shared_policy(), collate([SEEN, TOLD])
    ids = [[5, 6, 7], [8, 9]]
    with torch.no_grad():
        _, logps_M = policy.logps(prompts, [[Branch(ids=i)] for i in ids], temperature=0.6)
        expected = [plain_logps(policy, prompts, r, prompt_ids(prompts, r), ids[r], 0.6) for r in range(2)]
    torch.testing.assert_close(logps_M, torch.cat(expected), rtol=0, atol=TOLERANCE)


def test_a_kept_prompt_can_be_used_again() -> None:
    policy, prompts = shared_policy(), collate()
    trees = [[Branch(ids=[1, 2, 3])] for _ in EXAMPLES]
    with torch.no_grad():
        prefix = policy.prefill(prompts)
        first = policy.logps(prompts, trees, prefix)[1]
        policy.sample(prefix, 2, 3, generator=torch.Generator().manual_seed(0))
        assert torch.equal(policy.logps(prompts, trees, prefix)[1], first)


@pytest.mark.parametrize(
    ("attention", "options", "chunks"),
    [
        ("cascade", {}, [[0, 1, 2]]),
        ("dense", {}, [[0, 1, 2]]),
        ("cascade", {"gradient_checkpointing": True}, [[0, 1, 2]]),
        ("cascade", {}, [[1], [2, 0]]),  # rows that are selected add up to the whole batch
        ("cascade", {"freeze_vision": True}, [[0, 1, 2]]),
        ("cascade", {"freeze_vision": True, "gradient_checkpointing": True}, [[0], [1], [2]]),
    ],
)
def test_gradients_of_all_weights_are_those_of_plain_rows(attention, options, chunks) -> None:
    """In float64: gradients of up to 42 differ by up to 8e-5 in float32 (5e-6 of the largest one), which is noise."""
    policy, prompts = build_policy(attention, torch.float64, **options).train(), collate()
    rng = random.Random(0)
    ids = [[[rng.randrange(300) for _ in range(rng.randrange(1, 6))] for _ in range(3)] for _ in EXAMPLES]
    weights = [[torch.tensor([rng.uniform(-1, 1) for _ in c]) for c in group] for group in ids]
    for rows in chunks:
        chosen = prompts.select(rows)
        _, logps_M = policy.logps(chosen, [[Branch(ids=c) for c in ids[row]] for row in rows])
        (torch.cat([w for row in rows for w in weights[row]]) * logps_M).sum().backward()
    got = {name: p.grad for name, p in policy.model.named_parameters()}
    policy.eval().zero_grad(set_to_none=True)
    for row in range(len(EXAMPLES)):
        for c, w in zip(ids[row], weights[row], strict=True):
            (w * plain_logps(policy, prompts, row, prompt_ids(prompts, row), c)).sum().backward()
    for name, parameter in policy.model.named_parameters():
        if options.get("freeze_vision") and name.startswith("model.visual"):
            assert got[name] is None, name
            assert parameter.grad is None, name
        else:
            assert parameter.grad.abs().max() > 1e-3, f"{name} takes part in nothing"
            torch.testing.assert_close(got[name], parameter.grad, rtol=1e-5, atol=1e-5, msg=name)


def test_gradients_reach_the_prompt_through_its_keys_and_values() -> None:
    policy, prompts = build_policy(dtype=torch.float64), collate([SEEN])
    for prefix in (None, policy.prefill(prompts)):
        policy.zero_grad()
        policy.logps(prompts, [[Branch(ids=[3, 4, 5])]], prefix)[1].sum().backward()
        weight = policy.model.model.visual.patch_embed.proj.weight.grad.clone()
        if prefix is None:
            expected = weight
    torch.testing.assert_close(weight, expected)


def test_a_frozen_tower_runs_once_and_a_trained_one_with_every_gradient() -> None:
    for frozen, calls in ((True, 1), (False, 3)):
        policy, prompts = build_policy(freeze_vision=frozen), collate()
        with counted(policy.model.model.visual) as seen:
            with policy.scoring():
                policy.prefill(prompts)
            for _ in range(2):
                policy.logps(prompts, [[Branch(ids=[1])] for _ in EXAMPLES])
        assert seen == [len(prompts.patches)] * calls
        assert (prompts.features is not None) == frozen


def test_text_alone_needs_no_tower_unless_ranks_have_to_stay_together(tmp_path) -> None:
    policy, prompts = build_policy(), collate([TOLD])
    trees = [[Branch(ids=[1, 2])]]
    with counted(policy.model.model.visual) as seen:
        alone = policy.logps(prompts, trees)[1]
        assert seen == []
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
        try:
            together = policy.logps(prompts, trees)[1]
        finally:
            torch.distributed.destroy_process_group()
        assert seen == [4]
    assert torch.equal(alone, together)
    together.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in policy.model.model.visual.parameters())


def test_scoring_leaves_no_gradient_and_restores_the_mode() -> None:
    policy = build_policy(gradient_checkpointing=True)
    for training in (True, False):
        policy.train(training)
        with policy.scoring():
            assert not policy.model.training
            assert not torch.is_grad_enabled()
        assert policy.model.training == training
        assert torch.is_grad_enabled()
    with pytest.raises(ZeroDivisionError), policy.train().scoring():
        raise ZeroDivisionError
    assert policy.training


def test_kept_prompts_survive_checkpointing_in_evaluation_mode_only() -> None:
    policy, prompts = build_policy(gradient_checkpointing=True).train(), collate([SEEN])
    trees = [[Branch(ids=[1, 2])]]
    with policy.scoring():
        prefix = policy.prefill(prompts)
        expected = policy.logps(prompts, trees)[1]
        torch.testing.assert_close(policy.logps(prompts, trees, prefix)[1], expected, rtol=0, atol=TOLERANCE)
    with pytest.raises(RuntimeError, match=r"prefill inside policy.scoring\(\)"):
        policy.prefill(prompts)


def test_positions_do_not_depend_on_what_the_model_saw_before() -> None:
    """transformers keeps `rope_deltas` of the last call on the module."""
    policy, prompts = build_policy(), collate([SEEN])
    trees = [[Branch(ids=[1, 2])]]
    with torch.no_grad():
        before = policy.logps(prompts, trees, policy.prefill(prompts))[1]
        policy.model.model.rope_deltas = torch.tensor([[1234]])
        assert torch.equal(policy.logps(prompts, trees, policy.prefill(prompts))[1], before)


def test_a_checkpoint_folder_is_loaded_with_its_processor(tmp_path) -> None:
    policy, prompts = shared_policy(), collate([SEEN])
    tiny.save(tmp_path, processor(), policy.model)
    loaded = QwenVLPolicy.load(
        tmp_path, torch.bfloat16, "eager", freeze_vision=True, gradient_checkpointing=True, tree_attention="dense"
    )
    assert loaded.tree_attention == "dense"
    assert loaded.model.config.vision_config._attn_implementation == "eager"
    assert loaded.model.dtype == torch.bfloat16
    assert all(layer.gradient_checkpointing for layer in loaded.model.model.language_model.layers)
    assert loaded.stop_ids == policy.stop_ids
    assert not any(p.requires_grad for p in loaded.model.model.visual.parameters())
    assert all(p.requires_grad for p in loaded.model.model.language_model.parameters())
    with loaded.scoring():
        logps_M = loaded.logps(prompts, [[Branch(ids=[1, 2])]])[1]
    assert logps_M.dtype == torch.float32


def test_a_checkpoint_of_another_family_is_refused(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ValueError, match=r"holds a 'qwen2' model; expected 'qwen2_5_vl'"):
        QwenVLPolicy.load(tmp_path)
