"""The weighted sum of the rewards (eq. 5)."""

from __future__ import annotations

from torch import Tensor


def composite_reward(
    accuracy_N: Tensor,
    format_N: Tensor,
    mediation_N: Tensor | None,
    weights_N: Tensor | None,
    alpha: float = 1.0,
    beta: float = 1.0,
) -> Tensor:
    """R_total of eq. 5: alpha R_acc + beta R_format + lambda_i R_CMR.

    Table 3's rows and Table 2's Naive RL are settings of this one sum: "+ Acc" is `beta=0` without mediation,
    "+ Format" and Naive RL are without mediation, CAIR is the whole.

    Args:
        accuracy_N: R_acc per completion, between 0 and 1.
        format_N: R_format per completion, 0 or 1.
        mediation_N: R_CMR per completion in nats; None leaves the term out.
        weights_N: lambda_i, the prompt's weight repeated for each of its completions; not read without mediation.
        alpha: Weight of the accuracy, not negative.
        beta: Weight of the format, not negative.

    Returns:
        The reward per completion, float32 whatever the inputs are: bfloat16 would tie rewards that differ.

    Raises:
        ValueError: Shapes differ, a weight is negative, or there is a mediation reward without lambda.
    """
    if alpha < 0 or beta < 0:
        raise ValueError(f"expected alpha >= 0 and beta >= 0, got {alpha} and {beta}; 0 leaves a term out")
    _refuse_unlike(accuracy_N, "format_N", format_N)
    total_N = alpha * accuracy_N.float() + beta * format_N.float()
    if mediation_N is None:
        return total_N
    if weights_N is None:
        raise ValueError(
            "expected weights_N beside mediation_N, got None; UniformWeighting gives the 1.0 of Uniform RL"
        )
    _refuse_unlike(accuracy_N, "mediation_N", mediation_N)
    _refuse_unlike(accuracy_N, "weights_N", weights_N)
    return total_N + weights_N.float() * mediation_N.float()


def _refuse_unlike(accuracy_N: Tensor, name: str, tensor: Tensor) -> None:
    if accuracy_N.ndim != 1 or tensor.shape != accuracy_N.shape:
        raise ValueError(
            f"expected accuracy_N and {name} with one number per completion, got shapes {tuple(accuracy_N.shape)} and "
            f"{tuple(tensor.shape)}; repeat a prompt's number for each of its completions with repeat_interleave(G)"
        )
