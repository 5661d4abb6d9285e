"""The policy: a Qwen2.5-VL checkpoint, tiny or large, with the prompt and the vision tower computed once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoProcessor,
    DynamicCache,
    ProcessorMixin,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLTextConfig,
)

from cair_lightning.policies.attention import Attention, additive, causal, resolve_attention, whole_row
from cair_lightning.policies.byte_level import token_bytes
from cair_lightning.policies.collation import Prompts
from cair_lightning.policies.sampling import Completions, any_rank, draw
from cair_lightning.policies.scoring import token_logps
from cair_lightning.policies.tree import Branch, PackedTrees, pack

__all__ = ["Attention", "Completions", "Prefix", "QwenVLPolicy", "fork", "resolve_attention"]

BANNED_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")
"""Never sampled: the next forward would look for features that do not exist."""
STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")

BLANK = (4, 3 * 2 * 14 * 14)
"""Shape of the patches of one token in every Qwen2.5-VL: 2 x 2 patches of 14 x 14 pixels in two frames."""


@dataclass(slots=True, kw_only=True)
class Prefix:
    """Prompts that have been run through the model once."""

    prompts: Prompts
    cache: DynamicCache
    hidden_BLD: Tensor


class QwenVLPolicy(nn.Module):
    """A Qwen2.5-VL checkpoint that samples, scores labels and computes log-probabilities with gradient.

    All three share one prompt computation: `prefill` runs the vision tower and the prompt, `sample` continues from its
    keys and values, and `logps` hangs branches (see `policies.tree`) from them; without a prefix, `logps` runs the
    prompt and its branches as one row, which is the form to train with. Position ids are our own: `policies.positions`.

    Args:
        model: The Hugging Face model.
        processor: Its processor.
        freeze_vision: Run the vision tower without gradient; its features are then computed once per batch.
        gradient_checkpointing: Recompute layers in the backward pass.
    """

    def __init__(
        self,
        model: Qwen2_5_VLForConditionalGeneration,
        processor: ProcessorMixin,
        freeze_vision: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.freeze_vision, self.gradient_checkpointing = freeze_vision, gradient_checkpointing
        self.sharded_by: object | None = None
        """Keeps transformers' note of DeepSpeed's sharding alive; set by whoever loads the policy under ZeRO-3."""
        if freeze_vision:
            model.model.visual.requires_grad_(False)
        if gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
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
            raise ValueError(
                f"{path} holds a {config.model_type!r} model; expected 'qwen2_5_vl' (Qwen2.5-VL and its fine-tunes)."
            )
        attention = resolve_attention(attn_implementation)
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(path, dtype=dtype, attn_implementation=attention)
        processor = AutoProcessor.from_pretrained(path)  # type: ignore[no-untyped-call]
        return cls(model, processor, freeze_vision, gradient_checkpointing)

    @property
    def text_config(self) -> Qwen2_5_VLTextConfig:
        """Configuration of the language model."""
        assert isinstance(self.model.config.text_config, Qwen2_5_VLTextConfig)
        return self.model.config.text_config

    def _banned(self, vocabulary: dict[str, int]) -> Tensor:
        banned_V = torch.zeros(self.text_config.vocab_size, dtype=torch.bool)
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
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a completion up to its end-of-text token; any other control token stays visible."""
        kept = [t for t in ids if t not in self.stop_ids]
        text: str = self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def token_bytes(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of text that each token stands for; none for an end-of-text token, which `decode` leaves out."""
        pieces = token_bytes(self.tokenizer.convert_ids_to_tokens(list(ids)), self._added)
        return [b"" if t in self.stop_ids else piece for t, piece in zip(ids, pieces, strict=True)]

    # ------------------------------------------------------------------------------------------------------ forwards

    def embed(self, prompts: Prompts) -> Tensor:
        """Input embeddings (B, L, D) of prompts, the clips' features in place of the video tokens."""
        embeds_BLD: Tensor = self.model.get_input_embeddings()(prompts.ids_BL)
        if prompts.patches is None and not torch.distributed.is_initialized():
            return embeds_BLD
        features = self.vision(prompts).to(embeds_BLD.dtype)
        is_video = prompts.ids_BL == self.model.config.video_token_id
        return embeds_BLD.masked_scatter(is_video[..., None], features)

    def vision(self, prompts: Prompts) -> Tensor:
        """The clips' features (video tokens, D). A frozen tower computes them once and leaves them on the prompts.

        Without a clip there are none, and yet the tower runs, on a blank patch: DDP waits for the gradients of all its
        weights, and ZeRO-3 for every rank to fetch them.
        """
        if prompts.features is not None:
            return prompts.features
        grids = [grid for grid in prompts.grids if grid is not None]
        if prompts.patches is None:
            features = self._tower(prompts.ids_BL.new_zeros(BLANK), [(1, 2, 2)])[:0]
        else:
            features = self._tower(prompts.patches, grids)
        if self.freeze_vision:
            prompts.features = features
        return features

    def _tower(self, patches: Tensor, grids: Sequence[tuple[int, int, int]]) -> Tensor:
        grid_thw = torch.tensor(grids, device=patches.device)
        features: Tensor = self.model.model.visual(patches.to(self.model.dtype), grid_thw=grid_thw).pooler_output
        return features

    def prefill(self, prompts: Prompts) -> Prefix:
        """Run prompts once and keep their keys, values and last hidden states."""
        cache = DynamicCache(config=self.text_config)
        hidden_BLD = self._language(self.embed(prompts), prompts.positions_3BL, causal(prompts.mask_BL), cache)
        return Prefix(prompts=prompts, cache=cache, hidden_BLD=hidden_BLD)

    def logps(
        self,
        prompts: Prompts,
        trees: Sequence[Sequence[Branch]],
        prefix: Prefix | None = None,
        temperature: float = 1.0,
    ) -> tuple[PackedTrees, Tensor]:
        """Log-probabilities of the scored tokens of branches that hang from prompts.

        Args:
            prompts: The prompts.
            trees: The branches of each.
            prefix: The prompts' keys and values, where `prefill` has been run; else one row holds prompt and branches.
            temperature: Divides the logits, as in sampling (0 counts as 1, there too); beliefs are read at 1.

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
            hidden_BCD = self._language(embeds_BCD, positions_3BC, whole_row(prompts.mask_BL, packed.visible), None)
        hidden_MD = hidden_BCD.flatten(0, 1)[packed.predictors_M]
        return packed, token_logps(self._logits, hidden_MD, packed.targets_M, temperature)

    def _language(
        self, embeds_BSD: Tensor, positions_3BS: Tensor, visible: Tensor, cache: DynamicCache | None
    ) -> Tensor:
        """The language model's last hidden states (B, S, D) under an explicit mask (B, S, columns)."""
        if cache is not None and self.training and self.gradient_checkpointing:
            # transformers would drop the cache with no more than a warning, and the prompt with it.
            raise RuntimeError(
                "Gradient checkpointing keeps no keys and values: use the prefix inside policy.scoring()."
            )
        mask = visible[:, None]
        if self.text_config._attn_implementation == "eager":
            mask = additive(mask, embeds_BSD.dtype)
        out = self.model.model.language_model(
            inputs_embeds=embeds_BSD,
            position_ids=positions_3BS,
            attention_mask={"full_attention": mask},
            past_key_values=cache,
            use_cache=cache is not None,
        )
        hidden: Tensor = out.last_hidden_state
        return hidden

    def _logits(self, hidden_MD: Tensor) -> Tensor:
        """The head's logits in float32 (or more, where the model has more)."""
        logits_MV: Tensor = self.model.lm_head(hidden_MD)
        return logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32))

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
        running_N = torch.ones_like(position_N, dtype=torch.bool)
        ids, masks, logps = [], [], []
        for step in range(max_new_tokens):
            ids_N, logps_N = draw(self._logits(hidden_ND), self.banned_V, temperature, generator)
            ids.append(ids_N.masked_fill(~running_N, self.tokenizer.pad_token_id))
            masks.append(running_N)
            logps.append(logps_N.masked_fill(~running_N, 0.0))
            running_N = running_N & ~torch.isin(ids_N, stop_ids)
            if step + 1 == max_new_tokens or not any_rank(running_N.any(), lockstep):
                break
            visible_NL = torch.cat([visible_NL, visible_NL.new_ones(len(visible_NL), 1)], dim=1)
            embeds_N1D = self.model.get_input_embeddings()(ids[-1][:, None])
            positions_3N1 = (position_N + step).expand(3, -1)[..., None]
            hidden_ND = self._language(embeds_N1D, positions_3N1, visible_NL[:, None], cache)[:, -1]
        ids_NT, mask_NT, logps_NT = torch.stack(ids, 1), torch.stack(masks, 1), torch.stack(logps, 1)
        return Completions(ids_NT=ids_NT, mask_NT=mask_NT, logps_NT=logps_NT, truncated_N=running_N)


def fork(cache: DynamicCache) -> DynamicCache:
    """A cache with the same keys and values (not copied) that can grow without changing the original."""
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in cache.layers]
    return branch
