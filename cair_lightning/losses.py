"""The losses of both stages and the advantages: pure functions of tensors.

The objective is Algorithm 1's: ratio x A - eta KL(pi || pi_ref), averaged per sequence as in the original GRPO (Shao et
al., 2024). Beyond the paper: the standard deviation has a floor, and the clip and the other normalisations are options.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

AdvantageScale = Literal["group", "batch", "none"]
Normalisation = Literal["sequence", "token", "constant"]


def group_advantages(
    rewards_BG: Tensor, scale: AdvantageScale = "group", std_floor: float = 0.05, batch_std: Tensor | None = None
) -> Tensor:
    """Rewards relative to their group: (r - mean of the group) / max(std, floor); Algorithm 1, line 13.

    The standard deviation is the unbiased one (divided by G - 1), as in TRL.

    The floor replaces the paper's nothing and TRL's +1e-4. R_CMR is continuous, so once accuracy and format are
    saturated a group's rewards differ by 1e-3 or so: noise, which division by its own deviation turns into advantages
    as large as those of a right answer among wrong ones. A policy at 100 % accuracy fell to 66 % in 200 updates that
    way. 0.05 stands between the two: one wrong answer in eight deviates by 0.35 and is normalised as ever, while
    differences of 1e-3 yield advantages below 0.03. It is meant for rewards of size 1; under weights that sum to one,
    R_CMR is divided by the number of prompts, and a smaller floor may be wanted. 0 is the paper's formula. A group
    of equal rewards has the advantages 0 in any case.

    A per-prompt factor of the whole reward cancels under `group` as long as the floor does not bind. A per-prompt
    summand, such as log P(y*|X) in an unclipped R_CMR, cancels under every scale.

    Args:
        rewards_BG: One row per prompt, one column per completion.
        scale: What to divide by: the `group`'s deviation, the `batch`'s, or nothing (`none`, Dr. GRPO).
        std_floor: Smallest divisor; not used under `none`.
        batch_std: Deviation over all rewards of all ranks, for `batch` in a distributed run; None takes it over
            `rewards_BG`.

    Returns:
        The advantages (B, G), float32.

    Raises:
        ValueError: Fewer than two completions per prompt, an unknown scale, a negative floor, or a `batch_std` that
            the scale does not use.
    """
    if rewards_BG.ndim != 2 or rewards_BG.shape[1] < 2:
        raise ValueError(
            f"expected rewards (B, G) with G >= 2, got shape {tuple(rewards_BG.shape)}; a completion is judged "
            "against the others of its prompt, so sample at least two"
        )
    if scale not in ("group", "batch", "none"):
        raise ValueError(f"expected scale group, batch or none, got {scale!r}")
    if std_floor < 0:
        raise ValueError(f"expected std_floor >= 0, got {std_floor}; 0 is the paper's formula")
    if batch_std is not None and scale != "batch":
        raise ValueError(f"batch_std is for scale='batch' only, got scale={scale!r}; drop one of the two")
    rewards_BG = rewards_BG.float()
    # The mean of equal numbers may be off by a rounding error, which a small divisor would blow up.
    equal_B1 = rewards_BG.amax(dim=1, keepdim=True) == rewards_BG.amin(dim=1, keepdim=True)
    centred_BG = (rewards_BG - rewards_BG.mean(dim=1, keepdim=True)).masked_fill(equal_B1, 0.0)
    if scale == "none":
        return centred_BG
    std = rewards_BG.std(dim=1, keepdim=True) if scale == "group" else rewards_BG.std()
    std = std if batch_std is None else batch_std.to(std)
    # tiny: a floor of 0 must not make 0 / 0 of a group of equal rewards.
    return centred_BG / std.clamp(min=max(std_floor, torch.finfo(torch.float32).tiny))


def token_weights(
    mask_NT: Tensor, normalisation: Normalisation, max_tokens: int, n_sequences: int, n_tokens: int
) -> Tensor:
    """What each trained token counts in the loss.

    `sequence`, 1 / (n_sequences len_i), is the original GRPO: sequences count alike, so tokens of a short one count
    more. `token`, 1 / n_tokens, is DAPO: tokens count alike. `constant`, 1 / (n_sequences max_tokens), is Dr. GRPO: no
    length enters. Over the global window (all micro-batches of all ranks that make one optimiser step) the first two
    sum to 1; the third to the mean length over `max_tokens`.

    The loss is thus a *sum* over the window. Lightning divides by `accumulate_grad_batches` and DDP averages over
    ranks; whoever calls undoes both by multiplying the loss with accumulate_grad_batches x world_size.

    Args:
        mask_NT: True (or 1) on the tokens that are trained; padding and truncated completions are False.
        normalisation: See above.
        max_tokens: Longest completion that may be sampled; used by `constant` only.
        n_sequences: Sequences of the global window. Count those with at least one trained token; if masked-out
            ones are counted too, the sum is smaller than 1, as in TRL.
        n_tokens: Trained tokens of the global window.

    Returns:
        Weights (N, T), float32; 0 on every token that is not trained. A row without trained tokens is all 0.

    Raises:
        ValueError: An unknown normalisation, `max_tokens` below 1 where it is used, or counts smaller than this
            micro-batch's own, which cannot be those of the window it belongs to.
    """
    if normalisation not in ("sequence", "token", "constant"):
        raise ValueError(f"expected normalisation sequence, token or constant, got {normalisation!r}")
    mask_NT = mask_NT.bool()
    lengths_N = mask_NT.sum(dim=1)
    here = (int((lengths_N > 0).sum()), int(lengths_N.sum()))
    if n_sequences < here[0] or n_tokens < here[1]:
        raise ValueError(
            f"expected counts of the whole optimiser step, got n_sequences={n_sequences} and n_tokens={n_tokens}, but "
            f"this micro-batch alone has {here[0]} and {here[1]}; sum them over micro-batches and ranks"
        )
    if normalisation == "token":
        return mask_NT.float() / max(n_tokens, 1)
    if normalisation == "sequence":
        return mask_NT.float() / (max(n_sequences, 1) * lengths_N.clamp(min=1)[:, None])
    if max_tokens < 1:
        raise ValueError(f"expected max_tokens >= 1 for normalisation 'constant', got {max_tokens}")
    return mask_NT.float() / (max(n_sequences, 1) * max_tokens)


def kl_k3(logps_NT: Tensor, ref_logps_NT: Tensor) -> Tensor:
    """Per-token estimate of KL(pi || pi_ref) for tokens sampled from pi: exp(d) - d - 1 with d = ref - logp; nats.

    Unbiased and never negative (Schulman's k3). expm1, because near d = 0 the literal formula loses every digit of
    d^2 / 2 to rounding in float32.
    """
    difference_NT = ref_logps_NT - logps_NT
    return torch.expm1(difference_NT) - difference_NT


def importance_weights(logps_NT: Tensor, sampled_logps_NT: Tensor, cap: float) -> Tensor:
    """Truncated importance weights min(pi / mu, cap) of tokens that an engine sampled under its own probabilities mu.

    Two engines round differently, and one may lag behind by an update; without the weights the gradient is that of the
    engine's distribution (Ionides 2008 truncates, Yao et al. 2025 use it for rollouts).

    Args:
        logps_NT: log pi of the sampled tokens under the weights that the step starts from, nats, without gradient.
        sampled_logps_NT: log mu of the same, from the engine; both 0 on padding.
        cap: Largest weight, at least 1.

    Raises:
        ValueError: If `cap` is below 1.
    """
    if cap < 1:
        raise ValueError(f"expected a cap >= 1, got {cap}")
    return (logps_NT - sampled_logps_NT).exp().clamp(max=cap)


def grpo_loss(
    logps_NT: Tensor,
    old_logps_NT: Tensor,
    advantages_N: Tensor,
    weights_NT: Tensor,
    ref_logps_NT: Tensor | None = None,
    eta: float = 0.0,
    clip: float | None = None,
    correction_NT: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Algorithm 1's objective, negated: - sum of weight x (ratio x A - eta x k3).

    On policy pass `old_logps_NT = logps_NT.detach()`: the ratio is then exactly 1 whatever the kernels round. Tokens of
    weight 0 take part neither in the value nor in the gradient, even where their log-probabilities are -inf or nan; a
    micro-batch of such tokens only has the loss 0 and zero gradients, so that every rank still runs its backward.

    Args:
        logps_NT: log pi of the sampled tokens, nats, with gradient.
        old_logps_NT: The same under the policy that sampled them.
        advantages_N: One per completion.
        weights_NT: From `token_weights`.
        ref_logps_NT: The same under the reference policy; needed if `eta` is positive. Given with `eta` 0, the KL is
            measured and not trained on.
        eta: Weight of the KL, not negative.
        clip: PPO's epsilon: the gain is min(ratio A, clamp(ratio, 1 - clip, 1 + clip) A); None does not clip, as in
            the paper.
        correction_NT: What the gain of each token is multiplied by, where another engine sampled: `importance_weights`.

    Returns:
        The loss, and detached means over this micro-batch under `weights_NT`: `ratio`, `clip_fraction` (tokens whose
        gradient the clip stopped) and, where a reference is given, `kl` in nats per token.

    Raises:
        ValueError: `eta` is positive without a reference, an option is negative, or shapes differ.
    """
    if eta < 0 or (clip is not None and clip < 0):
        raise ValueError(f"expected eta >= 0 and clip >= 0 or None, got eta={eta}, clip={clip}")
    if eta > 0 and ref_logps_NT is None:
        raise ValueError(f"eta={eta} needs ref_logps_NT, got None; score the reference policy, or set eta to 0")
    _refuse_unlike(logps_NT, old_logps_NT, weights_NT, ref_logps_NT, correction_NT)
    if advantages_N.shape != logps_NT.shape[:1]:
        raise ValueError(
            f"expected advantages {tuple(logps_NT.shape[:1])}, got {tuple(advantages_N.shape)}; flatten them"
        )
    # Masked before any arithmetic: a weight of 0 would not stop nan, and 0 x inf is nan in the gradient too.
    dead_NT = weights_NT == 0
    live_logps_NT = logps_NT.masked_fill(dead_NT, 0.0)
    ratio_NT = (live_logps_NT - old_logps_NT.masked_fill(dead_NT, 0.0)).exp()
    gain_NT = ratio_NT * advantages_N[:, None]
    clipped_NT = torch.zeros_like(gain_NT)
    if clip is not None:
        capped_NT = ratio_NT.clamp(1 - clip, 1 + clip) * advantages_N[:, None]
        clipped_NT = (capped_NT < gain_NT).to(gain_NT)
        gain_NT = torch.minimum(gain_NT, capped_NT)
    if correction_NT is not None:
        gain_NT = gain_NT * correction_NT.masked_fill(dead_NT, 0.0)
    means = {"ratio": ratio_NT, "clip_fraction": clipped_NT}
    if ref_logps_NT is not None:
        means["kl"] = kl_k3(live_logps_NT, ref_logps_NT.masked_fill(dead_NT, 0.0))
        gain_NT = gain_NT - eta * means["kl"] if eta > 0 else gain_NT
    total = weights_NT.sum().clamp(min=torch.finfo(weights_NT.dtype).tiny)
    stats = {name: (weights_NT * value_NT.detach()).sum() / total for name, value_NT in means.items()}
    return -(weights_NT * gain_NT).sum(), stats


def sft_loss(logps_NT: Tensor, weights_NT: Tensor) -> Tensor:
    """Cross-entropy of the target tokens: - sum of weight x log pi, nats.

    Args:
        logps_NT: log pi of the target tokens; anything, -inf and nan included, where the weight is 0.
        weights_NT: From `token_weights`; `token` is the usual mean over target tokens.

    Returns:
        The loss; 0 with zero gradients where no token is trained.

    Raises:
        ValueError: Shapes differ.
    """
    _refuse_unlike(logps_NT, weights_NT)
    return -(weights_NT * logps_NT.masked_fill(weights_NT == 0, 0.0)).sum()


def _refuse_unlike(*tensors_NT: Tensor | None) -> None:
    shapes = [tuple(tensor.shape) for tensor in tensors_NT if tensor is not None]
    if len(shapes[0]) != 2 or shapes.count(shapes[0]) != len(shapes):
        raise ValueError(f"expected log-probabilities and weights of one shape (N, T), got {shapes}")
