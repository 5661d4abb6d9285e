"""The policy: a Qwen2.5-VL checkpoint, tiny or large, with the prompt and the vision tower computed once."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoProcessor, DynamicCache, Qwen2_5_VLForConditionalGeneration

from cair_lightning.policies.collation import Prompts
from cair_lightning.policies.tree import Branch, PackedTrees, pack

log = logging.getLogger(__name__)

Attention = Literal["auto", "sdpa", "flash_attention_2", "eager"]
BANNED_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")
"""Never sampled: the next forward would look for features that do not exist."""
STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")
SCORED_ROWS = 2048
"""Scored tokens whose logits exist at the same time: 2,048 x 152,064 float32 values are 1.2 GB."""


@dataclass(slots=True, kw_only=True)
class Prefix:
    """Prompts that have been run through the model once."""

    prompts: Prompts
    cache: DynamicCache
    hidden_BLD: Tensor


@dataclass(slots=True, kw_only=True)
class Completions:
    """Sampled completions, G per prompt, those of one prompt next to each other."""

    ids_NT: Tensor
    mask_NT: Tensor
    """True up to and including the end-of-text token."""
    logps_NT: Tensor
    """Log-probability of each token at the sampling temperature, under the weights that sampled it; 0 is padding."""
    truncated_N: Tensor
    """True where the limit came before an end-of-text token."""

    def ids(self, row: int) -> list[int]:
        """The tokens of one completion, without padding."""
        return [int(t) for t in self.ids_NT[row][self.mask_NT[row]]]


def resolve_attention(requested: Attention) -> dict[str, str]:
    """Attention implementation of each tower.

    `auto` takes flash-attention 2 where it is installed and a CUDA device is there, else SDPA. The language model
    always attends through SDPA (or eager): branches of a prompt need a mask, which flash-attention 2 does not take.
    The vision tower, whose windows are where flash-attention gains most, uses it.

    Raises:
        ImportError: If flash-attention 2 is asked for and not installed.
    """
    installed = find_spec("flash_attn") is not None
    if requested == "flash_attention_2" and not installed:
        raise ImportError("attn_implementation is flash_attention_2, and flash-attn is not installed: pip install cair-lightning[flash].")
    if requested == "auto":
        requested = "flash_attention_2" if installed and torch.cuda.is_available() else "sdpa"
        log.info("attn_implementation: auto takes %s.", requested)
    text = "sdpa" if requested == "flash_attention_2" else requested
    return {"text_config": text, "vision_config": requested}


class QwenVLPolicy(nn.Module):
    """A Qwen2.5-VL checkpoint that samples, scores labels and computes log-probabilities with gradient.

    All three share one prompt computation: `prefill` runs the vision tower and the prompt, `sample` continues from its
    keys and values, and `logps` hangs branches (see `policies.tree`) from them; without a prefix, `logps` runs the
    prompt and its branches as one row, which is the form to train with. Position ids are our own (`policies.positions`).

    Args:
        model: The Hugging Face model.
        processor: Its processor.
        freeze_vision: Run the vision tower without gradient; its features are then computed once per batch.
        gradient_checkpointing: Recompute layers in the backward pass.
    """

    def __init__(
        self,
        model: Qwen2_5_VLForConditionalGeneration,
        processor: AutoProcessor,
        freeze_vision: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.freeze_vision = freeze_vision
        self.sharded_by: object | None = None
        """Keeps transformers' note of DeepSpeed's sharding alive; set by whoever loads the policy under ZeRO-3."""
        if freeze_vision:
            model.model.visual.requires_grad_(False)
        if gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        vocabulary = self.tokenizer.get_vocab()
        configured = model.generation_config.eos_token_id
        configured = configured if isinstance(configured, list) else [] if configured is None else [configured]
        self.stop_ids = sorted({*configured, *(vocabulary[t] for t in STOP_TOKENS if t in vocabulary)})
        self._added: dict[str, int] = self.tokenizer.get_added_vocab()
        self.register_buffer("banned_V", self._banned(vocabulary), persistent=False)
        self.banned_V: Tensor

    @classmethod
    def load(
        cls,
        path: str | Path,
        dtype: torch.dtype = torch.float32,
        attn_implementation: Attention = "auto",
        freeze_vision: bool = False,
        gradient_checkpointing: bool = False,
    ) -> QwenVLPolicy:
        """Load a local folder or a hub id.

        Raises:
            ValueError: If the checkpoint is of another family.
        """
        config = AutoConfig.from_pretrained(path)
        if config.model_type != "qwen2_5_vl":
            raise ValueError(f"{path} holds a {config.model_type!r} model; expected 'qwen2_5_vl' (Qwen2.5-VL and its fine-tunes).")
        attention = resolve_attention(attn_implementation)
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(path, dtype=dtype, attn_implementation=attention)
        return cls(model, AutoProcessor.from_pretrained(path), freeze_vision, gradient_checkpointing)

    def _banned(self, vocabulary: dict[str, int]) -> Tensor:
        banned_V = torch.zeros(self.model.config.text_config.vocab_size, dtype=torch.bool)
        banned_V[[vocabulary[token] for token in BANNED_TOKENS if token in vocabulary]] = True
        # Checkpoints pad the vocabulary to a round number; rows behind the tokenizer's last id decode to nothing.
        banned_V[len(self.tokenizer) :] = True
        return banned_V

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """Evaluation mode without gradient: no dropout, no checkpointing, keys and values kept."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(training)

    # ------------------------------------------------------------------------------------------------- text and ids

    def encode(self, text: str) -> list[int]:
        """Token ids of a piece of text, with nothing added."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a completion up to its end-of-text token; any other control token stays visible."""
        kept = [t for t in ids if t not in self.stop_ids]
        text: str = self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def token_bytes(self, token: str) -> int:
        """How many bytes of text a token (as the vocabulary spells it) stands for; 0 for an end-of-text token."""
        if token in self._added:
            return 0 if self._added[token] in self.stop_ids else len(token.encode())
        return len(token)  # byte-level BPE spells one byte as one character

    # ------------------------------------------------------------------------------------------------------ forwards

    def embed(self, prompts: Prompts) -> Tensor:
        """Input embeddings (B, L, D) of prompts, the clips' features in place of the video tokens."""
        embeds_BLD = self.model.get_input_embeddings()(prompts.ids_BL)
        if prompts.patches is None:
            return embeds_BLD
        features = self.vision(prompts).to(embeds_BLD.dtype)
        is_video = prompts.ids_BL == self.model.config.video_token_id
        return embeds_BLD.masked_scatter(is_video[..., None], features)

    def vision(self, prompts: Prompts) -> Tensor:
        """The clips' features (video tokens, D). A frozen tower computes them once and leaves them on the prompts."""
        if prompts.features is not None:
            return prompts.features
        grid = torch.tensor([g for g in prompts.grids if g is not None], device=prompts.ids_BL.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_vision):
            features: Tensor = self.model.model.visual(prompts.patches.to(self.model.dtype), grid_thw=grid).pooler_output  # type: ignore[union-attr]
        if self.freeze_vision:
            prompts.features = features
        return features

    def prefill(self, prompts: Prompts) -> Prefix:
        """Run prompts once and keep their keys, values and last hidden states."""
        cache = DynamicCache(config=self.model.config.text_config)
        hidden_BLD = self._language(self.embed(prompts), prompts.positions_3BL, _causal(prompts.mask_BL), cache)
        return Prefix(prompts=prompts, cache=cache, hidden_BLD=hidden_BLD)

    def logps(
        self, prompts: Prompts, trees: Sequence[Sequence[Branch]], prefix: Prefix | None = None, temperature: float = 1.0
    ) -> tuple[PackedTrees, Tensor]:
        """Log-probabilities of the scored tokens of branches that hang from prompts.

        Args:
            prompts: The prompts.
            trees: The branches of each.
            prefix: The prompts' keys and values, where `prefill` has been run; else one row holds prompt and branches.
            temperature: Divides the logits, as in sampling; beliefs are read at 1.

        Returns:
            The packed trees, whose `per_branch` and `per_token` shape the second item: float32 (M,).
        """
        packed = pack(trees, prompts.mask_BL, prompts.positions_3BL).to(prompts.ids_BL.device)
        embeds_BSD = self.model.get_input_embeddings()(packed.ids_BS)
        if prefix is not None:
            branches_BSD = self._language(embeds_BSD, packed.positions_3BS, packed.visible, fork(prefix.cache))
            hidden_BCD = torch.cat([prefix.hidden_BLD, branches_BSD], dim=1)
        else:
            embeds_BCD = torch.cat([self.embed(prompts), embeds_BSD], dim=1)
            positions_3BC = torch.cat([prompts.positions_3BL, packed.positions_3BS], dim=2)
            above = _causal(prompts.mask_BL)
            blind = above.new_zeros(*above.shape[:2], packed.visible.shape[1])
            visible = torch.cat([torch.cat([above, blind], dim=2), packed.visible], dim=1)
            hidden_BCD = self._language(embeds_BCD, positions_3BC, visible, None)
        hidden_MD = hidden_BCD.flatten(0, 1)[packed.predictors_M]
        return packed, self._token_logps(hidden_MD, packed.targets_M, temperature)

    def _language(self, embeds_BSD: Tensor, positions_3BS: Tensor, visible: Tensor, cache: DynamicCache | None) -> Tensor:
        """The language model's last hidden states (B, S, D) under an explicit mask (B, S, columns)."""
        mask: Tensor = visible[:, None]
        if self.model.config.text_config._attn_implementation == "eager":
            mask = torch.zeros_like(mask, dtype=embeds_BSD.dtype).masked_fill(~mask, torch.finfo(embeds_BSD.dtype).min)
        out = self.model.model.language_model(
            inputs_embeds=embeds_BSD,
            position_ids=positions_3BS,
            attention_mask={"full_attention": mask},
            past_key_values=cache,
            use_cache=cache is not None,
        )
        hidden: Tensor = out.last_hidden_state
        return hidden

    def _token_logps(self, hidden_MD: Tensor, targets_M: Tensor, temperature: float) -> Tensor:
        """Log-softmax in float32 at the targets, with the head applied to these rows only, a block at a time."""
        blocks = []
        for hidden, targets in zip(hidden_MD.split(SCORED_ROWS), targets_M.split(SCORED_ROWS), strict=True):
            if torch.is_grad_enabled() and len(hidden_MD) > SCORED_ROWS:
                blocks.append(checkpoint(self._block_logps, hidden, targets, temperature, use_reentrant=False))
            else:
                blocks.append(self._block_logps(hidden, targets, temperature))
        return torch.cat(blocks) if blocks else hidden_MD.new_zeros(0, dtype=torch.float32)

    def _block_logps(self, hidden_MD: Tensor, targets_M: Tensor, temperature: float) -> Tensor:
        logits_MV = self.model.lm_head(hidden_MD).float() / temperature
        return logits_MV.gather(1, targets_M[:, None]).squeeze(1) - logits_MV.logsumexp(1)

    # ------------------------------------------------------------------------------------------------------ sampling

    @torch.no_grad()
    def sample(
        self,
        prefix: Prefix,
        group_size: int,
        max_new_tokens: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        lockstep: bool = False,
    ) -> Completions:
        """Sample G completions of each prompt from its keys and values.

        Args:
            prefix: The prompts.
            group_size: G.
            max_new_tokens: Longest completion.
            temperature: 0 takes the likeliest token.
            generator: Source of randomness, on the model's device.
            lockstep: Go on until every rank has finished, as sharded weights need.
        """
        prompts = prefix.prompts
        cache = fork(prefix.cache)
        cache.batch_repeat_interleave(group_size)
        hidden_ND = prefix.hidden_BLD[:, -1].repeat_interleave(group_size, 0)
        position_N = (prompts.positions_3BL.amax((0, 2)) + 1).repeat_interleave(group_size)
        visible_NL = prompts.mask_BL.repeat_interleave(group_size, 0)
        stop_ids = torch.tensor(self.stop_ids, device=hidden_ND.device)
        running_N = torch.ones(len(hidden_ND), dtype=torch.bool, device=hidden_ND.device)
        ids, masks, logps = [], [], []
        for step in range(max_new_tokens):
            ids_N, logps_N = self._draw(hidden_ND, temperature, generator)
            ids.append(ids_N.masked_fill(~running_N, self.tokenizer.pad_token_id))
            masks.append(running_N)
            logps.append(logps_N.masked_fill(~running_N, 0.0))
            running_N = running_N & ~torch.isin(ids_N, stop_ids)
            if step + 1 == max_new_tokens or not _any_rank(running_N.any(), lockstep):
                break
            visible_NL = torch.cat([visible_NL, visible_NL.new_ones(len(visible_NL), 1)], dim=1)
            embeds_N1D = self.model.get_input_embeddings()(ids[-1][:, None])
            positions_3N1 = (position_N + step).expand(3, -1)[..., None]
            hidden_ND = self._language(embeds_N1D, positions_3N1, visible_NL[:, None], cache)[:, -1]
        return Completions(
            ids_NT=torch.stack(ids, 1), mask_NT=torch.stack(masks, 1), logps_NT=torch.stack(logps, 1), truncated_N=running_N
        )

    def _draw(self, hidden_ND: Tensor, temperature: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """One token per row, never a banned one, and its log-probability in the whole distribution."""
        logits_NV = self.model.lm_head(hidden_ND).float() / (temperature or 1.0)
        allowed_NV = logits_NV.masked_fill(self.banned_V, -torch.inf)
        if temperature == 0:
            ids_N = allowed_NV.argmax(1)
        else:
            ids_N = torch.multinomial(allowed_NV.softmax(1), 1, generator=generator).squeeze(1)
        return ids_N, logits_NV.gather(1, ids_N[:, None]).squeeze(1) - logits_NV.logsumexp(1)


def fork(cache: DynamicCache) -> DynamicCache:
    """A cache with the same keys and values (not copied) that can grow without changing the original."""
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in cache.layers]
    return branch


def _causal(mask_BL: Tensor) -> Tensor:
    """Which columns each prompt token sees (B, L, L). Padding sees itself, so that no row of the softmax is empty."""
    length = mask_BL.shape[1]
    square = torch.ones(length, length, dtype=torch.bool, device=mask_BL.device)
    return (square.tril() & mask_BL[:, None]) | square.diag().diag()


def _any_rank(flag: Tensor, lockstep: bool) -> bool:
    """Whether the flag is set here, or on any rank where ranks have to stay together."""
    if lockstep and torch.distributed.is_initialized():
        count = flag.to(torch.int32)
        torch.distributed.all_reduce(count)
        return bool(count)
    return bool(flag)
