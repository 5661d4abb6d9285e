"""M-RoPE positions of Qwen2.5-VL, computed here and passed explicitly to every forward.

The model was trained with temporal position floor(grid index * seconds per grid * tokens per second), and with text
resuming behind the largest position of all three axes. Several transformers releases compute something else, and keep
the difference as state on the module (`rope_deltas`); neither is relied on anywhere in this project.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ROUNDING = 1e-6
"""Added before the floor, so that 2/3 s per grid * 3 grids is 2 s although floating point says 1.9999999."""


def video_positions(grid_thw: Sequence[int], seconds_per_grid: float, tokens_per_second: float, merge: int) -> Tensor:
    """Positions of one video's tokens relative to its first one.

    Args:
        grid_thw: Temporal, vertical and horizontal patches, before merging.
        seconds_per_grid: Seconds between two temporal patches, `temporal_patch_size / sampled fps`.
        tokens_per_second: Temporal positions per second (`vision_config.tokens_per_second`).
        merge: Patches per token along each spatial axis (`vision_config.spatial_merge_size`).

    Returns:
        Long tensor of shape (3, tokens): time, height, width.
    """
    frames, height, width = grid_thw[0], grid_thw[1] // merge, grid_thw[2] // merge
    times = [math.floor(index * seconds_per_grid * tokens_per_second + ROUNDING) for index in range(frames)]
    axes = (torch.tensor(times), torch.arange(height), torch.arange(width))
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).reshape(3, -1)


def prompt_positions(
    ids_L: Tensor,
    video_token_id: int,
    grids: Sequence[Sequence[int]],
    seconds_per_grid: Sequence[float],
    tokens_per_second: float,
    merge: int,
) -> Tensor:
    """Positions of one unpadded prompt with any number of videos.

    Args:
        ids_L: Token ids, each video expanded to one `video_token_id` per merged patch.
        video_token_id: The placeholder's id.
        grids: Grid of each video, in order.
        seconds_per_grid: Seconds per temporal patch of each video, in order.
        tokens_per_second: See `video_positions`.
        merge: See `video_positions`.

    Returns:
        Long tensor of shape (3, L). Text continues at the maximum over all axes plus one.

    Raises:
        ValueError: If the placeholders do not match the grids, or the grids the seconds.
    """
    parts: list[Tensor] = []
    column, position = 0, 0
    ids = ids_L.tolist()
    for grid, seconds in zip(grids, seconds_per_grid, strict=True):
        start = ids.index(video_token_id, column) if video_token_id in ids[column:] else len(ids)
        parts.append(torch.arange(position, position + start - column).expand(3, -1))
        position += start - column
        video = video_positions(grid, seconds, tokens_per_second, merge) + position
        column = start + video.shape[1]
        if ids[start:column] != [video_token_id] * video.shape[1]:
            raise ValueError(
                f"Expected {video.shape[1]} video tokens at column {start} for grid {tuple(grid)}, found "
                f"{ids[start:column].count(video_token_id)}; expand each placeholder to its clip's own grid."
            )
        parts.append(video)
        position = int(video.max()) + 1
    if video_token_id in ids[column:]:
        raise ValueError(
            f"Expected no video token after those of the prompt's {len(grids)} grid(s), found "
            f"{ids[column:].count(video_token_id)}; pass one grid per video."
        )
    parts.append(torch.arange(position, position + len(ids) - column).expand(3, -1))
    return torch.cat(parts, dim=1)
