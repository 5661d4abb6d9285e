"""The generated world as a data set, and the checkpoint that fits it."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from cair_lightning.clips import read_clip
from cair_lightning.datamodules.manifest import INDEX, clip_path, read_dataset
from cair_lightning.metrics import KeywordExtractor
from cair_lightning.prompts import question_text, reason_completion
from cair_lightning.world.build import FACTS, IMPLICIT, _stories, build_checkpoint, build_world

SMALL = {"warmup": 4, "train": 6, "val": 2, "test": 4}


def everything(root) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in root.glob("*.json*")}


def test_a_world_is_a_valid_data_set_with_readable_clips(world) -> None:
    index = json.loads((world / INDEX).read_text())
    sizes = {split: len(read_dataset(world, split).examples) for split in index["splits"]}
    assert sizes == {"warmup": 16, "train": 24, "val": 8, "test": 10}
    for split in sizes:
        manifest = read_dataset(world, split)
        for example in manifest.examples:
            assert example.rationale
            assert example.load in ("low", "high", None)
        shown = [example for example in manifest.examples if example.clip is not None]
        assert shown
        frames = read_clip(clip_path(manifest.clips, shown[0]), None, None, 2.0, 4, 2)
        assert frames.frames.shape[0] >= 2
        assert frames.frames.std() > 5


def test_ids_are_unique_over_all_splits(world) -> None:
    ids = [e.id for split in ("warmup", "train", "val", "test") for e in read_dataset(world, split).examples]
    assert len(set(ids)) == len(ids)


def test_the_same_seed_is_the_same_world(tmp_path) -> None:
    one = build_world(tmp_path / "one", 3, SMALL, keyword_model=None, workers=1)
    two = build_world(tmp_path / "two", 3, SMALL, keyword_model=None, workers=2)
    other = build_world(tmp_path / "other", 4, SMALL, keyword_model=None, workers=1)
    assert everything(one) == everything(two)
    assert everything(one) != everything(other)
    for example in read_dataset(one, "test").examples:
        clips = [read_clip(root / "clips" / str(example.clip), None, None, 2.0, 4, 2) for root in (one, two)]
        assert np.array_equal(clips[0].frames, clips[1].frames)


def test_no_split_changes_with_the_size_of_another(tmp_path) -> None:
    small = build_world(tmp_path / "small", 0, SMALL, keyword_model=None, workers=1)
    large = build_world(tmp_path / "large", 0, SMALL | {"train": 9}, keyword_model=None, workers=1)
    assert (small / "test.jsonl").read_text() == (large / "test.jsonl").read_text()
    assert (large / "train.jsonl").read_text().startswith((small / "train.jsonl").read_text())


def test_a_complete_world_is_kept_and_a_half_written_one_is_made_anew(tmp_path) -> None:
    root = build_world(tmp_path / "world", 0, SMALL, keyword_model=None, workers=1)
    (root / "note").write_text("mine")
    build_world(root, 1, SMALL, keyword_model=None, workers=1)
    assert (root / "note").exists()
    (root / INDEX).unlink()
    build_world(root, 0, SMALL, keyword_model=None, workers=1)
    assert not (root / "note").exists()
    assert len(read_dataset(root, "train").examples) == 6


def test_both_loads_are_there_in_about_the_given_share() -> None:
    told = [story.example for story in _stories("train", 600, 0)]
    seen = [example for example in told if example.clip is not None]
    assert 1 - len(seen) / len(told) == pytest.approx(FACTS["train"], abs=0.07)  # four standard deviations
    high = sum(example.load == "high" for example in seen) / len(seen)
    assert high == pytest.approx(IMPLICIT["train"], abs=0.085)


@pytest.mark.slow
def test_reference_keywords_are_those_of_the_extractor(tmp_path) -> None:
    root = build_world(tmp_path / "world", 0, SMALL, keyword_model="package", workers=1)
    extractor = KeywordExtractor("package")
    for example in read_dataset(root, "test").examples:
        assert example.keywords == (extractor([example.rationale])[0] or None)
    assert all(e.keywords is None for e in read_dataset(root, "train").examples)
    assert any(e.keywords for e in read_dataset(root, "test").examples)


def test_the_checkpoint_loads_with_plain_transformers_and_spells_every_sentence(tiny, world) -> None:
    model, processor = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny), AutoProcessor.from_pretrained(tiny)
    tokenizer = processor.tokenizer
    assert model.config.text_config.vocab_size == len(tokenizer)
    assert sum(p.numel() for p in model.parameters()) < 2_000_000
    for split in ("train", "test"):
        for example in read_dataset(world, split).examples:
            for text in (question_text(example, "reason"), reason_completion(example.rationale or "", example.answer)):
                ids = tokenizer(text, add_special_tokens=False).input_ids
                assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
                assert tokenizer.unk_token_id not in ids


def test_the_same_seed_is_the_same_checkpoint_and_an_existing_one_is_kept(tiny, tmp_path) -> None:
    again = build_checkpoint(tmp_path / "again", 0)
    other = build_checkpoint(tmp_path / "other", 1)
    weights = [
        Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).state_dict() for folder in (tiny, again, other)
    ]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    assert not torch.equal(weights[0]["lm_head.weight"], weights[2]["lm_head.weight"])
    before = (again / "model.safetensors").stat().st_mtime_ns
    assert build_checkpoint(again, 5) == again
    assert (again / "model.safetensors").stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "other"]
