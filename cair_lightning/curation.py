"""Entropy-based curation (A.5): score every sample by path A, keep the most uncertain ones for stage 2."""
# ruff: noqa: B008 - settings are defaults that nobody writes to

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lightning import Trainer

from cair_lightning.datamodules.emoreason import EmoReasonEvaluationDataModule
from cair_lightning.datamodules.manifest import write_dataset
from cair_lightning.modules.base import PolicyModule
from cair_lightning.modules.settings import EvaluationSettings, PolicySettings
from cair_lightning.policies.collation import VisionSettings
from cair_lightning.structures import Example
from cair_lightning.verifier import entropy, observe

if TYPE_CHECKING:
    from cair_lightning.datamodules.loading import Window


class EntropyModule(PolicyModule):
    """Predicts nothing but H(Y | X), eq. 10: one prompt computation and a few label tokens per sample."""

    def predict_step(self, batch: Window, batch_idx: int) -> list[tuple[str, float]]:  # type: ignore[override]
        """Id and entropy in bits of every sample of a batch whose clip could be read."""
        prompts, policy = batch.prompts, self.policy
        assert policy is not None
        assert prompts is not None
        with policy.scoring():
            # Of a belief that is sure, rounding may make less than nothing.
            entropies_B = entropy(observe(policy, policy.prefill(prompts))).clamp(min=0) / math.log(2)
        return [(e.id, float(h)) for e, h, ok in zip(prompts.examples, entropies_B, prompts.valid_B, strict=True) if ok]


def curate(
    policy: str,
    root: Path,
    out: Path,
    k: int = 3000,
    split: str = "train",
    vision: VisionSettings = VisionSettings(),
    loading: PolicySettings = PolicySettings(),
    max_tokens: int = 4096,
    batch_size: int = 8,
    num_workers: int = 2,
    max_skipped: float = 0.01,
    accelerator: str = "auto",
) -> Path:
    """Score a split with a checkpoint and write its k most uncertain samples as a data set of their own.

    Writes `emoreason.json` and `train.jsonl` (the k samples, the most uncertain first, each with its `entropy_bits`)
    and `entropies.jsonl` (every sample's entropy and whether it was selected, for Fig. 7).

    Args:
        policy: Stage 1's checkpoint.
        root: The data set that stage 1 was trained on.
        out: Folder of the new data set; its clips stay where they are.
        k: How many samples to keep (3,000 of 31,000 in A.5).
        split: Split that is scored.
        vision: How clips become tokens; as in training.
        loading: How the checkpoint is loaded.
        max_tokens: Longest prompt.
        batch_size: Samples that are scored together.
        num_workers: Loader processes.
        max_skipped: Largest share of samples that cannot be read.
        accelerator: Lightning's accelerator.

    Returns:
        `out`.

    Raises:
        ValueError: If there are fewer than k samples, or `out` is `root`.
        TooManySkippedError: If too many clips cannot be read.
    """
    root, out = Path(root), Path(out)
    if out.resolve() == root.resolve():
        raise ValueError(
            f"--out {out} is the data set itself, whose manifest would be overwritten; choose another folder."
        )
    data = EmoReasonEvaluationDataModule(root, split, batch_size, num_workers, max_skipped=max_skipped)
    examples = data.examples(split)
    _refuse_too_many(k, len(examples), root, split)
    evaluation = EvaluationSettings(keyword_model=None)
    module = EntropyModule(policy, loading, vision, evaluation=evaluation, max_tokens=max_tokens)
    trainer = Trainer(
        accelerator=accelerator, devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    measured: dict[str, float] = {}
    for batch in trainer.predict(module, data) or []:
        measured |= dict(batch)
    _refuse_too_many(k, len(measured), root, split)
    scored = [replace(e, entropy_bits=measured[e.id]) for e in examples if e.id in measured]
    chosen = sorted(scored, key=lambda e: -(e.entropy_bits or 0.0))[:k]
    _write(out, data.clips, scored, chosen)
    return out


def _refuse_too_many(k: int, size: int, root: Path, split: str) -> None:
    if not 0 < k <= size:
        raise ValueError(
            f"--k {k} samples were asked for, and split {split!r} of {root} has {size} that can be read; "
            f"choose between 1 and {size}."
        )


def _write(out: Path, clips: Path, scored: list[Example], chosen: list[Example]) -> None:
    """Write the entropies and the data set, whose index comes last; each file is complete or not there."""
    out.mkdir(parents=True, exist_ok=True)
    selected = {e.id for e in chosen}
    rows = [{"id": e.id, "entropy_bits": e.entropy_bits, "selected": e.id in selected} for e in scored]
    draft = out / ".entropies.jsonl"
    draft.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    os.replace(draft, out / "entropies.jsonl")
    write_dataset(out, "EmoReason-RL", Path(os.path.relpath(clips.resolve(), out.resolve())), {"train": chosen})
