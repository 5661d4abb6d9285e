"""Beliefs P(Y|X) as tensors: what callers may pass, checked and brought to one padded float64 matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Beliefs: TypeAlias = Tensor | Sequence[Tensor]
"""One distribution per sample: a matrix (N, Y), or N vectors where each sample has its own number of candidates."""

SUM_TOLERANCE = 1e-3
SMALLEST = torch.finfo(torch.float32).tiny
"""The probability, 1.2e-38, below which logarithms are taken of it instead: 87.34 nats, whatever the input's dtype."""


def stack_beliefs(beliefs: Beliefs, name: str) -> tuple[Tensor, Tensor]:
    """Check distributions and stack them.

    Args:
        beliefs: Probabilities, as a matrix (N, Y) or N vectors of any lengths. A matrix may be padded with zeros.
        name: How the caller calls them, for error messages.

    Returns:
        p_NY, float64, padded with zeros on the right; and the number of candidates of each sample, (N,).

    Raises:
        ValueError: Another shape, a negative value or nan, or a sum that is not 1 within 1e-3.
    """
    if isinstance(beliefs, Tensor):
        if beliefs.ndim != 2:
            raise ValueError(
                f"expected {name} to be a matrix (samples, candidates) or a list of vectors, got shape "
                f"{tuple(beliefs.shape)}; pass a single sample as {name}[None]"
            )
        p_NY = beliefs.to(torch.float64)
        sizes_N = torch.full((len(beliefs),), beliefs.shape[1], device=beliefs.device)
    elif not beliefs:
        return torch.zeros(0, 0, dtype=torch.float64), torch.zeros(0, dtype=torch.long)
    else:
        for index, row in enumerate(beliefs):
            if row.ndim != 1:
                raise ValueError(
                    f"expected {name}[{index}] to be a vector over candidates, got shape {tuple(row.shape)}; "
                    "pass one distribution per sample"
                )
        p_NY = pad_sequence([row.to(torch.float64) for row in beliefs], batch_first=True)
        sizes_N = torch.tensor([len(row) for row in beliefs], device=p_NY.device)
    _check_distributions(p_NY, sizes_N, name)
    return p_NY, sizes_N


def stack_pair(p_obs: Beliefs, p_int: Beliefs) -> tuple[Tensor, Tensor, Tensor]:
    """Check and stack the beliefs of both paths: p_obs_NY, p_int_NY and the number of candidates of each sample.

    Raises:
        ValueError: As `stack_beliefs`, or the two differ in samples or candidates.
    """
    p_obs_NY, sizes_N = stack_beliefs(p_obs, "p_obs")
    p_int_NY, sizes_int_N = stack_beliefs(p_int, "p_int")
    if sizes_N.tolist() != sizes_int_N.tolist():
        raise ValueError(
            f"expected p_obs and p_int over the same candidates of the same samples, got {sizes_N.tolist()} and "
            f"{sizes_int_N.tolist()} candidates; pass both paths of one sample at the same place"
        )
    return p_obs_NY, p_int_NY, sizes_N


def check_targets(targets: Tensor | Sequence[int], sizes_N: Tensor) -> Tensor:
    """Check the indices of the true candidates against the number of candidates of each sample.

    Returns:
        target_N, int64, on the device of `sizes_N`.

    Raises:
        ValueError: Not one integer per sample, or an index outside its sample's candidates.
    """
    target_N = torch.as_tensor(targets, device=sizes_N.device)
    if target_N.shape != sizes_N.shape:
        raise ValueError(
            f"expected a vector of {len(sizes_N)} target indices, one per sample, got shape {tuple(target_N.shape)}; "
            "pass as many targets as beliefs"
        )
    if target_N.numel() and (target_N.is_floating_point() or target_N.dtype == torch.bool):
        raise ValueError(f"expected targets to be indices of candidates, got {target_N.dtype}; pass integers")
    target_N = target_N.long()
    outside_N = (target_N < 0) | (target_N >= sizes_N)
    if outside_N.any():
        index = int(outside_N.nonzero()[0])
        raise ValueError(
            f"expected targets[{index}] in 0..{int(sizes_N[index]) - 1}, the candidates of its sample, got "
            f"{int(target_N[index])}; count candidates from 0"
        )
    return target_N


def log_probability(p_NY: Tensor, target_N: Tensor) -> Tensor:
    """Log of the probability of one candidate per sample, (N,), in nats and never below log(1.2e-38) = -87.34."""
    return p_NY.gather(1, target_N[:, None]).squeeze(1).clamp_min(SMALLEST).log()


def _check_distributions(p_NY: Tensor, sizes_N: Tensor, name: str) -> None:
    valid_N = (p_NY >= 0).all(dim=1) & ((p_NY.sum(dim=1) - 1).abs() <= SUM_TOLERANCE)
    if not valid_N.all():
        index = int((~valid_N).nonzero()[0])
        row = p_NY[index, : int(sizes_N[index])].tolist()
        raise ValueError(
            f"expected every row of {name} to be non-negative and to sum to 1 within {SUM_TOLERANCE}, got {row} in row "
            f"{index}; normalise over the sample's candidates with a softmax in float32"
        )
