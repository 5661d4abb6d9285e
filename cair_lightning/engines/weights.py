"""Weights on their way to another process of this host: safetensors files in shared memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from cair_lightning.engines.base import EngineError

FILE_BYTES = 2**30
"""What a file holds before the next one is begun; as much is in memory at the same time."""


@dataclass(slots=True, kw_only=True, frozen=True)
class Weights:
    """Weights that can be loaded again and again until the next ones are written, or once, where they are broadcast."""

    label: str
    """Names them, among all runs."""
    paths: list[Path] | None
    """None where they are broadcast."""
    temperature: float
    """What logits are divided by."""

    def remove(self) -> None:
        """Delete the files."""
        for path in self.paths or []:
            path.unlink(missing_ok=True)


def write_weights(
    weights: Iterable[tuple[str, Tensor]], folder: Path, name: str, dtype: torch.dtype, file_bytes: int = FILE_BYTES
) -> list[Path]:
    """Write weights into files, each weight into one of them.

    Even if the folder is full all weights are gone through, because other ranks do so too.

    Args:
        weights: Name and value of each.
        folder: Where to.
        name: How file names begin.
        dtype: What they are written in.
        file_bytes: What a file holds before the next one is begun.

    Raises:
        EngineError: If the folder cannot hold them.
    """
    paths: list[Path] = []
    batch: dict[str, Tensor] = {}
    problem: Exception | None = None

    def flush() -> None:
        nonlocal problem
        path = folder / f"{name}-{len(paths)}.safetensors"
        paths.append(path)
        try:
            save_file(batch, path)
        except (OSError, SafetensorError) as error:
            problem = error
        batch.clear()

    for key, value in weights:
        if problem is None:
            batch[key] = value.to("cpu", dtype, copy=True).contiguous()
            if sum(tensor.nbytes for tensor in batch.values()) >= file_bytes:
                flush()
    if batch:
        flush()
    if problem is not None:
        for path in paths:
            path.unlink(missing_ok=True)
        raise EngineError(
            f"{folder} cannot hold the weights ({problem}); expected room for two copies of them. Enlarge it, or name "
            "another folder that the servers can read (weights_folder)."
        ) from problem
    return paths
