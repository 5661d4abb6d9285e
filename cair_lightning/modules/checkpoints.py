"""What a training run leaves behind, read as one: a file, a folder of DeepSpeed's shards, or one of FSDP's."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

DEEPSPEED_TAG = "checkpoint"
"""The folder that Lightning has DeepSpeed write the shards into."""
FSDP_INDEX, FSDP_REST = ".metadata", "meta.pt"


def is_deepspeed_folder(path: Path) -> bool:
    """Whether a path is a checkpoint of DeepSpeed's."""
    return (path / DEEPSPEED_TAG).is_dir()


def is_fsdp_folder(path: Path) -> bool:
    """Whether a path is a distributed checkpoint of PyTorch's, as FSDP and ModelParallel strategies write it."""
    return (path / FSDP_INDEX).is_file()


def read_checkpoint(path: str | Path, trusted: bool = False) -> dict[str, Any]:
    """A checkpoint's content, with the whole weights under `state_dict` and our own notes under `cair`.

    Of a file only tensors and plain data are unpickled, and its weights stay on the disk until they are used.
    DeepSpeed's weights are the float32 masters.

    Args:
        path: A `.ckpt` file or folder.
        trusted: Read folders of shards, which are pickled: reading them runs whatever code their writer put in.

    Raises:
        FileNotFoundError: If there is nothing there.
        ValueError: If a folder is no checkpoint, or one that is not trusted.
    """
    path = Path(path)
    if not path.is_dir():
        content: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return content
    if not (is_deepspeed_folder(path) or is_fsdp_folder(path)):
        raise ValueError(f"{path} is no checkpoint: expected a file, or a folder of shards of DeepSpeed or FSDP.")
    if not trusted:
        raise ValueError(_untrusted(path))
    return _read_deepspeed(path) if is_deepspeed_folder(path) else _read_fsdp(path)


def refuse_to_resume(path: Path, trusted: bool, ranks: int, by_deepspeed: bool) -> None:
    """Check that a run can go on from a folder of shards; a file is always fine.

    Args:
        path: What `ckpt_path` says.
        trusted: See `read_checkpoint`.
        ranks: Ranks of this run.
        by_deepspeed: Whether it runs by DeepSpeed.

    Raises:
        ValueError: If the folder is not trusted, or its shards are those of another number of ranks or strategy.
    """
    if not (is_deepspeed_folder(path) or is_fsdp_folder(path)):
        return
    if not trusted:
        raise ValueError(_untrusted(path))
    if is_fsdp_folder(path):  # PyTorch cuts them anew
        return
    written = len(list((path / DEEPSPEED_TAG).glob("*_optim_states.pt")))
    if not by_deepspeed or written != ranks:
        raise ValueError(
            f"{path} holds the shards of {written} ranks under DeepSpeed, and this run has {ranks}"
            f"{'' if by_deepspeed else ' without it'}: shards are not cut anew. `cair export {path} --out FOLDER "
            "--trust-checkpoint` and --model.policy FOLDER without --ckpt_path keep the weights. Not kept are the "
            "optimiser's state, the schedule, eta, the place in the data and, in stage 2, the reference, which will be "
            "FOLDER."
        )


def _untrusted(path: Path) -> str:
    return (
        f"{path} is a folder of shards, and reading them runs any code that their writer put in (they are pickled). If "
        "it is yours, say so: --trust-checkpoint of `cair export`, --model.loading.trust_checkpoint true elsewhere. Of "
        "others, ask for an exported folder."
    )


def read_notes(path: str | Path, trusted: bool = False) -> dict[str, Any] | None:
    """What our modules wrote into a checkpoint beside the weights: `policy`, `vision`; None in a stranger's."""
    path = Path(path)
    if trusted and is_deepspeed_folder(path):
        content = _load_pickle(_model_file(path))
    elif trusted and is_fsdp_folder(path):
        content = _load_pickle(path / FSDP_REST)
    else:
        content = read_checkpoint(path, trusted)
    notes: dict[str, Any] | None = content.get("cair")
    return notes


def _read_deepspeed(path: Path) -> dict[str, Any]:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    weights: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(str(path), DEEPSPEED_TAG)
    return {"state_dict": weights, "cair": _load_pickle(_model_file(path)).get("cair")}


def _model_file(path: Path) -> Path:
    """The first rank's file, which holds what Lightning and its modules had to save."""
    return min((path / DEEPSPEED_TAG).glob("*_model_states.pt"))


def _read_fsdp(path: Path) -> dict[str, Any]:
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        whole = Path(folder) / "whole.pt"
        dcp_to_torch_save(path, whole)
        weights: dict[str, Tensor] = torch.load(whole, map_location="cpu", weights_only=True)["state_dict"]
    return {"state_dict": weights, "cair": _load_pickle(path / FSDP_REST).get("cair")}


def _load_pickle(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=False)
    return content
