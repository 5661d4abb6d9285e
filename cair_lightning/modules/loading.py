"""From a path to a policy: Hugging Face folders, hub ids, and checkpoints of our own modules."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from lightning import Trainer
from torch import Tensor

from cair_lightning.modules.checkpoints import read_checkpoint, read_notes
from cair_lightning.modules.settings import PolicySettings
from cair_lightning.policies.lora import LoraSettings, add_lora, merge_lora
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.sharding import each_weight, is_sharded, load_weights, partitioned_loading

PREFIX, SUFFIX = "policy.", ".ckpt"
WEIGHT_SUFFIXES = (".safetensors", ".bin")
CHECKPOINT_SUFFIXES = (*WEIGHT_SUFFIXES, ".json", ".txt", ".jinja", ".model")


def base_folder(path: str, trusted: bool = False) -> str:
    """The Hugging Face folder (absolute) or hub id behind a path: itself, or what a `.ckpt` was trained from.

    Args:
        path: Hugging Face folder, hub id, or `.ckpt`.
        trusted: See `read_checkpoint`.

    Raises:
        FileNotFoundError: If a `.ckpt`, the folder it was trained from, or a path on this machine does not exist.
        ValueError: If a `.ckpt` was not written by one of our modules, or is a folder of shards that is not trusted.
    """
    if not path.endswith(SUFFIX):
        if Path(path).exists():
            return str(Path(path).resolve())
        if path.startswith((".", "/", "~")) or path.count("/") != 1:
            raise FileNotFoundError(
                f"model.policy {path!r} does not exist; expected a Hugging Face folder, a hub id (owner/name) or a "
                f"{SUFFIX} file."
            )
        return path
    written = read_notes(path, trusted)
    if written is None:
        raise ValueError(
            f"{path} was not written by a module of cair_lightning: it does not name what it was trained from; "
            "expected a Hugging Face folder, a hub id or a checkpoint of `cair fit`."
        )
    folder: str = written["policy"]
    if Path(folder).is_absolute() and not Path(folder).exists():
        raise FileNotFoundError(f"{path} was trained from {folder}, which does not exist any more; restore the folder.")
    return folder


def identity(path: str, trusted: bool = False) -> str:
    """A hash that identifies a checkpoint: of the contents of its files, or the commit of a hub id.

    Two checkpoints with the same one say the same; a copied folder keeps it. Reads every byte once: 16 GB take about
    ten seconds.

    Args:
        path: Hugging Face folder, hub id, or `.ckpt`.
        trusted: See `read_checkpoint`.
    """
    base = base_folder(path, trusted)
    if not Path(base).is_dir():
        from transformers.utils.hub import cached_file

        config = cached_file(base, "config.json")  # below snapshots/<commit>
        assert config is not None
        return f"{base}@{Path(config).parent.name}"
    digest = hashlib.sha256()
    files = [f for f in sorted(Path(base).iterdir()) if f.suffix in CHECKPOINT_SUFFIXES]
    if path.endswith(SUFFIX):  # the weights are in the file, the rest is the folder's
        written = sorted(f for f in Path(path).rglob("*") if f.is_file()) if Path(path).is_dir() else [Path(path)]
        files = [*written, *(f for f in files if f.suffix not in WEIGHT_SUFFIXES)]
    for file in files:
        with file.open("rb") as opened:
            digest.update(f"{file.name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def load_policy(path: str, settings: PolicySettings, trainer: Trainer | None = None) -> QwenVLPolicy:
    """Load a policy; under ZeRO-3 each rank keeps its share only.

    Args:
        path: Hugging Face folder, hub id, or `.ckpt`.
        settings: How to load it.
        trainer: The trainer that is running, whose strategy may shard the weights.

    Raises:
        ValueError: If features are to be kept and the weights are sharded: ranks run the vision tower together.
    """
    if (sharded := is_sharded(trainer)) and settings.kept_features_gib:
        raise ValueError(
            "loading.kept_features_gib does not go with ZeRO-3, whose ranks have to run the vision tower together; "
            "set it to 0."
        )
    _refuse_lora(path, settings, sharded)
    with partitioned_loading(trainer):
        policy = QwenVLPolicy.load(
            base_folder(path, settings.trust_checkpoint),
            getattr(torch, settings.dtype),
            settings.attn_implementation,
            settings.freeze_vision or settings.lora is not None,
            settings.gradient_checkpointing,
            settings.tree_attention,
            settings.kept_features_gib,
        )
    policy.lockstep = sharded
    if path.endswith(SUFFIX):
        _load_trained(policy, path, settings.trust_checkpoint)
    if settings.lora is not None:
        add_lora(policy, settings.lora)
    return policy


def _refuse_lora(path: str, settings: PolicySettings, sharded: bool) -> None:
    if settings.lora is None:
        return
    if sharded:
        raise ValueError("loading.lora does not go with ZeRO-3: train adapters on one GPU, by DDP or by ZeRO-2.")
    if path.endswith(SUFFIX):
        raise ValueError(
            f"Adapters are saved without the weights they belong to, which must lie in a folder, and {path} is none: "
            f"run `cair export {path} --out FOLDER`, and set model.policy to FOLDER."
        )


def _load_trained(policy: QwenVLPolicy, path: str, trusted: bool) -> None:
    """Put a checkpoint's weights into the policy that it was trained from; adapters are merged."""
    content = read_checkpoint(path, trusted)
    weights = {k.removeprefix(PREFIX): v for k, v in content["state_dict"].items() if k.startswith(PREFIX)}
    lora = content["cair"].get("lora")
    if lora is None:
        load_weights(policy, weights)
        return
    add_lora(policy, LoraSettings(**lora))
    load_weights(policy, policy.state_dict() | weights)
    merge_lora(policy)


def refuse_other_model(expected: dict[str, Tensor], found: dict[str, Tensor], path: str) -> None:
    """Check that a checkpoint's weights have the names and shapes of the policy.

    Raises:
        ValueError: Naming the first tensor that is missing, unknown or of another shape.
    """
    ours = {k: tuple(v.shape) for k, v in expected.items() if k.startswith(PREFIX)}
    theirs = {k: tuple(v.shape) for k, v in found.items() if k.startswith(PREFIX)}
    different = [k for k in ours | theirs if ours.get(k) != theirs.get(k)]
    if different:
        name = different[0]
        raise ValueError(
            f"The checkpoint is of another model than model.policy ({path}): {len(different)} tensors differ, the "
            f"first is {name!r}, expected {ours.get(name, 'none')}, found {theirs.get(name, 'none')}. Set model.policy "
            "to the checkpoint it was trained from."
        )


def fingerprint(policy: QwenVLPolicy) -> str:
    """A hash over a sample of every weight, to recognise a reference policy after a resume; all ranks call it."""
    digest = hashlib.sha256()
    for name, value in each_weight(policy.model):
        flat = value.flatten()
        stride = max(1, len(flat) // 256)
        digest.update(name.encode())
        digest.update(flat[::stride].float().cpu().numpy().tobytes())
    return digest.hexdigest()
