"""An unfinished rollout as tensors and plain data, the only things that are unpickled from a checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import distributed

from cair_lightning.policies.batch import Prompts
from cair_lightning.policies.sampling import Completions
from cair_lightning.rollout import Rollout
from cair_lightning.structures import Answer, Example
from cair_lightning.verifier import Verdict


def rollouts_of_all_ranks(rollout: Rollout) -> list[dict[str, Any]]:
    """The rollout of every rank as plain data, by rank. Every rank has to call it."""
    plain = asdict(rollout)
    if not (distributed.is_available() and distributed.is_initialized()):
        return [plain]
    gathered: list[dict[str, Any]] = [{} for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(gathered, plain)
    return gathered


def rollout_from_plain(plain: dict[str, Any], device: torch.device) -> Rollout:
    """The rollout that `asdict` took apart, with all tensors on a device."""
    fields = _to(plain, device)
    prompts, verdict = fields.pop("prompts"), fields.pop("verdict")
    examples = [Example(**example) for example in prompts.pop("examples")]
    answers = [None if answer is None else Answer(**answer) for answer in verdict.pop("answers")]
    return Rollout(
        prompts=Prompts(examples=examples, **prompts),
        completions=Completions(**fields.pop("completions")),
        verdict=Verdict(answers=answers, **verdict),
        **fields,
    )


def _to(plain: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A copy of nested dictionaries with all tensors on a device."""
    moved = {k: _to(v, device) if isinstance(v, dict) else v for k, v in plain.items()}
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in moved.items()}
