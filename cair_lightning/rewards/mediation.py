"""Causal mediation reward (eq. 4 and 9), its floor for malformed completions, and what a leak does to it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

LeakagePolicy = Literal["raw", "masked", "penalty"]


def causal_mediation(log_p_obs_N: Tensor, log_p_int_N: Tensor, clip: float | None) -> Tensor:
    """R_CMR of eq. 4: log P(y*|X, do(z)) - log P(y*|X), in nats.

    Args:
        log_p_obs_N: log P(y*|X), the belief in the right answer on path A; the prompt's number for each completion.
        log_p_int_N: log P(y*|X, do(z)), the same belief on path B.
        clip: c >= 0, the reward is cut to [-c, c]; None cuts nothing, which is the paper's formula.

    Returns:
        The log-ratio per completion, float32. Positive where z raised the belief in the right answer.

    Raises:
        ValueError: Shapes differ, or `clip` is negative.
    """
    if log_p_obs_N.shape != log_p_int_N.shape:
        raise ValueError(
            f"expected two beliefs per completion, got log P_obs of shape {tuple(log_p_obs_N.shape)} and log P_int of "
            f"shape {tuple(log_p_int_N.shape)}; repeat a prompt's log P_obs with repeat_interleave(G)"
        )
    if clip is not None and clip < 0:
        raise ValueError(f"expected clip >= 0 nats or None, got {clip}; None is the paper's unclipped ratio")
    ratio_N = log_p_int_N.float() - log_p_obs_N.float()
    return ratio_N if clip is None else ratio_N.clamp(-clip, clip)


def mediation_rewards(
    log_p_obs_N: Tensor,
    log_p_int_N: Tensor,
    wellformed_N: Tensor,
    *,
    clip: float | None,
    leakage: LeakagePolicy = "raw",
    leaked_N: Tensor | None = None,
    log_p_int_masked_N: Tensor | None = None,
    penalty: float = 1.0,
) -> Tensor:
    """R_CMR of every completion that was sampled, well-formed or not.

    A malformed completion has no z, and it never earns more than a well-formed one: paid 0, the policy would learn to
    break the format wherever its reasoning lowers the belief. Its reward is the lowest that a well-formed one can
    have, -c. Without a clip no constant is that low, so it is the lowest that a well-formed completion of this call
    does have, and at most 0, the worth of a rationale that says nothing. Call it with whole groups, then: the order
    within a group holds even if other ranks hold other groups.

    Args:
        log_p_obs_N: log P(y*|X) of each completion's prompt.
        log_p_int_N: log P(y*|X, do(z)); not read where malformed, so it may be nan there.
        wellformed_N: bool, whether the completion could be parsed.
        clip: c in nats, or None; see `causal_mediation`.
        leakage: `raw` is the paper. `masked` rewards what z does without the names in it. `penalty` is raw less
            `penalty` nats where z names a candidate, and not below -c.
        leaked_N: bool, whether z names a candidate; needed by `penalty` only.
        log_p_int_masked_N: log P_int given z with the candidates' names masked; needed by `masked` only.
        penalty: In nats, not negative; 1 is a belief e times smaller.

    Returns:
        One reward per completion in nats, float32.

    Raises:
        ValueError: Shapes differ, an option is out of range, the leakage policy lacks the tensor that it needs, or
            a well-formed completion's reward is not finite.
    """
    _refuse_options(leakage, penalty)
    _refuse_unlike(log_p_int_N, "wellformed_N", wellformed_N)
    if leakage == "masked":
        if log_p_int_masked_N is None:
            raise ValueError("leakage 'masked' needs log_p_int_masked_N; score path B with LeakageLexicon.mask(z) too")
        log_p_int_N = log_p_int_masked_N
    reward_N = causal_mediation(log_p_obs_N, log_p_int_N, clip)
    if leakage == "penalty":
        if leaked_N is None:
            raise ValueError("leakage 'penalty' needs leaked_N; ask LeakageLexicon.leaks(z) of each completion")
        _refuse_unlike(log_p_int_N, "leaked_N", leaked_N)
        reward_N = reward_N - penalty * leaked_N.float()
        reward_N = reward_N if clip is None else reward_N.clamp(min=-clip)
    earned = reward_N[wellformed_N.bool()]
    _refuse_infinite(earned, clip)
    return torch.where(wellformed_N.bool(), reward_N, _floor(earned, clip))


def _floor(earned: Tensor, clip: float | None) -> Tensor:
    if clip is not None:
        return earned.new_tensor(-clip)
    return torch.cat([earned, earned.new_zeros(1)]).min()


def _refuse_options(leakage: LeakagePolicy, penalty: float) -> None:
    if leakage not in ("raw", "masked", "penalty"):
        raise ValueError(f"expected leakage raw, masked or penalty, got {leakage!r}")
    if penalty < 0:
        raise ValueError(f"expected penalty >= 0 nats, got {penalty}; it is subtracted where z leaks")


def _refuse_unlike(log_p_int_N: Tensor, name: str, flags_N: Tensor) -> None:
    if flags_N.shape != log_p_int_N.shape:
        raise ValueError(
            f"expected {name} with one flag per completion, got shape {tuple(flags_N.shape)} beside log P_int of shape "
            f"{tuple(log_p_int_N.shape)}"
        )


def _refuse_infinite(earned: Tensor, clip: float | None) -> None:
    if not torch.isfinite(earned).all():
        raise ValueError(
            "expected finite mediation rewards for well-formed completions, got "
            f"{earned[~torch.isfinite(earned)].tolist()} with "
            f"clip={clip}; a belief was nan or exactly 0: score candidates in float32, or set a clip"
        )
