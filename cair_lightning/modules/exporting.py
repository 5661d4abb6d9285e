"""A policy as a Hugging Face folder, which stage 2, `cair curate`, `cair test`, transformers and vLLM take."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from torch import Tensor

from cair_lightning.policies.qwen import QwenVLPolicy


def write_policy(policy: QwenVLPolicy, target: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Write weights as safetensors, configuration and processor; an older folder at the same place is replaced.

    The folder is written under a temporary name and moved when complete.

    Args:
        policy: What is written.
        target: The folder.
        weights: The model's `state_dict`, where the policy itself holds a share only.
    """
    draft, old = target.with_name(f".{target.name}.draft"), target.with_name(f".{target.name}.old")
    for leftover in (draft, old):
        shutil.rmtree(leftover, ignore_errors=True)
    # Under ZeRO-3 transformers notes more renamings than its loading applied, and saving would undo them all. Without
    # the note it writes the names of the published checkpoints.
    vars(policy.model)["_weight_conversions"] = None
    policy.model.save_pretrained(draft, state_dict=weights)
    policy.processor.save_pretrained(draft)
    if target.exists():
        os.replace(target, old)
    os.replace(draft, target)
    shutil.rmtree(old, ignore_errors=True)
