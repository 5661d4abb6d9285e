"""Per-prompt weights lambda_i of the mediation reward: eq. 6 and the two baselines of Table 4.

A weighting is called once per optimiser step with the whole global batch, gathered over ranks and over gradient
accumulation. Over one rank's own prompts eq. 6's softmax would be 1 at one prompt per GPU, and its scale would depend
on the number of GPUs.

What remains of lambda_i after normalisation: it multiplies R_CMR only (eq. 5) and is constant within a group. With
advantages divided by the group's standard deviation it cancels wherever R_CMR is the only reward that varies within
the group and the deviation is above its floor; it acts by shifting the mix of R_CMR with accuracy and format. With
`advantage_scale: batch` or `none`, or below the floor, it scales the gradient itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor


class Weighting(ABC):
    """A rule that gives each prompt of the global batch its lambda_i."""

    @abstractmethod
    def __call__(
        self, entropies_B: Tensor, initial_entropies_B: Tensor, max_entropies_B: Tensor, progress: float
    ) -> Tensor:
        """Weigh the prompts of one optimiser step.

        Args:
            entropies_B: H(Y|X) of path A under the current policy, nats, the whole global batch.
            initial_entropies_B: H(Y|X) as `cair curate` measured it under the stage-1 model, nats; nan is unknown.
            max_entropies_B: log of each prompt's number of candidates, nats.
            progress: Share of the training that is done, 0 to 1.

        Returns:
            lambda_i per prompt, not negative, float32.

        Raises:
            ValueError: A needed entropy is not finite, or the arguments do not fit together.
        """


class CognitiveLoadWeighting(Weighting):
    """CLO, eq. 6: softmax of H(Y|X_i) / tau over the global batch; the higher the load, the larger the weight.

    Args:
        tau: Temperature in nats, positive; the paper's is 1. A smaller one favours the prompts of high entropy more.
        scale: `sum_to_one` is the letter of eq. 6: the weights shrink as 1 / B, and with them R_CMR's share in eq. 5
            (and the rewards' spread, which may then fall below the floor of `group_advantages`). `mean_one` is B
            times that: the batch keeps its size, and Uniform RL's 1.0 per prompt is its limit for large tau, so it is
            the scale at which Table 4 compares like with like.

    Raises:
        ValueError: `tau` is not positive, or `scale` is unknown.
    """

    def __init__(self, tau: float = 1.0, scale: Literal["sum_to_one", "mean_one"] = "sum_to_one") -> None:
        if not tau > 0:
            raise ValueError(f"expected tau > 0 nats, got {tau}; for equal weights use UniformWeighting")
        if scale not in ("sum_to_one", "mean_one"):
            raise ValueError(f"expected scale sum_to_one (eq. 6) or mean_one, got {scale!r}")
        self.tau, self.scale = tau, scale

    def __call__(
        self, entropies_B: Tensor, initial_entropies_B: Tensor, max_entropies_B: Tensor, progress: float
    ) -> Tensor:
        """Eq. 6 over the global batch; reads `entropies_B` only. See `Weighting` for the arguments."""
        _refuse_unlike(entropies_B, initial_entropies_B, max_entropies_B, progress)
        if not torch.isfinite(entropies_B).all():
            raise ValueError(
                f"expected finite entropies, got {entropies_B.tolist()}; one nan would turn every weight of the global "
                "batch into nan, so leave a prompt that could not be scored out of the batch"
            )
        weights_B = torch.softmax(entropies_B.float() / self.tau, dim=0)
        return weights_B if self.scale == "sum_to_one" else weights_B * len(weights_B)


class UniformWeighting(Weighting):
    """Uniform RL, Table 4: every prompt weighs 1.0, whatever its entropy."""

    def __call__(
        self, entropies_B: Tensor, initial_entropies_B: Tensor, max_entropies_B: Tensor, progress: float
    ) -> Tensor:
        """Ones. See `Weighting` for the arguments."""
        _refuse_unlike(entropies_B, initial_entropies_B, max_entropies_B, progress)
        return torch.ones_like(entropies_B, dtype=torch.float32)


class CurriculumWeighting(Weighting):
    """Curriculum RL, Table 4: easy prompts first, after a schedule that never looks at the policy.

    The paper names a "heuristic difficulty schedule" and no more; this is the plainest one. Difficulty is the *initial*
    entropy over its maximum, log |Y|. The competence grows linearly from `start` to 1 at progress `full_at`, and a
    prompt weighs 1 once its difficulty is within the competence, and 0 before. A prompt of weight 0 still trains on
    accuracy and format, since lambda_i multiplies R_CMR only.

    Args:
        start: Competence at progress 0, between 0 and 1.
        full_at: Progress from which every prompt counts, above 0 and at most 1.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, start: float = 0.25, full_at: float = 0.5) -> None:
        if not 0 <= start <= 1 or not 0 < full_at <= 1:
            raise ValueError(f"expected 0 <= start <= 1 and 0 < full_at <= 1, got start={start}, full_at={full_at}")
        self.start, self.full_at = start, full_at

    def __call__(
        self, entropies_B: Tensor, initial_entropies_B: Tensor, max_entropies_B: Tensor, progress: float
    ) -> Tensor:
        """1 within the competence, else 0; reads all but `entropies_B`. See `Weighting` for the arguments."""
        _refuse_unlike(entropies_B, initial_entropies_B, max_entropies_B, progress)
        unknown = int((~torch.isfinite(initial_entropies_B)).sum())
        if unknown:
            raise ValueError(
                f"the curriculum needs the initial entropy of every prompt, but {unknown} of "
                f"{len(initial_entropies_B)} have none; run `cair curate`, "
                "which writes entropy_bits into the manifest, and train on what it wrote"
            )
        grown = progress / self.full_at
        if grown >= 1:
            # Not by comparison: a uniform belief's entropy may exceed log |Y| by a rounding error.
            return torch.ones_like(initial_entropies_B, dtype=torch.float32)
        competence = self.start + (1 - self.start) * grown
        return (initial_entropies_B <= competence * max_entropies_B).float()


def _refuse_unlike(entropies_B: Tensor, initial_entropies_B: Tensor, max_entropies_B: Tensor, progress: float) -> None:
    shapes = [tuple(tensor.shape) for tensor in (entropies_B, initial_entropies_B, max_entropies_B)]
    if entropies_B.ndim != 1 or shapes.count(shapes[0]) != 3:
        raise ValueError(
            f"expected three entropies per prompt of the global batch, got shapes {shapes}; gather all three"
        )
    if not 0 <= progress <= 1:
        raise ValueError(f"expected progress between 0 and 1, got {progress}; divide the step by the number of steps")
