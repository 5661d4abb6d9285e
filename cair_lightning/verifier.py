"""The dual-path verifier: what the model believes about y before and after it is made to accept a rationale z.

Path A (observation) reads P_obs = P(Y | X) where the direct prompt asks for the answer at once. Path B (intervention)
injects z after the reasoning prompt and reads P_int = P(Y | X, do(z)). A candidate's score is the log-likelihood of its
text *and the closing tag* (else a label that is a prefix of another one wins); the scores are renormalised over the
sample's own candidates. Everything is read in evaluation mode, at temperature 1, with log-softmax in float32, from one
prompt computation.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cair_lightning.parsing import REASON_CLOSE, WHITESPACE, parse
from cair_lightning.policies.prefix import Prefix
from cair_lightning.policies.qwen import Completions, QwenVLPolicy
from cair_lightning.policies.tree import PROMPT, Branch, Layout
from cair_lightning.prompts import after_rationale, direct_completion, reason_completion
from cair_lightning.structures import Answer

Rewrite = Callable[[str, int], str | None]
"""Maps a rationale and its row to another one that path B reads instead; None leaves it out."""


@dataclass(slots=True, kw_only=True)
class Verdict:
    """Completions and what the verifier says of them. Log-beliefs are in nats; candidates that pad Y hold -inf."""

    texts: list[str]
    """N completion texts."""
    answers: list[Answer | None]
    """N parsed completions; None is malformed."""
    log_p_obs_BY: Tensor
    """log P(Y | X) of each prompt; nan for open questions, which have no Y."""
    log_p_int_NY: Tensor
    """log P(Y | X, do(z)); nan for malformed completions, which have no z, and for open questions."""
    rewritten: dict[str, Tensor] = field(default_factory=dict)
    """The same for rewritten rationales, by name: leaks masked, words shuffled, another sample's z."""


def entropy(log_p_NY: Tensor) -> Tensor:
    """Shannon entropy of log-beliefs in nats (eq. 10), shape (N,). -inf entries count as probability 0; nan stays nan.

    >>> entropy(torch.tensor([[0.5, 0.5, 0.0]]).log()).div(torch.tensor(2.0).log())
    tensor([1.])
    """
    return -(log_p_NY.exp() * log_p_NY.masked_fill(log_p_NY == -torch.inf, 0.0)).sum(-1)


@torch.no_grad()
def verify(
    policy: QwenVLPolicy,
    prefix: Prefix,
    completions: Completions,
    group_size: int,
    rewrites: dict[str, Rewrite] | None = None,
) -> Verdict:
    """Run both paths for every completion in one forward pass over the branches of the prompts.

    Args:
        policy: The model that wrote the completions; it judges itself, inside its `scoring()`.
        prefix: Its prompts in the reason form, already computed. Where it holds the completions' keys and values as
            well, the candidates hang from those.
        completions: G completions of each prompt; those that were sampled last, where the prefix holds any.
        group_size: G.
        rewrites: Further rationales to read path B with, by name.

    Raises:
        ValueError: If the prefix holds other completions.
    """
    _refuse_others(prefix, completions)
    plan = _Plan(policy, prefix)
    ids = [completions.ids(row) for row in range(len(completions.ids_NT))]
    texts = [policy.decode(i) for i in ids]
    answers = [parse(text) for text in texts]
    observed = [plan.direct(b) for b in range(len(prefix.prompts))]
    intervened = [None if a is None else plan.generated(*divmod(n, group_size), ids[n]) for n, a in enumerate(answers)]
    rewritten: dict[str, list[_Leaves | None]] = {}
    for name, rewrite in (rewrites or {}).items():
        changed = [None if a is None else rewrite(a.rationale, n) for n, a in enumerate(answers)]
        rewritten[name] = [None if z is None else plan.written(n // group_size, z) for n, z in enumerate(changed)]
    packed, logps_M = policy.logps(prefix.prompts, plan.trees, prefix)
    read = plan.reader(packed, logps_M)
    return Verdict(
        texts=texts,
        answers=answers,
        log_p_obs_BY=read(observed),
        log_p_int_NY=read(intervened),
        rewritten={name: read(leaves) for name, leaves in rewritten.items()},
    )


@torch.no_grad()
def observe(policy: QwenVLPolicy, prefix: Prefix) -> Tensor:
    """Path A alone: log P(Y | X) of each prompt (B, Y) in nats. Curation needs nothing more."""
    plan = _Plan(policy, prefix)
    observed = [plan.direct(b) for b in range(len(prefix.prompts))]
    packed, logps_M = policy.logps(prefix.prompts, plan.trees, prefix)
    return plan.reader(packed, logps_M)(observed)


def cut_rationale(policy: QwenVLPolicy, ids: Sequence[int]) -> tuple[int, str]:
    """Where path B leaves the tokens of a well-formed completion: after the last one that lies wholly inside z.

    Bytes are counted, not characters: a token may end inside a character, and what is no UTF-8 has no length as text.
    White space behind z does not belong to it.

    Returns:
        How many tokens are kept, and the text of z that they do not cover, where a token straddles z's end.
    """
    pieces = policy.token_bytes(ids)
    written = b"".join(pieces)
    rationale = written[: written.index(REASON_CLOSE.encode())].rstrip(WHITESPACE.encode())
    ends = [0, *itertools.accumulate(len(piece) for piece in pieces)]
    kept = bisect.bisect_right(ends, len(rationale)) - 1
    while ends[kept] < len(rationale) and rationale[ends[kept]] & 0xC0 == 0x80:  # inside a character: give it all back
        kept -= 1
    return kept, rationale[ends[kept] :].decode(errors="replace")


def _refuse_others(prefix: Prefix, completions: Completions) -> None:
    if prefix.completions is None:
        return
    held = [stop - start + 1 for start, stop in prefix.completions.spans]
    given = completions.mask_NT.sum(1).tolist()
    if held != given:
        raise ValueError(
            f"The prefix holds {len(held)} completions of {sum(held)} tokens, and {len(given)} of {sum(given)} are to "
            "be judged: expected those that were sampled from it last. Run policy.prefill anew for others."
        )


@dataclass(slots=True)
class _Leaves:
    """The branches that hold one context's candidates."""

    row: int
    branches: list[int]


class _Plan:
    """Collects the branches of each prompt, and reads beliefs off their scores."""

    def __init__(self, policy: QwenVLPolicy, prefix: Prefix) -> None:
        self.policy = policy
        self.prompts = prefix.prompts
        self.held = len(prefix.kept()[0].completions)
        """Completions of each prompt whose keys and values are there: its first branches."""
        self.trees: list[list[Branch]] = [[] for _ in self.prompts.examples]
        self._encoded: dict[tuple[str, ...], list[list[int]]] = {}

    def direct(self, row: int) -> _Leaves | None:
        """Path A: the prompt's shared part, the direct instruction, then each candidate."""
        tail = self._grow(row, Branch(ids=self.prompts.direct_tails[row], at=self.prompts.forks[row], scored=False))
        if not self.prompts.examples[row].candidates:  # the tail stays: every rank runs the same forward pass
            return None
        texts = [direct_completion(y) for y in self.prompts.examples[row].candidates]
        return self._candidates(row, texts, tail)

    def generated(self, row: int, place: int, ids: list[int]) -> _Leaves | None:
        """Path B after the tokens that were really generated, those of the completion at a place in its group."""
        if not self.prompts.examples[row].candidates:
            return None
        kept, rest = cut_rationale(self.policy, ids)
        texts = [rest + after_rationale(y) for y in self.prompts.examples[row].candidates]
        if not kept:  # the first token straddles the end of z
            return self._candidates(row, texts, PROMPT)
        if self.held:
            return self._candidates(row, texts, place, kept)
        return self._candidates(row, texts, self._grow(row, Branch(ids=ids[:kept], scored=False)))

    def written(self, row: int, rationale: str) -> _Leaves | None:
        """Path B after a rationale that is given as text."""
        if not self.prompts.examples[row].candidates:
            return None
        texts = [reason_completion(rationale, y) for y in self.prompts.examples[row].candidates]
        return self._candidates(row, texts, PROMPT)

    def _candidates(self, row: int, texts: list[str], parent: int, at: int | None = None) -> _Leaves:
        """Tokenise context and candidate jointly, and branch where the token sequences part."""
        if (key := tuple(texts)) not in self._encoded:
            self._encoded[key] = [self.policy.encode(text) for text in texts]
        ids = self._encoded[key]
        common = 0
        while all(len(i) > common + 1 and i[common] == ids[0][common] for i in ids):
            common += 1
        if common:
            parent, at = self._grow(row, Branch(ids=ids[0][:common], parent=parent, at=at, scored=False)), None
        return _Leaves(row, [self._grow(row, Branch(ids=i[common:], parent=parent, at=at)) for i in ids])

    def _grow(self, row: int, branch: Branch) -> int:
        self.trees[row].append(branch)
        return self.held + len(self.trees[row]) - 1

    def reader(self, packed: Layout, logps_M: Tensor) -> Callable[[Sequence[_Leaves | None]], Tensor]:
        """A function from contexts to their log-beliefs (contexts, Y)."""
        scores = packed.per_branch(logps_M)
        firsts = [0, *itertools.accumulate(len(tree) for tree in self.trees)]
        width = max(len(e.candidates) for e in self.prompts.examples)

        def read(contexts: Sequence[_Leaves | None]) -> Tensor:
            log_p = scores.new_full((len(contexts), width), -torch.inf)
            for n, leaves in enumerate(contexts):
                if leaves is None:
                    log_p[n] = torch.nan
                else:
                    index = torch.tensor(leaves.branches, device=scores.device) + firsts[leaves.row] - self.held
                    log_p[n, : len(index)] = scores[index].log_softmax(0)
            return log_p

        return read
