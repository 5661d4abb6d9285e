"""The policy: a Qwen2.5-VL checkpoint, tiny or large, with the prompt and the vision tower computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoProcessor,
    ProcessorMixin,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLTextConfig,
)

from cair_lightning.policies.attention import (
    NAME,
    Attend,
    Attention,
    TreeAttend,
    TreeAttention,
    resolve_attention,
    resolve_tree_attention,
)
from cair_lightning.policies.byte_level import token_bytes
from cair_lightning.policies.collation import Prompts
from cair_lightning.policies.decoding import Sampler
from cair_lightning.policies.features import VisionTower
from cair_lightning.policies.prefix import Columns, KeysValues, Prefix, join_columns
from cair_lightning.policies.sampling import Completions, Randomness
from cair_lightning.policies.scoring import token_logps
from cair_lightning.policies.tree import Branch, Layout, pack

__all__ = ["Attention", "Completions", "Prefix", "QwenVLPolicy", "TreeAttention"]

BANNED_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")
"""Never sampled: the next forward would look for features that do not exist."""
STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")


class QwenVLPolicy(nn.Module):
    """A Qwen2.5-VL checkpoint that samples, scores labels and computes log-probabilities with gradient.

    All three share one prompt computation: `prefill` runs the vision tower and the prompt, `sample` continues from its
    keys and values and keeps those of the completions, and `logps` hangs branches (see `policies.tree`) from them;
    without a prefix, `logps` runs prompts and branches as one row, which is the form to train with. Nothing is padded.
    Position ids are our own: `policies.positions`.

    Args:
        model: The Hugging Face model. Its language model attends through `policies.attention` from now on.
        processor: Its processor.
        freeze_vision: Run the vision tower without gradient; its features are then computed once per batch.
        gradient_checkpointing: Recompute layers in the backward pass.
        tree_attention: How the language model attends; see `policies.attention.resolve_tree_attention`.
        kept_features_gib: Memory for the features of a frozen vision tower, which are then computed once per clip.

    Raises:
        ValueError: If features are to be kept of a tower that is trained, or the checkpoint has attention dropout.
    """

    def __init__(
        self,
        model: Qwen2_5_VLForConditionalGeneration,
        processor: ProcessorMixin,
        freeze_vision: bool = False,
        gradient_checkpointing: bool = False,
        tree_attention: TreeAttention = "auto",
        kept_features_gib: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.gradient_checkpointing = gradient_checkpointing
        self.lockstep = False
        """Every rank has to run the same modules equally often, because together they hold one copy of the weights."""
        self.tree_attention = tree_attention
        if self.text_config.attention_dropout:
            raise ValueError(
                f"The checkpoint has attention_dropout {self.text_config.attention_dropout}, expected 0, as in every "
                "Qwen2.5-VL; set it to 0 in its config.json."
            )
        self.vision = VisionTower(model, freeze_vision, kept_features_gib)
        model.set_attn_implementation({"text_config": NAME})
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
        tree_attention: TreeAttention = "auto",
        kept_features_gib: float = 0.0,
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
        attention = {"text_config": "sdpa", "vision_config": resolve_attention(attn_implementation)}
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(path, dtype=dtype, attn_implementation=attention)
        processor = AutoProcessor.from_pretrained(path)  # type: ignore[no-untyped-call]
        return cls(model, processor, freeze_vision, gradient_checkpointing, tree_attention, kept_features_gib)

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

    def embed_ids(self, ids_N: Tensor) -> Tensor:
        """Input embeddings (N, D) of tokens."""
        embeds_ND: Tensor = self.model.get_input_embeddings()(ids_N)
        return embeds_ND

    def embed(self, prompts: Prompts) -> Tensor:
        """Input embeddings (tokens, D) of prompts behind each other, the clips' features in place of video tokens."""
        ids_N = prompts.ids_BL[prompts.mask_BL]
        embeds_ND = self.embed_ids(ids_N)
        if prompts.patches is None and not torch.distributed.is_initialized():
            return embeds_ND
        features = self.vision(prompts).to(embeds_ND.dtype)
        is_video = ids_N == self.model.config.video_token_id
        return embeds_ND.masked_scatter(is_video[:, None], features)

    def prefill(self, prompts: Prompts, prompts_per_forward: int | None = None) -> Prefix:
        """Run prompts once and keep their keys, values and last hidden states.

        Args:
            prompts: The prompts.
            prompts_per_forward: Prompts that are computed at the same time; None is all.

        Raises:
            RuntimeError: In training mode under gradient checkpointing, which computes everything twice.
        """
        if self.training and self.gradient_checkpointing:
            raise RuntimeError("Gradient checkpointing keeps no keys and values: prefill inside policy.scoring().")
        size = prompts_per_forward or len(prompts)
        chunks = [range(len(prompts))[first : first + size] for first in range(0, len(prompts), size)]
        parts = [prompts] if len(chunks) == 1 else [prompts.select(chunk) for chunk in chunks]
        columns = [self._prefill(part) for part in parts]
        features = [part.features for part in parts if part.features is not None]
        if features:
            prompts.features = torch.cat(features) if len(features) > 1 else features[0]
        return Prefix(prompts=prompts, own=join_columns(columns))

    def _prefill(self, prompts: Prompts) -> Columns:
        layout = pack([[] for _ in prompts.examples], prompts.positions())
        record: KeysValues = []
        attend = self._attend(layout, [], record)
        embeds_ND = self.embed(prompts)
        hidden_ND = self.language(embeds_ND, layout.positions_3S.to(embeds_ND.device), attend)
        return Columns(keys_values=record, hidden_CD=hidden_ND, spans=[(run.start, run.stop) for run in layout.runs])

    def logps(
        self,
        prompts: Prompts,
        trees: Sequence[Sequence[Branch]],
        prefix: Prefix | None = None,
        temperature: float = 1.0,
    ) -> tuple[Layout, Tensor]:
        """Log-probabilities of the scored tokens of branches that hang from prompts.

        Args:
            prompts: The prompts.
            trees: The branches of each. Where the prefix holds completions, those are the first branches, and the ones
                given here count on from them.
            prefix: The prompts' keys and values, where `prefill` has been run; else one row holds prompts and branches.
            temperature: Divides the logits, as in sampling (0 counts as 1, there too); beliefs are read at 1.

        Returns:
            The layout, whose `per_branch` and `per_token` shape the second item: float32 (M,).
        """
        device = prompts.ids_BL.device
        kept = [] if prefix is None else prefix.parts()
        columns = sum(len(part.hidden_CD) for part in kept)
        layout = pack(trees, prompts.positions(), None if prefix is None else prefix.kept(), columns)
        attend = self._attend(layout, [part.keys_values for part in kept])
        layout = layout.to(device)
        embeds_SD = self.embed_ids(layout.branch_ids)
        if prefix is None:
            embeds_SD = torch.cat([self.embed(prompts), embeds_SD]).index_select(0, layout.source_S)
        hidden_SD = self.language(embeds_SD, layout.positions_3S, attend)
        states_CD = torch.cat([*(part.hidden_CD for part in kept), hidden_SD]) if kept else hidden_SD
        hidden_MD = states_CD.index_select(0, layout.predictors_M)
        return layout, token_logps(self.logits, hidden_MD, layout.targets_M, temperature, together=self.lockstep)

    def forward(
        self, prompts: Prompts, trees: Sequence[Sequence[Branch]], temperature: float = 1.0
    ) -> tuple[Layout, Tensor]:
        """`logps` of prompts and branches as one row: the pass of training, by which sharding strategies keep step."""
        return self.logps(prompts, trees, temperature=temperature)

    def _attend(self, layout: Layout, kept: list[KeysValues], record: KeysValues | None = None) -> TreeAttend:
        device, dtype = self.model.lm_head.weight.device, self.model.dtype
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        kernel = resolve_tree_attention(self.tree_attention, device, dtype)
        return TreeAttend(layout, kernel, device, kept, self.text_config.hidden_size, record)

    def language(self, embeds_SD: Tensor, positions_3S: Tensor, attend: Attend) -> Tensor:
        """The language model's last hidden states (S, D) of one row of new tokens that attend as they are told."""
        out = self.model.model.language_model(
            inputs_embeds=embeds_SD[None],
            position_ids=positions_3S[:, None],
            attention_mask={"full_attention": attend},
            use_cache=False,
        )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    def logits(self, hidden_MD: Tensor) -> Tensor:
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
        generator: Randomness | None = None,
        static: bool | None = None,
    ) -> Completions:
        """Sample G completions of each prompt from its keys and values; the prefix then holds the completions' as well.

        Args:
            prefix: The prompts.
            group_size: G.
            max_new_tokens: Longest completion.
            temperature: 0 takes the likeliest token.
            generator: Source of randomness.
            static: Give every step the same shapes, and on CUDA capture it once and replay it; else completions that
                have ended are no longer computed. None is whether the model is on CUDA and its weights are whole.
        """
        if static is None:
            static = prefix.own.hidden_CD.is_cuda and not self.lockstep
        return Sampler(self, prefix, group_size, max_new_tokens, static).run(temperature, generator)
