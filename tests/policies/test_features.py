"""Features of a frozen vision tower that are kept from epoch to epoch."""

from dataclasses import replace

import pytest
import torch

from cair_lightning.modules.loading import load_policy
from cair_lightning.modules.settings import PolicySettings
from cair_lightning.policies.features import FeatureCache
from tests.policies.reference import EXAMPLES, build_policy, collate

SEEN, TOLD, WIDE = EXAMPLES


def test_a_clip_is_computed_once_whatever_batch_it_comes_in() -> None:
    plain, policy = build_policy(freeze_vision=True), build_policy(freeze_vision=True, kept_features_gib=1.0)
    calls: list[int] = []
    policy.model.model.visual.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    batches = [[SEEN, TOLD, WIDE], [WIDE, SEEN], [TOLD], [SEEN, SEEN]]
    with torch.no_grad():
        for batch in batches:
            prompts = collate(batch)
            expected = plain.embed(collate(batch))
            assert torch.equal(policy.embed(prompts), expected)
    assert calls == [len(collate([SEEN, WIDE]).patches)]


def test_parts_and_halves_of_a_clip_are_clips_of_their_own() -> None:
    policy = build_policy(freeze_vision=True, kept_features_gib=1.0)
    for example in (SEEN, replace(SEEN, crop="left"), replace(SEEN, start=0.5, end=1.5)):
        policy.embed(collate([example]))
    assert len(policy.vision.kept) == 3


def test_what_stands_in_for_a_broken_clip_is_not_kept() -> None:
    policy = build_policy(freeze_vision=True, kept_features_gib=1.0)
    policy.embed(collate([replace(SEEN, clip="broken.mp4"), WIDE]))
    assert len(policy.vision.kept) == 1


def test_the_oldest_go_where_memory_ends() -> None:
    prompts = collate([SEEN, WIDE])
    sizes = [t * h * w // 4 for t, h, w in prompts.grids]
    cache = FeatureCache(max(sizes) * 4 * 10 / 2**30)
    calls: list[int] = []

    def tower(patches, grids) -> torch.Tensor:
        calls.append(len(grids))
        return patches.view(len(patches) // 4, -1)[:, :10]

    for _ in range(2):
        for row in (0, 1):
            one = prompts.select([row])
            assert torch.equal(cache.fetch(one, tower), tower(one.patches, one.grids))
            assert cache.bytes <= cache.max_bytes
    assert calls == [1] * 8  # ours and the one that is compared with, each time
    assert len(cache) == 1


def test_a_trained_tower_and_sharded_weights_keep_nothing(monkeypatch) -> None:
    with pytest.raises(ValueError, match="kept_features_gib is for a frozen vision tower"):
        build_policy(kept_features_gib=1.0)
    monkeypatch.setattr("cair_lightning.modules.loading.is_sharded", lambda trainer: True)
    with pytest.raises(ValueError, match="does not go with ZeRO-3"):
        load_policy("anything", PolicySettings(freeze_vision=True, kept_features_gib=1.0))
