"""`cair export`: a training checkpoint as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from cair_lightning.modules.checkpoints import read_checkpoint
from cair_lightning.modules.exporting import write_policy
from cair_lightning.modules.loading import PREFIX, SUFFIX, load_policy
from cair_lightning.modules.settings import PolicySettings


def export(
    checkpoint: Path, out: Path, dtype: Literal["as_trained", "float32", "bfloat16"] = "as_trained", trust: bool = False
) -> Path:
    """Write the policy of a checkpoint as safetensors with its processor, for transformers, vLLM and `model.policy`.

    Args:
        checkpoint: A `.ckpt` of `cair fit`: a file, or a folder of shards of DeepSpeed or FSDP.
        out: The folder to write; an older one is replaced once the new one is complete.
        dtype: Type of the weights. `as_trained` keeps every bit; of a mixed-precision run these are float32.
        trust: Read a folder of shards, which runs any code that its writer put in.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: If there is no checkpoint, or what it was trained from is gone.
        ValueError: If it is none of `cair fit`, or a folder that is not trusted.
    """
    path = Path(checkpoint)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a {SUFFIX} of `cair fit`.")
    if path.suffix != SUFFIX:
        raise ValueError(f"expected a {SUFFIX} of `cair fit`, got {path}, which may be a Hugging Face folder already.")
    if dtype == "as_trained":
        weights = read_checkpoint(path, trust)["state_dict"]
        trained = next(value.dtype for name, value in weights.items() if name.startswith(PREFIX))
        dtype = "bfloat16" if trained == torch.bfloat16 else "float32"
        del weights
    policy = load_policy(str(path), PolicySettings(dtype=dtype, trust_checkpoint=trust))
    write_policy(policy, Path(out))
    return Path(out)
