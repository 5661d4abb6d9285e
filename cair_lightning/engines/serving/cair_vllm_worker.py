"""What vLLM's workers learn for rollouts; vLLM imports this by name and mixes the class into its worker."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

Plain = bool | int | float | str


class CairWorker:
    """Methods that the server's `/collective_rpc` calls on every worker."""

    def cair_describe(self) -> dict[str, dict[str, Plain]]:
        """The numbers of the model's configuration, by part, and the longest sequence that is served."""
        worker: Any = self
        model = worker.vllm_config.model_config
        config = model.hf_config.to_dict()
        parts = {part: _plain(config[part]) for part in ("text_config", "vision_config")}
        return parts | {"served": {"max_model_len": model.max_model_len}}

    def cair_take_weights(self, paths: list[str], temperature: str) -> dict[str, int]:
        """Load weights from safetensors files, and divide logits by a temperature.

        vLLM reports log-probabilities either without temperature or of the tokens that may be drawn only. Divided
        inside the model, they are those of the whole distribution at the temperature, which is what training scores.

        Args:
            paths: The files, which hold each weight of the Hugging Face model once.
            temperature: What logits are divided by, as text: the route takes nothing else.
        """
        return self._cair_load(_tensors(paths), temperature)

    def cair_join(self, address: str, port: str, first: str, size: str, seconds: str) -> None:
        """Join the group in which a trainer sends weights.

        Args:
            address: Where the trainer listens.
            port: At which port.
            first: The place in the group of this server's first worker.
            size: How many the group has, the trainer included.
            seconds: How long to wait for the others.
        """
        worker: Any = self
        self._cair_group = None  # one of an earlier run
        place = int(first) + worker.rank
        ends = import_module("cair_broadcast")  # beside this file, which is no package here
        self._cair_group = ends.open_group(address, int(port), place, int(size), worker.device, float(seconds))

    def cair_receive_weights(self, temperature: str) -> dict[str, int]:
        """As `cair_take_weights`, from the group that was joined."""
        worker: Any = self
        ends = import_module("cair_broadcast")
        return self._cair_load(ends.receive(self._cair_group, worker.device), temperature)

    def _cair_load(self, weights: Iterator[tuple[str, Any]], temperature: str) -> dict[str, int]:
        worker: Any = self
        worker.reload_weights(weights_iterator=weights, is_checkpoint_format=True)
        scaled = 0
        for module in worker.model_runner.get_model().modules():
            if type(module).__name__ == "LogitsProcessor":
                module.scale = 1.0 / float(temperature)
                scaled += 1
        return {"scaled": scaled}


def _plain(config: dict[str, Any]) -> dict[str, Plain]:
    return {name: value for name, value in config.items() if isinstance(value, (bool, int, float, str))}


def _tensors(paths: list[str]) -> Iterator[tuple[str, Any]]:
    from safetensors import safe_open

    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                yield name, file.get_tensor(name)
