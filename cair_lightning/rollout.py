"""Prompts -> Rollout: generate, verify, reward, weigh, rank (lines 2 to 14 of Algorithm 1)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from cair_lightning.losses import AdvantageScale, Normalisation, group_advantages, token_weights
from cair_lightning.policies.collation import Prompts
from cair_lightning.policies.qwen import Completions, QwenVLPolicy
from cair_lightning.policies.tree import Branch
from cair_lightning.rewards import LeakageLexicon, LeakagePolicy, accuracy_reward, composite_reward, mediation_rewards
from cair_lightning.structures import Answer, Example
from cair_lightning.verifier import Verdict, entropy, verify
from cair_lightning.weighting import CognitiveLoadWeighting, Weighting

MASK_PLACEHOLDER = "it"
"""What a leaked candidate is replaced by before path B reads the masked rationale."""


@dataclass(kw_only=True)  # no slots: jsonargparse reads the defaults of an instance through vars()
class SamplingSettings:
    """How completions are sampled."""

    group_size: int = 8
    """G, completions per prompt (section 4.2)."""
    max_new_tokens: int = 256
    temperature: float = 1.0


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
    advantage_scale: AdvantageScale = "group"
    """What advantages are divided by: the group's std (Algorithm 1, line 13), the batch's, or nothing."""
    std_floor: float = 0.1
    """Least std to divide by: CMR is continuous, and a group whose rewards hardly differ would get full-size random advantages."""
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
    """Unweighted reward parts (N,), and `total`."""
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
    policy: QwenVLPolicy, prompts: Prompts, completions: Completions, rows: Sequence[int], temperature: float
) -> Tensor:
    """Log-probabilities (len(rows) * G, T) of the completions of some prompts, prompt and group in one packed row."""
    group_size = len(completions.ids_NT) // len(prompts)
    trees = completion_trees(completions, group_size, rows)
    chosen = prompts if list(rows) == list(range(len(prompts))) else prompts.select(rows)
    packed, logps_M = policy.logps(chosen, trees, temperature=temperature)
    return packed.per_token(logps_M, range(packed.n_branches), completions.ids_NT.shape[1])


def reward(
    examples: Sequence[Example], answers: Sequence[Answer | None], log_p_obs_N: Tensor, verdict: Verdict, leaked_N: Tensor, settings: RewardSettings
) -> dict[str, Tensor]:
    """The unweighted parts of eq. 5 for N completions: `accuracy`, `format`, and `mediation` where it takes part."""
    device = log_p_obs_N.device
    wellformed_N = torch.tensor([a is not None for a in answers], device=device)
    accuracy = [accuracy_reward(a.answer if a else None, e) for e, a in zip(examples, answers, strict=True)]
    parts = {"accuracy": torch.tensor(accuracy, device=device), "format": wellformed_N.float()}
    if settings.mediation:
        truth = [e.candidates.index(e.answer) for e in examples]
        masked_NY = verdict.rewritten.get("masked")
        parts["mediation"] = mediation_rewards(
            log_p_obs_N,
            at_truth(verdict.log_p_int_NY, truth),
            wellformed_N,
            clip=settings.clip,
            leakage=settings.leakage,
            leaked_N=leaked_N,
            log_p_int_masked_N=None if masked_NY is None else at_truth(masked_NY, truth),
            penalty=settings.leakage_penalty,
        )
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
    reference: QwenVLPolicy | None = None,
    generator: torch.Generator | None = None,
    progress: float = 0.0,
    gather: Callable[[Tensor], Tensor] = lambda x: x,
    rank: int = 0,
    prompts_per_forward: int | None = None,
    lockstep: bool = False,
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
        prompts_per_forward: Prompts that are computed at the same time; None is all.
        lockstep: See `QwenVLPolicy.sample`.
    """
    seconds: dict[str, float] = {}
    lexicon, group = LeakageLexicon(), sampling.group_size
    rows = range(len(prompts))
    chunks = [rows[i : i + (prompts_per_forward or len(rows))] for i in range(0, len(rows), prompts_per_forward or len(rows))]
    with policy.scoring():
        pieces = []
        for chunk in chunks:
            part = prompts if len(chunks) == 1 else prompts.select(chunk)
            with stopwatch(seconds, "generate"):
                prefix = policy.prefill(part)
                drawn = policy.sample(prefix, group, sampling.max_new_tokens, sampling.temperature, generator, lockstep)
            with stopwatch(seconds, "verify"):
                examples = [e for e in part.examples for _ in range(group)]
                masked = {"masked": lambda z, n, e=examples: lexicon.mask(z, e[n].candidates, MASK_PLACEHOLDER)}
                verdict = verify(policy, prefix, drawn, group, masked if rewards.leakage == "masked" else None)
            pieces.append((drawn, verdict))
    completions, verdict = _join(pieces, policy.tokenizer.pad_token_id)
    examples = [e for e in prompts.examples for _ in range(group)]
    leaked = [a is not None and lexicon.leaks(a.rationale, e.candidates) for e, a in zip(examples, verdict.answers, strict=True)]
    leaked_N = torch.tensor(leaked, device=prompts.ids_BL.device)
    log_p_obs_B = at_truth(verdict.log_p_obs_BY, [e.candidates.index(e.answer) for e in prompts.examples])
    parts = reward(examples, verdict.answers, log_p_obs_B.repeat_interleave(group), verdict, leaked_N, rewards)
    entropy_B = entropy(verdict.log_p_obs_BY)
    lambda_B = _weigh(weighting or CognitiveLoadWeighting(), prompts, entropy_B, progress, gather, rank)
    parts["total"] = composite_reward(
        parts["accuracy"], parts["format"], parts.get("mediation"), lambda_B.repeat_interleave(group), rewards.alpha, rewards.beta
    )
    batch_std = gather(parts["total"]).std() if rewards.advantage_scale == "batch" else None
    advantages_BG = group_advantages(parts["total"].view(-1, group), rewards.advantage_scale, rewards.std_floor, batch_std)
    valid_N = prompts.valid_B.repeat_interleave(group)
    trained_NT = completions.mask_NT & valid_N[:, None]
    n_sequences, n_tokens = (int(gather(x).sum()) for x in (valid_N, trained_NT.sum(1)))
    result = Rollout(
        prompts=prompts,
        completions=completions,
        verdict=verdict,
        leaked_N=leaked_N,
        rewards=parts,
        lambda_B=lambda_B,
        entropy_B=entropy_B,
        advantages_N=advantages_BG.flatten(),
        token_weights_NT=token_weights(trained_NT, rewards.normalisation, sampling.max_new_tokens, n_sequences, n_tokens),
        seconds=seconds,
    )
    if reference is not None:
        with stopwatch(seconds, "reference"), reference.scoring():
            logps = [completion_logps(reference, prompts, completions, chunk, sampling.temperature) for chunk in chunks]
            result.ref_logps_NT = torch.cat(logps)
    return result


def _weigh(
    weighting: Weighting, prompts: Prompts, entropy_B: Tensor, progress: float, gather: Callable[[Tensor], Tensor], rank: int
) -> Tensor:
    """lambda of this rank's prompts, computed over the prompts of all ranks; a stand-in prompt takes no part."""
    valid = gather(prompts.valid_B)
    initial = [float("nan") if e.entropy_bits is None else e.entropy_bits for e in prompts.examples]
    sizes = torch.tensor([float(len(e.candidates)) for e in prompts.examples], device=entropy_B.device)
    initial_B = gather(torch.tensor(initial, device=entropy_B.device)) * torch.log(torch.tensor(2.0))
    lambdas = torch.zeros_like(valid, dtype=entropy_B.dtype)
    lambdas[valid] = weighting(gather(entropy_B)[valid], initial_B[valid], gather(sizes).log()[valid], progress)
    return lambdas.view(-1, len(prompts))[rank]


def _join(pieces: Sequence[tuple[Completions, Verdict]], pad_id: int) -> tuple[Completions, Verdict]:
    """Put the chunks of a rollout together, padded to the longest completion."""
    if len(pieces) == 1:
        return pieces[0]
    drawn, verdicts = [p[0] for p in pieces], [p[1] for p in pieces]
    length = max(c.ids_NT.shape[1] for c in drawn)
    width = max(v.log_p_obs_BY.shape[1] for v in verdicts)

    def cat(tensors: list[Tensor], size: int, value: float) -> Tensor:
        return torch.cat([torch.nn.functional.pad(t, (0, size - t.shape[1]), value=value) for t in tensors])

    completions = Completions(
        ids_NT=cat([c.ids_NT for c in drawn], length, pad_id),
        mask_NT=cat([c.mask_NT for c in drawn], length, False),
        logps_NT=cat([c.logps_NT for c in drawn], length, 0.0),
        truncated_N=torch.cat([c.truncated_N for c in drawn]),
    )
    verdict = Verdict(
        texts=[t for v in verdicts for t in v.texts],
        answers=[a for v in verdicts for a in v.answers],
        log_p_obs_BY=cat([v.log_p_obs_BY for v in verdicts], width, -torch.inf),
        log_p_int_NY=cat([v.log_p_int_NY for v in verdicts], width, -torch.inf),
        rewritten={k: cat([v.rewritten[k] for v in verdicts], width, -torch.inf) for k in verdicts[0].rewritten},
    )
    return completions, verdict
