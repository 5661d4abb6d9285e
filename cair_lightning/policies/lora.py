"""Low-rank adapters (peft) in the language model: trained instead of its weights, merged into them when they leave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from cair_lightning.policies.qwen import QwenVLPolicy

ADAPTER = "default"
BASE, LOW_RANK = ".base_layer.", ".lora_"


@dataclass(frozen=True, kw_only=True)  # no slots: jsonargparse reads the defaults of an instance through vars()
class LoraSettings:
    """Adapters of all linear layers of the language model's blocks; head, embeddings and vision tower stay as they are.

    No dropout: the log-probabilities of the update would not be those of sampling.
    """

    rank: int = 16
    alpha: float = 32.0
    """Adapters are scaled by alpha / rank."""


def add_lora(policy: QwenVLPolicy, settings: LoraSettings) -> None:
    """Put adapters in float32, which change nothing yet, into a policy, and freeze all else.

    Raises:
        ModuleNotFoundError: If peft is not installed.
        ValueError: If the rank is below 1.
    """
    if settings.rank < 1:
        raise ValueError(f"expected loading.lora.rank >= 1, got {settings.rank}.")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'model.loading.lora needs peft: pip install "cair-lightning[lora]".', name="peft"
        ) from error
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type] # peft declares int and divides
        target_modules=r".*language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj",
    )
    inject_adapter_in_model(config, policy.model, ADAPTER)
    for layer in lora_layers(policy.model).values():  # in bfloat16 most of an update would be lost in rounding
        layer.lora_A[ADAPTER].float()
        layer.lora_B[ADAPTER].float()


def lora_layers(module: nn.Module) -> dict[str, Any]:
    """The layers of a module that have adapters, by name."""
    return {name: layer for name, layer in module.named_modules() if hasattr(layer, "lora_A")}


def merged(name: str, value: Tensor, layers: dict[str, Any]) -> tuple[str, Tensor] | None:
    """An entry of the `state_dict` of a module with adapters as that of one without: None for the adapters themselves.

    Args:
        name: Name of the entry.
        value: Its value.
        layers: `lora_layers` of the module.
    """
    if LOW_RANK in name:
        return None
    if BASE not in name:
        return name, value
    layer, _, kind = name.rpartition(BASE)
    if kind == "weight":
        value = value + layers[layer].get_delta_weight(ADAPTER).to(value.dtype)
    return f"{layer}.{kind}", value


def merge_lora(policy: QwenVLPolicy) -> None:
    """Add the adapters to the weights and take them out, for a policy that is used as it is."""
    for name, layer in lora_layers(policy.model).items():
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(policy.model.get_submodule(parent), child, layer.get_base_layer())
    policy.requires_grad_(True)


class WithoutAdapters:
    """The policy as it was before its adapters were trained: pi_ref without a second model.

    Args:
        policy: A policy with adapters.
    """

    def __init__(self, policy: QwenVLPolicy) -> None:
        self.policy = policy

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """As the policy's, with the adapters switched off."""
        layers = lora_layers(self.policy.model).values()
        for layer in layers:
            layer.enable_adapters(False)
        try:
            with self.policy.scoring():
                yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the policy's own
        """The policy's forward pass; inside `scoring` only."""
        return self.policy(*args, **kwargs)
