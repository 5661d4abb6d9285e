"""What is sent to vLLM's token-in, token-out route for a prompt, and what its reply says.

A prompt travels as the trainer's ids and a clip as the very patches that the trainer computes with: the server decodes,
resizes, normalises and tokenises nothing, so that nothing can differ.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cair_lightning.engines.base import EngineError
from cair_lightning.policies.batch import Prompts
from cair_lightning.policies.positions import ROUNDING
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.policies.sampling import Completions, Randomness, SamplingSettings

NEVER = -100.0
"""Added to the logit of a token that must not be drawn; vLLM takes no lower one."""
RAW_BYTES = 3
"""Code of vLLM's msgpack extension for the bytes of a tensor (`vllm.v1.serial_utils`)."""
LONGEST_SEED = 2**62


class StaleReplyError(Exception):
    """A reply was cut off, or sampled under other weights than those that were asked for: ask again."""


@dataclass(slots=True, kw_only=True, frozen=True)
class Sample:
    """One completion as a server returned it."""

    ids: list[int]
    """Its tokens, the end-of-text token included where there is one."""
    logps: list[float]
    """Their log-probabilities at the sampling temperature, nats."""


@dataclass(slots=True, kw_only=True)
class Request:
    """One prompt and how to go on with it."""

    ids: list[int]
    """The prompt's tokens, one video token per merged patch."""
    features: dict[str, Any] | None
    """The clip, as the route takes it; None without one."""
    label: str
    """Names the weights that have to sample."""
    parameters: dict[str, Any]
    """vLLM's sampling parameters."""
    copies: int
    """How often each returned completion counts: greedy ones are asked for once."""

    def body(self) -> bytes:
        """The request in JSON."""
        content = {"token_ids": self.ids, "sampling_params": self.parameters, "return_token_ids": True}
        # What was cached under other weights is never found again, even if a cache was not reset.
        content |= {"cache_salt": self.label} | ({} if self.features is None else {"features": self.features})
        return json.dumps(content).encode()

    def read(self, reply: Any) -> list[Sample]:  # noqa: ANN401 - JSON
        """The completions of a reply.

        Raises:
            StaleReplyError: If the reply was cut off, or other weights sampled.
            EngineError: If it is no reply to this request.
        """
        try:
            choices, prompt = reply["choices"], reply["prompt_token_ids"]
            if any(choice["finish_reason"] not in ("stop", "length") for choice in choices):
                raise StaleReplyError("broke the request off")
            labels = {span["version"] for choice in choices for span in choice["weight_versions"]}
            samples = [
                Sample(ids=choice["token_ids"], logps=[token["logprob"] for token in choice["logprobs"]["content"]])
                for choice in sorted(choices, key=lambda choice: int(choice["index"]))
            ]
        except (KeyError, TypeError) as error:
            raise EngineError(
                f"expected choices with token_ids, logprobs and weight_versions, got {str(reply)[:300]!r} "
                f"({type(error).__name__}: {error}); is this a vLLM of the tested versions?"
            ) from error
        if labels != {self.label}:
            raise StaleReplyError(f"sampled under the weights {sorted(labels)} instead of {self.label!r}")
        if prompt != self.ids:
            raise EngineError(f"it read {len(prompt)} prompt tokens, and not the {len(self.ids)} that were sent.")
        self._check(samples)
        return samples * self.copies

    def _check(self, samples: Sequence[Sample]) -> None:
        wanted, limit = self.parameters["n"], self.parameters["max_tokens"]
        sizes = [(len(sample.ids), len(sample.logps)) for sample in samples]
        if len(samples) != wanted or any(not 0 < size <= limit or size != scored for size, scored in sizes):
            raise EngineError(
                f"expected {wanted} completions of 1 to {limit} tokens, each with its log-probability, got {sizes}."
            )
        banned = {int(token) for token in self.parameters["logit_bias"]}
        if drawn := banned & {token for sample in samples for token in sample.ids}:
            raise EngineError(f"it drew the tokens {sorted(drawn)}, which are banned.")


def requests_of(
    policy: QwenVLPolicy, prompts: Prompts, sampling: SamplingSettings, randomness: Randomness | None, label: str
) -> list[Request]:
    """A request for each prompt.

    Args:
        policy: The policy.
        prompts: The prompts.
        sampling: How to sample; the server divides logits by the temperature inside the model.
        randomness: A seed of each prompt is drawn from it; vLLM counts on from that for further completions.
        label: Names the weights that have to sample.
    """
    greedy = sampling.temperature == 0
    shared: dict[str, Any] = {
        "n": 1 if greedy else sampling.group_size,
        "max_tokens": sampling.max_new_tokens,
        "temperature": 0.0 if greedy else 1.0,
        "logprobs": 0,  # those of the drawn tokens
        "logit_bias": {str(token): NEVER for token in policy.banned_V.nonzero().flatten().tolist()},
        "stop_token_ids": policy.stop_ids,
        "ignore_eos": True,  # the policy's own stop tokens decide
        "detokenize": False,
    }
    seeds = _seeds(randomness, len(prompts))
    return [
        Request(
            ids=prompts.ids_BL[row][prompts.mask_BL[row]].tolist(),
            features=_features(policy, prompts, row, label),
            label=label,
            parameters=shared | ({} if seed is None else {"seed": seed}),
            copies=sampling.group_size if greedy else 1,
        )
        for row, seed in enumerate(seeds)
    ]


def _seeds(randomness: Randomness | None, count: int) -> list[int | None]:
    if randomness is None:
        return [None] * count
    sources = [randomness] * count if isinstance(randomness, torch.Generator) else randomness
    return [int(torch.randint(LONGEST_SEED, (), generator=g, device=g.device)) for g in sources]


def completions_of(samples: Sequence[Sample], policy: QwenVLPolicy, device: torch.device) -> Completions:
    """Completions of all prompts, those of one prompt next to each other, as tensors."""
    width = max(len(sample.ids) for sample in samples)
    shape = (len(samples), width)
    ids_NT = torch.full(shape, policy.tokenizer.pad_token_id)
    mask_NT, logps_NT = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape)
    for row, sample in enumerate(samples):
        size = len(sample.ids)
        ids_NT[row, :size] = torch.tensor(sample.ids)
        mask_NT[row, :size] = True
        logps_NT[row, :size] = torch.tensor(sample.logps)
    ended_N = (torch.isin(ids_NT, torch.tensor(policy.stop_ids)) & mask_NT).any(1)
    tensors = (tensor.to(device) for tensor in (ids_NT, mask_NT, logps_NT, ~ended_N))
    return Completions(**dict(zip(("ids_NT", "mask_NT", "logps_NT", "truncated_N"), tensors, strict=True)))


# ------------------------------------------------------------------------------------------------------------- clips


def _features(policy: QwenVLPolicy, prompts: Prompts, row: int, label: str) -> dict[str, Any] | None:
    """A prompt's clip as the route takes it."""
    grid, seconds, patches = prompts.grids[row], prompts.seconds_per_grid[row], prompts.patches_of(row)
    if grid is None or seconds is None or patches is None:
        return None
    config: Any = policy.model.config
    ids = prompts.ids_BL[row][prompts.mask_BL[row]].tolist()
    # vLLM floors index * seconds * tokens per second as floating point has it; `policies.positions` rounds up first.
    nudged = seconds + ROUNDING / config.vision_config.tokens_per_second / max(1, grid[0] - 1)
    item = {
        "pixel_values_videos": _field(patches.cpu(), "flat", {"slices": [[0, len(patches), None]], "dim": 0}),
        "video_grid_thw": _field(torch.tensor(grid), "batched", {}, on_cpu=True),
        "second_per_grid_ts": _field(torch.tensor(nudged, dtype=torch.float64), "batched", {}, on_cpu=True),
    }
    content = b"".join(packed(item))
    place = {"offset": ids.index(config.video_token_id), "length": ids.count(config.video_token_id)}
    return {
        # Features of the vision tower are kept by this name: other weights, other name.
        "mm_hashes": {"video": [f"{hashlib.sha256(content).hexdigest()}-{label}"]},
        "mm_placeholders": {"video": [place]},
        "kwargs_data": {"video": [base64.b64encode(content).decode()]},
    }


def _field(data: Tensor, kind: str, how: dict[str, Any], on_cpu: bool = False) -> dict[str, Any]:
    """A tensor and how vLLM joins it with those of other clips."""
    return {"data": data, "field": [kind, {"keep_on_cpu": on_cpu} | how]}


def packed(value: object) -> Iterator[bytes]:
    r"""Pieces of msgpack's encoding of plain values, with tensors as vLLM's decoder reads them; always the long forms.

    >>> b"".join(packed({"a": [None, True, 1]})).hex(" ")
    'df 00 00 00 01 db 00 00 00 01 61 dd 00 00 00 03 c0 c3 cf 00 00 00 00 00 00 00 01'
    """
    if value is None or isinstance(value, bool):
        yield {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    elif isinstance(value, int) and value >= 0:
        yield b"\xcf" + struct.pack(">Q", value)
    elif isinstance(value, str):
        yield b"\xdb" + struct.pack(">I", len(value.encode())) + value.encode()
    elif isinstance(value, dict):
        yield b"\xdf" + struct.pack(">I", len(value))
        for pair in value.items():
            yield from (piece for part in pair for piece in packed(part))
    elif isinstance(value, (list, tuple)):
        yield b"\xdd" + struct.pack(">I", len(value))
        yield from (piece for part in value for piece in packed(part))
    elif isinstance(value, Tensor):
        data = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        yield b"\xdd" + struct.pack(">I", 3)  # type, shape, bytes
        yield from (*packed(str(value.dtype).removeprefix("torch.")), *packed(list(value.shape)))
        yield b"\xc9" + struct.pack(">Ib", len(data), RAW_BYTES)
        yield data
    else:
        raise TypeError(f"expected plain values and tensors, got {type(value).__name__}")
