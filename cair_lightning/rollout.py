"""Prompts -> Rollout: generate, verify, reward, weigh, rank (lines 2 to 14 of Algorithm 1)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cair_lightning.engines.base import InProcessRollouts, Sampled
from cair_lightning.losses import AdvantageScale, Normalisation, group_advantages, token_weights
from cair_lightning.policies.collation import Prompts
from cair_lightning.policies.lora import WithoutAdapters
from cair_lightning.policies.prefix import Prefix
from cair_lightning.policies.qwen import Completions, QwenVLPolicy
from cair_lightning.policies.sampling import Randomness, SamplingSettings
from cair_lightning.policies.tree import Branch
from cair_lightning.rewards import LeakageLexicon, LeakagePolicy, accuracy_reward, composite_reward, mediation_rewards
from cair_lightning.structures import Answer, Example
from cair_lightning.verifier import Rewrite, Verdict, entropy, verify
from cair_lightning.weighting import CognitiveLoadWeighting, Weighting

Gather = Callable[[Tensor], Tensor]
"""Concatenates a tensor (B,) or (N,) over the ranks."""


@dataclass(kw_only=True)  # no slots: jsonargparse reads the defaults of an instance through vars()
class RewardSettings:
    """Eq. 5 and what the paper leaves open about it. The defaults are the paper's, made safe where it is silent."""

    alpha: float = 1.0
    """Weight of R_acc (section 4.2)."""
    beta: float = 1.0
    """Weight of R_format (section 4.2)."""
    mediation: bool = True
    """Whether R_CMR takes part; without it the run is the Naive RL of Table 2."""
    clip: float | None = 5.0
    """R_CMR is clipped to [-clip, clip] nats; None is the paper's unclipped ratio."""
    leakage: LeakagePolicy = "raw"
    """Which R_CMR is rewarded where z names a candidate: `raw` (the paper), `masked`, or raw minus a `penalty`."""
    leakage_penalty: float = 1.0
    """What the policy `penalty` takes off, in nats."""
    score_masked: bool = True
    """Log R_CMR with the candidates' names masked under every leakage policy; only a z that leaks is scored twice."""
    advantage_scale: AdvantageScale = "group"
    """What advantages are divided by: the group's std (Algorithm 1, line 13), the batch's, or nothing."""
    std_floor: float = 0.1
    """Least std to divide by: R_CMR is continuous, and rewards that hardly differ would get full-size advantages."""
    normalisation: Normalisation = "sequence"
    """How token losses are averaged: per sequence (GRPO), over all tokens (DAPO), or by a constant (Dr. GRPO)."""


@dataclass(slots=True, kw_only=True)
class Rollout:
    """Scored completions of the prompts of one optimiser step on this rank."""

    prompts: Prompts
    completions: Completions
    verdict: Verdict
    leaked_N: Tensor
    """True where z names a candidate."""
    rewards: dict[str, Tensor]
    """Unweighted reward parts (N,), and `total`. `mediation_masked` is logged only, unless it is `mediation` itself."""
    lambda_B: Tensor
    entropy_B: Tensor
    """H(Y | X) in nats."""
    advantages_N: Tensor
    token_weights_NT: Tensor
    """Weight of each token in the loss; they add up to 1 over the step's prompts on all ranks."""
    ref_logps_NT: Tensor | None = None
    old_logps_NT: Tensor | None = None
    """Log-probabilities under the weights that sampled, once an update needs them."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each phase."""

    @property
    def group_size(self) -> int:
        """G."""
        return len(self.completions.ids_NT) // len(self.prompts)


@contextmanager
def stopwatch(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Add the wall time of a phase, waiting for the device."""
    start = time.perf_counter()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start


def completion_trees(completions: Completions, group_size: int, prompts: Sequence[int]) -> list[list[Branch]]:
    """The completions of some prompts as scored branches."""
    return [[Branch(ids=completions.ids(b * group_size + g)) for g in range(group_size)] for b in prompts]


def completion_logps(
    policy: QwenVLPolicy | WithoutAdapters,
    prompts: Prompts,
    completions: Completions,
    rows: Sequence[int],
    temperature: float,
) -> Tensor:
    """Log-probabilities (len(rows) * G, T) of the completions of some prompts, prompt and group in one packed row."""
    group_size = len(completions.ids_NT) // len(prompts)
    trees = completion_trees(completions, group_size, rows)
    chosen = prompts if list(rows) == list(range(len(prompts))) else prompts.select(rows)
    packed, logps_M = policy(chosen, trees, temperature)
    shaped: Tensor = packed.per_token(logps_M, range(packed.n_branches), completions.ids_NT.shape[1])
    return shaped


def reward(
    examples: Sequence[Example],
    answers: Sequence[Answer | None],
    log_p_obs_N: Tensor,
    verdict: Verdict,
    leaked_N: Tensor,
    settings: RewardSettings,
) -> dict[str, Tensor]:
    """The unweighted parts of eq. 5 for N completions.

    `accuracy`, `format`, and where mediation takes part `mediation` and, if the verdict has a rationale `masked`,
    `mediation_masked`.
    """
    device = log_p_obs_N.device
    wellformed_N = torch.tensor([a is not None for a in answers], device=device)
    accuracy = [accuracy_reward(a.answer if a else None, e) for e, a in zip(examples, answers, strict=True)]
    parts = {"accuracy": torch.tensor(accuracy, device=device), "format": wellformed_N.float()}
    if not settings.mediation:
        return parts
    truth = [e.candidates.index(e.answer) for e in examples]
    masked_NY = verdict.rewritten.get("masked")
    masked_N = None if masked_NY is None else at_truth(masked_NY, truth)
    parts["mediation"] = mediation_rewards(
        log_p_obs_N,
        at_truth(verdict.log_p_int_NY, truth),
        wellformed_N,
        clip=settings.clip,
        leakage=settings.leakage,
        leaked_N=leaked_N,
        log_p_int_masked_N=masked_N,
        penalty=settings.leakage_penalty,
    )
    if masked_N is not None:
        parts["mediation_masked"] = mediation_rewards(log_p_obs_N, masked_N, wellformed_N, clip=settings.clip)
    return parts


def at_truth(log_p_NY: Tensor, truth: Sequence[int]) -> Tensor:
    """Log-belief in y* (N,)."""
    return log_p_NY.gather(1, torch.tensor(truth, device=log_p_NY.device)[:, None]).squeeze(1)


def roll_out(
    policy: QwenVLPolicy,
    prompts: Prompts,
    sampling: SamplingSettings,
    rewards: RewardSettings,
    weighting: Weighting | None = None,
    reference: QwenVLPolicy | WithoutAdapters | None = None,
    generator: Randomness | None = None,
    progress: float = 0.0,
    gather: Gather = lambda x: x,
    rank: int = 0,
    prompts_per_forward: int | None = None,
    whole: Callable[[], AbstractContextManager[None]] = nullcontext,
    sampled: Sampled | None = None,
) -> Rollout:
    """Sample, judge and rank a group of completions for each prompt.

    Args:
        policy: The model that is trained.
        prompts: The prompts of one optimiser step on this rank; every rank has as many.
        sampling: How to sample.
        rewards: How to reward.
        weighting: Where lambda comes from; eq. 6 by default.
        reference: pi_ref, whose log-probabilities the KL term needs; None leaves them out.
        generator: Source of randomness.
        progress: Share of the training that is done, for the curriculum.
        gather: Concatenates a tensor (B,) or (N,) over the ranks.
        rank: This rank, to find its own part of what was gathered.
        prompts_per_forward: Prompts that are computed at the same time; None is all. Tokens are sampled for all prompts
            together.
        whole: Holds all of the policy's weights here while completions are sampled and judged.
        sampled: Waits for completions that another engine has begun; None samples from the policy.
    """
    seconds: dict[str, float] = {}
    group, size = sampling.group_size, prompts_per_forward or len(prompts)
    with whole(), policy.scoring():
        sampled = sampled or InProcessRollouts().begin(policy, prompts, sampling, generator)
        with stopwatch(seconds, "prefill"):
            prefix = policy.prefill(prompts, size)
        with stopwatch(seconds, "generate"):
            completions = sampled(prefix)
        with stopwatch(seconds, "verify"):
            verdict, leaked_N = _judge(policy, prefix, completions, group, rewards)
    log_p_obs_B = at_truth(verdict.log_p_obs_BY, [e.candidates.index(e.answer) for e in prompts.examples])
    log_p_obs_N = log_p_obs_B.repeat_interleave(group)
    parts = reward(_repeated(prompts, group), verdict.answers, log_p_obs_N, verdict, leaked_N, rewards)
    entropy_B = entropy(verdict.log_p_obs_BY)
    lambda_B = _weigh(weighting or CognitiveLoadWeighting(), prompts, entropy_B, progress, gather, rank)
    lambda_N = lambda_B.repeat_interleave(group)
    parts["total"] = composite_reward(
        parts["accuracy"], parts["format"], parts.get("mediation"), lambda_N, rewards.alpha, rewards.beta
    )
    valid_N = prompts.valid_B.repeat_interleave(group)
    trained_NT = completions.mask_NT & valid_N[:, None]
    result = Rollout(
        prompts=prompts,
        completions=completions,
        verdict=verdict,
        leaked_N=leaked_N,
        rewards=parts,
        lambda_B=lambda_B,
        entropy_B=entropy_B,
        advantages_N=_advantages(parts["total"], valid_N, group, rewards, gather),
        token_weights_NT=_weigh_tokens(trained_NT, valid_N, rewards.normalisation, sampling.max_new_tokens, gather),
        seconds=seconds,
    )
    if reference is not None:
        with stopwatch(seconds, "reference"), reference.scoring():
            chunks = [range(len(prompts))[first : first + size] for first in range(0, len(prompts), size)]
            logps = [completion_logps(reference, prompts, completions, chunk, sampling.temperature) for chunk in chunks]
            result.ref_logps_NT = torch.cat(logps)
    return result


def _judge(
    policy: QwenVLPolicy, prefix: Prefix, completions: Completions, group: int, rewards: RewardSettings
) -> tuple[Verdict, Tensor]:
    """What the verifier says of completions, and which rationales name a candidate."""
    masks = rewards.mediation and (rewards.score_masked or rewards.leakage == "masked")
    lexicon, examples = LeakageLexicon(), _repeated(prefix.prompts, group)
    verdict = verify(policy, prefix, completions, group, {"masked": _masked(lexicon, examples)} if masks else None)
    both = zip(examples, verdict.answers, strict=True)
    leaked = [a is not None and lexicon.leaks(a.rationale, e.meanings) for e, a in both]
    leaked_N = torch.tensor(leaked, device=completions.ids_NT.device)
    if masks:  # a rationale that leaks nothing is its own masked one
        masked_NY = verdict.rewritten["masked"]
        verdict.rewritten["masked"] = torch.where(leaked_N[:, None], masked_NY, verdict.log_p_int_NY)
    return verdict, leaked_N


def _repeated(prompts: Prompts, group: int) -> list[Example]:
    """The example of each completion."""
    return [example for example in prompts.examples for _ in range(group)]


def _masked(lexicon: LeakageLexicon, examples: Sequence[Example]) -> Rewrite:
    """Blanks the candidates' names; None where there are none."""

    def rewrite(rationale: str, row: int) -> str | None:
        meanings = examples[row].meanings
        return lexicon.mask(rationale, meanings) if lexicon.leaks(rationale, meanings) else None

    return rewrite


def _advantages(total_N: Tensor, valid_N: Tensor, group: int, settings: RewardSettings, gather: Gather) -> Tensor:
    """Advantages (N,). The batch's std is that of the prompts of all ranks whose clips could be read."""
    batch_std = None
    if settings.advantage_scale == "batch":
        rewards = gather(total_N)[gather(valid_N)]
        batch_std = rewards.std() if len(rewards) else rewards.new_zeros(())
    return group_advantages(total_N.view(-1, group), settings.advantage_scale, settings.std_floor, batch_std).flatten()


def _weigh_tokens(
    trained_NT: Tensor, valid_N: Tensor, normalisation: Normalisation, max_new_tokens: int, gather: Gather
) -> Tensor:
    """Weights (N, T) over the tokens of all ranks."""
    n_sequences, n_tokens = int(gather(valid_N).sum()), int(gather(trained_NT.sum(1)).sum())
    return token_weights(trained_NT, normalisation, max_new_tokens, n_sequences, n_tokens)


def _weigh(
    weighting: Weighting, prompts: Prompts, entropy_B: Tensor, progress: float, gather: Gather, rank: int
) -> Tensor:
    """Lambda of this rank's prompts, computed over the prompts of all ranks; a stand-in prompt takes no part."""
    valid = gather(prompts.valid_B)
    initial = [float("nan") if e.entropy_bits is None else e.entropy_bits for e in prompts.examples]
    sizes = torch.tensor([float(len(e.candidates)) for e in prompts.examples], device=entropy_B.device)
    initial_B = gather(torch.tensor(initial, device=entropy_B.device)) * math.log(2)
    lambdas = torch.zeros_like(valid, dtype=entropy_B.dtype)
    lambdas[valid] = weighting(gather(entropy_B)[valid], initial_B[valid], gather(sizes).log()[valid], progress)
    return lambdas.view(-1, len(prompts))[rank]
