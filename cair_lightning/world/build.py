"""Builds the embedded world: clips, manifests in EmoReason format, and the untrained tiny model that fits them."""

from __future__ import annotations

import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.progress import track

from cair_lightning.datamodules.manifest import INDEX, write_dataset
from cair_lightning.metrics import KeywordExtractor
from cair_lightning.prompts import question_text, reason_completion
from cair_lightning.structures import Example
from cair_lightning.world import tiny
from cair_lightning.world.face import draw_clip
from cair_lightning.world.story import ENDINGS, ONSETS, Quality, Story, Style, knowledge, styles, tell

SIZES = {"warmup": 1200, "train": 3000, "val": 150, "test": 400}
"""Samples of each split. `warmup` makes the base model: half of it faces to name, half of it facts without a clip."""
IMPLICIT = {"warmup": 0.0, "train": 0.7, "val": 0.5, "test": 0.5}
"""Share of implicit samples."""
FACTS = {"warmup": 0.5, "train": 0.2}
"""Share of single facts of the world, asked without a clip. SFT goes on with some, so that it does not unlearn them."""
MIX: dict[Quality, float] = {"full": 0.40, "partial": 0.05, "shallow": 0.55}
"""Quality of the training rationales: shallow ones are common enough to be SFT's greedy choice."""
ANNOTATED: dict[Quality, float] = {"full": 1.0}
"""Quality of the reference rationales that evaluation compares with."""


def build_world(
    root: Path,
    seed: int = 0,
    sizes: dict[str, int] | None = None,
    keyword_model: str | None = "package",
    workers: int = 2,
) -> Path:
    """Draw and write the data set. An existing complete one is left as it is; a half-written one is made anew.

    Args:
        root: Its folder.
        seed: Seed of stories and faces.
        sizes: Samples per split; the default is `SIZES`.
        keyword_model: Encoder that extracts the reference keywords of `val` and `test`; None leaves them out.
        workers: Processes that draw.

    Returns:
        `root`.
    """
    if (root / INDEX).exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    clips = root / "clips"
    clips.mkdir(parents=True)
    stories = {split: _stories(split, size, seed) for split, size in (sizes or SIZES).items()}
    everything = [story for split in stories.values() for story in split]
    jobs = [(clips / s.example.clip, s.expression, (seed, n)) for n, s in enumerate(everything) if s.example.clip]
    with ProcessPoolExecutor(workers) as pool:
        drawn = pool.map(_draw, jobs, chunksize=32)
        for _ in track(drawn, "Drawing clips", total=len(jobs)):
            pass
    splits = {split: [story.example for story in told] for split, told in stories.items()}
    if keyword_model is not None:
        splits |= _with_keywords(
            {s: splits[s] for s in ("val", "test") if s in splits}, KeywordExtractor(keyword_model)
        )
    write_dataset(root, "The embedded world", Path("clips"), splits)
    return root


def build_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write the untrained tiny model and its processor, whose tokenizer is trained on the world's own sentences.

    Names are left out of the tokenizer's corpus except for their syllables, so that a held-out name is spelt by pieces
    that training has seen.

    Args:
        folder: Where to.
        seed: Seed of the weights.

    Returns:
        `folder`.
    """
    if (folder / "config.json").exists():
        return folder
    processor = tiny.build_processor(_corpus(seed))
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    tiny.save(draft, processor, tiny.build_model(processor, seed=seed))
    draft.rename(folder)
    return folder


def _stories(split: str, size: int, seed: int) -> list[Story]:
    """The stories of a split, each from a seed of its own kind, so that no split changes with the size of another."""
    seen, held_out = styles()
    style: Style = held_out if split == "test" else seen
    rng = np.random.default_rng((seed, *split.encode()))
    mix = MIX if split in ("train", "warmup") else ANNOTATED
    told = []
    for n in range(size):
        implicit = bool(rng.random() < IMPLICIT[split])
        quality = list(mix)[rng.choice(len(mix), p=list(mix.values()))]
        identifier = f"{split}{n:04d}"
        if rng.random() < FACTS.get(split, 0.0):
            told.append(Story(example=knowledge(identifier, rng), expression=""))
        else:
            told.append(tell(identifier, implicit, quality, style, rng))
    return told


def _draw(job: tuple[Path, str, tuple[int, int]]) -> None:
    path, expression, seed = job
    draw_clip(path, expression, np.random.default_rng(seed))


def _with_keywords(splits: dict[str, list[Example]], extractor: KeywordExtractor) -> dict[str, list[Example]]:
    """Extract reference keywords once; equal rationales share the work."""
    texts = sorted({e.rationale or "" for examples in splits.values() for e in examples})
    keywords = dict(zip(texts, extractor(texts), strict=True))
    return {
        split: [replace(e, keywords=keywords[e.rationale or ""] or None) for e in examples]
        for split, examples in splits.items()
    }


def _corpus(seed: int) -> list[str]:
    """Prompts and completions as SFT sees them, names taken out, syllables put in."""
    names = {name for style in styles() for name in style.names}
    sentences: list[str] = []
    for story in (*_stories("train", 400, seed), *_stories("warmup", 200, seed)):
        example = story.example
        sentences += [question_text(example, "reason"), question_text(example, "direct")]
        sentences.append(reason_completion(example.rationale or "", example.answer))
    corpus = [
        " ".join(word for word in text.replace("\n", " \n ").split(" ") if word not in names) for text in sentences
    ]
    return corpus + [f" {onset} {onset}" for onset in ONSETS] * 500 + list(ENDINGS) * 500
