"""Sampling token by token: the keys of a prompt are shared by its completions, and those who have finished leave."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cair_lightning.policies.prefix import Columns, KeysValues, Prefix
from cair_lightning.policies.sampling import Completions, Randomness, draw, random_numbers
from cair_lightning.policies.scoring import max_over_ranks

if TYPE_CHECKING:
    from cair_lightning.policies.qwen import QwenVLPolicy

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From ids (N,) and positions (N,) to last hidden states (N, D) and logits (N, V)."""

PATIENCE = 8
"""Steps on a device between two looks at whether anything still runs, each of which waits for the device."""


class GroupAttend:
    """Attention of one new token of each slot: B prompts by G completions each.

    All completions of a prompt are one matrix of queries to its keys, which are read once and never copied per
    completion. Each slot's own keys and values are written to buffers of fixed size.

    Args:
        prefix: The prompts.
        group_size: G.
        steps: Tokens that a slot can take.
        static: Compute over the whole buffers, under a mask, so that every step has the same shapes.
    """

    def __init__(self, prefix: Prefix, group_size: int, steps: int, static: bool) -> None:
        columns_BP, self.padding_BP = _padded(prefix)
        self.prompt_keys: KeysValues = []
        self.own: KeysValues = []
        self.static = static
        self.step = 0
        device = prefix.own.hidden_CD.device
        self.step_1 = torch.zeros(1, dtype=torch.long, device=device)
        self.places_T = torch.arange(steps, device=device)
        prompts, longest = columns_BP.shape
        for keys, values in prefix.own.keys_values:
            heads, _, width = keys.shape
            if self.padding_BP is None:  # prompts of one length lie behind each other: a view
                pair = keys.view(heads, prompts, longest, width), values.view(heads, prompts, longest, width)
            else:
                pair = keys[:, columns_BP], values[:, columns_BP]
            self.prompt_keys.append(pair)
            shape = (heads, prompts, group_size, steps, width)
            self.own.append((keys.new_zeros(shape), values.new_zeros(shape)))

    def advance(self) -> None:
        """Go on to the next token."""
        self.step += 1
        self.step_1 += 1

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `Attend`; the S new tokens are those of the slots."""
        (prompt_k, prompt_v), (own_k, own_v) = self.prompt_keys[layer], self.own[layer]
        heads, prompts, group, _, width = own_k.shape
        for buffer, new in ((own_k, key), (own_v, value)):
            buffer.index_copy_(3, self.step_1, new[0].view(heads, prompts, group, 1, width))
        if not self.static:
            own_k, own_v = own_k[..., : self.step + 1, :], own_v[..., : self.step + 1, :]
        # (heads that share keys, prompts, completions and heads that share them, width)
        q = query[0].view(heads, -1, prompts, group, width).permute(0, 2, 3, 1, 4).flatten(2, 3) * scale
        to_prompt, to_own = self._scores(q, prompt_k, own_k)
        weights = torch.cat([to_prompt, to_own], dim=-1).softmax(-1).to(value.dtype)
        longest, by_slot = to_prompt.shape[-1], (heads, prompts, group, -1)
        on_own = weights[..., longest:].reshape(*by_slot, to_own.shape[-1]) @ own_v
        out = weights[..., :longest] @ prompt_v + on_own.flatten(2, 3)
        return out.view(*by_slot, width).permute(1, 2, 0, 3, 4).reshape(1, prompts * group, -1, width)

    def _scores(self, q: Tensor, prompt_k: Tensor, own_k: Tensor) -> tuple[Tensor, Tensor]:
        """Scores in float32 or more: of all queries (K, B, G R, d) with the prompts' keys, and with their own."""
        heads, prompts, group, _, width = own_k.shape
        to_prompt = _product(q, prompt_k)
        to_own = _product(q.view(heads, prompts, group, -1, width), own_k).flatten(2, 3)
        if self.padding_BP is not None:
            to_prompt = to_prompt.masked_fill(self.padding_BP[:, None], -torch.inf)
        if self.static:
            to_own = to_own.masked_fill(self.places_T > self.step_1, -torch.inf)
        return to_prompt, to_own

    def keep(self, prompts: Tensor, slots: Tensor) -> None:
        """Go on with some prompts (B',) and some slots of each (B', G')."""
        self.prompt_keys = [(keys[:, prompts], values[:, prompts]) for keys, values in self.prompt_keys]
        self.own = [(k[:, prompts[:, None], slots], v[:, prompts[:, None], slots]) for k, v in self.own]
        if self.padding_BP is not None:
            self.padding_BP = self.padding_BP[prompts]


def _product(q: Tensor, keys: Tensor) -> Tensor:
    """Scores of queries with keys, accumulated and returned in no less than float32."""
    if q.dtype in (torch.float32, torch.float64):
        return q @ keys.mT
    if q.is_cuda:
        batch, k = q.flatten(0, -3), keys.flatten(0, -3)
        return torch.bmm(batch, k.mT, out_dtype=torch.float32).view(*q.shape[:-1], -1)
    return q.float() @ keys.mT.float()


def _padded(prefix: Prefix) -> tuple[Tensor, Tensor | None]:
    """The columns of each prompt (B, P), and where they are padding; None where no prompt is shorter than another."""
    device = prefix.own.hidden_CD.device
    sizes_B = torch.tensor([stop - start for start, stop in prefix.own.spans], device=device)
    starts_B = torch.tensor([start for start, _ in prefix.own.spans], device=device)
    places_P = torch.arange(int(sizes_B.max()), device=device)
    padding_BP = places_P >= sizes_B[:, None]
    columns_BP = (starts_B[:, None] + places_P).masked_fill(padding_BP, 0)
    return columns_BP, padding_BP if bool(padding_BP.any()) else None


class CapturedStep:
    """A step as a CUDA graph: a replay is one launch, whatever the number of layers.

    Args:
        forward: The step; each call has the same shapes and reads what changes from tensors.
        ids_N: An input, for the shape.
        positions_N: As well.
    """

    def __init__(self, forward: Step, ids_N: Tensor, positions_N: Tensor) -> None:
        self.ids_N, self.positions_N = ids_N.clone(), positions_N.clone()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries set themselves up in the first calls, which no graph may hold
            for _ in range(2):
                forward(self.ids_N, self.positions_N)
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.out = forward(self.ids_N, self.positions_N)

    def __call__(self, ids_N: Tensor, positions_N: Tensor) -> tuple[Tensor, Tensor]:
        """Replay the step; what it returns is overwritten by the next one."""
        self.ids_N.copy_(ids_N)
        self.positions_N.copy_(positions_N)
        self.graph.replay()
        return self.out


class Sampler:
    """Samples G completions of each prompt, and keeps their keys and values.

    Beside the prompts' own it takes the keys, values and states of all completions at full length, twice from when the
    first ones leave.

    Args:
        policy: The model.
        prefix: The prompts.
        group_size: G.
        max_new_tokens: Longest completion.
        static: Keep all slots and shapes to the end; on CUDA the step is then captured once and replayed.
    """

    def __init__(
        self, policy: QwenVLPolicy, prefix: Prefix, group_size: int, max_new_tokens: int, static: bool
    ) -> None:
        self.policy, self.prefix, self.static = policy, prefix, static
        prompts, rows = len(prefix.prompts), len(prefix.prompts) * group_size
        hidden = prefix.own.hidden_CD
        self.device = hidden.device
        self.ids_NT = torch.full((rows, max_new_tokens), policy.tokenizer.pad_token_id, device=self.device)
        self.mask_NT = torch.zeros(rows, max_new_tokens, dtype=torch.bool, device=self.device)
        self.logps_NT = torch.zeros(rows, max_new_tokens, dtype=torch.float32, device=self.device)
        self.hidden_NTD = hidden.new_zeros(rows, max_new_tokens, hidden.shape[-1])
        self.rows_BG = torch.arange(rows, device=self.device).view(prompts, group_size)
        """The completion in each slot."""
        self.running_BG = torch.ones_like(self.rows_BG, dtype=torch.bool)
        self.position_N = (prefix.prompts.positions_3BL.amax((0, 2)) + 1).repeat_interleave(group_size)
        self.attend = GroupAttend(prefix, group_size, max_new_tokens, static)
        self.store = self.attend.own
        """Keys and values of all completions (K, N, T, d); the slots' buffers themselves until somebody leaves."""
        self.stop_ids = torch.tensor(policy.stop_ids, device=self.device)
        self.forward: Step = self._forward
        """Reads a token of each slot."""

    def run(self, temperature: float, randomness: Randomness | None) -> Completions:
        """Sample until everything has ended, here or (in lockstep) on every rank."""
        prompts, group = self.rows_BG.shape
        limit, patience = self.ids_NT.shape[1], PATIENCE if self.static else 1
        last_columns = [stop - 1 for _, stop in self.prefix.own.spans]
        logits_NV = self.policy.logits(self.prefix.own.hidden_CD[last_columns]).repeat_interleave(group, 0)
        uniform_TN = None
        if temperature:
            uniform_TN = random_numbers(randomness, limit, prompts, group, self.device)
        for step in range(limit):
            uniform_N = None if uniform_TN is None else uniform_TN[step, self.rows_BG.flatten()]
            ids_N, logps_N = draw(logits_NV, self.policy.banned_V, temperature, uniform_N)
            self._note(step, ids_N, logps_N)
            if step + 1 == limit:
                break
            if (step + 1) % patience == 0 and not self._anything_runs():
                break
            if not self.static:
                self._drop_finished()
            logits_NV = self._step(step)
        self._put_back()
        lengths_N = self.mask_NT.sum(1)
        width = int(lengths_N.max())
        ended_N = torch.isin(self.ids_NT, self.stop_ids).logical_and(self.mask_NT).any(1)
        self.prefix.completions = self._columns((lengths_N - 1).tolist())
        return Completions(
            ids_NT=self.ids_NT[:, :width],
            mask_NT=self.mask_NT[:, :width],
            logps_NT=self.logps_NT[:, :width],
            truncated_N=~ended_N,
        )

    def _anything_runs(self) -> bool:
        running = int(self.running_BG.any())
        return bool(max_over_ranks(running, self.device) if self.policy.lockstep else running)

    def _note(self, step: int, ids_N: Tensor, logps_N: Tensor) -> None:
        """Write down a token of each slot that runs, and see which of them it ends."""
        rows_N, running_N = self.rows_BG.flatten(), self.running_BG.flatten()
        self.ids_NT[rows_N, step] = torch.where(running_N, ids_N, self.ids_NT[rows_N, step])
        self.mask_NT[rows_N, step] = running_N
        self.logps_NT[rows_N, step] = logps_N.masked_fill(~running_N, 0.0)
        self.running_BG = (running_N & ~torch.isin(ids_N, self.stop_ids)).view_as(self.running_BG)

    def _drop_finished(self) -> None:
        """Leave out prompts all of whose completions have ended, and as many slots as no other prompt needs."""
        left_B = self.running_BG.sum(1)
        prompts, group = left_B.nonzero().squeeze(1), int(left_B.max())
        if group == 0 or len(prompts) * group == self.running_BG.numel():
            return
        self._put_back()
        # The slots that run come first; a prompt with fewer of them keeps some that have ended.
        slots = self.running_BG[prompts].to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :group]
        self.attend.keep(prompts, slots)
        self.rows_BG = self.rows_BG[prompts[:, None], slots]
        self.running_BG = self.running_BG[prompts[:, None], slots]

    def _put_back(self) -> None:
        """Copy what the slots hold to where all completions lie."""
        if self.attend.own is self.store:
            self.store = [(k.flatten(1, 2), v.flatten(1, 2)) for k, v in self.store]
            return
        for stored, held in zip(self.store, self.attend.own, strict=True):
            for target, source in zip(stored, held, strict=True):
                target[:, self.rows_BG] = source

    def _step(self, step: int) -> Tensor:
        """Read the token that was sampled last, and return the logits (slots, V) of the next one."""
        rows_N = self.rows_BG.flatten()
        ids_N, positions_N = self.ids_NT[rows_N, step], self.position_N[rows_N] + step
        if step == 0 and self.static and ids_N.is_cuda:
            self.forward = CapturedStep(self._forward, ids_N, positions_N)
        hidden_ND, logits_NV = self.forward(ids_N, positions_N)
        self.hidden_NTD[rows_N, step] = hidden_ND
        self.attend.advance()
        return logits_NV

    def _forward(self, ids_N: Tensor, positions_N: Tensor) -> tuple[Tensor, Tensor]:
        hidden_ND = self.policy.language(self.policy.embed_ids(ids_N), positions_N.expand(3, -1), self.attend)
        return hidden_ND, self.policy.logits(hidden_ND)

    def _columns(self, sizes: list[int]) -> Columns:
        """Keys, values and states of the tokens that were read: all of a completion but its last."""
        ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
        limit = self.ids_NT.shape[1]
        read_N = torch.tensor(sizes, device=self.device)
        index = (torch.arange(limit, device=self.device) < read_N[:, None]).flatten().nonzero().squeeze(1)
        return Columns(
            keys_values=[(k.flatten(1, 2)[:, index], v.flatten(1, 2)[:, index]) for k, v in self.store],
            hidden_CD=self.hidden_NTD.flatten(0, 1)[index],
            spans=list(itertools.pairwise(ends)),
        )
