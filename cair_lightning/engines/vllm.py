"""Rollouts by vLLM servers, beside the trainer."""
# ruff: noqa: B008 - settings are defaults that nobody writes to

from __future__ import annotations

import atexit
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from lightning import Trainer
from torch import Tensor

from cair_lightning.engines.base import EngineError, RolloutEngine, Sampled
from cair_lightning.engines.client import LostError, VLLMServer
from cair_lightning.engines.fleet import Fleet, Loop, Member
from cair_lightning.engines.process import OwnServer, OwnSettings
from cair_lightning.engines.serving.cair_broadcast import open_group, send
from cair_lightning.engines.weights import Weights, write_weights
from cair_lightning.engines.wire import completions_of, requests_of
from cair_lightning.policies.batch import Prompts
from cair_lightning.policies.prefix import Prefix
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.policies.sampling import Completions, Randomness, SamplingSettings

T = TypeVar("T")

TEXT_NUMBERS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
)  # fmt: skip
VISION_NUMBERS = ("depth", "hidden_size", "out_hidden_size", "patch_size", "spatial_merge_size", "tokens_per_second")


class VLLMRollouts(RolloutEngine):
    """vLLM samples, in its own processes, while the trainer runs the prompts through its own copy of the weights.

    Weights go through shared memory before every rollout, so that servers and rank 0 have to be on one host, or share a
    folder. A server that dies or stalls while it samples is started again, where it is ours, and asked again for what
    it has not answered.

    Args:
        servers: Base URLs of servers that run already, as http://127.0.0.1:8000; none starts some here. How one is
            started is in docs/vllm.md.
        own: How servers are started here, where no address is given.
        dtype: What weights are sent in, and the servers that are started here compute in.
        transfer: How weights get to the servers: `files` in `weights_folder`, which a server that was lost can load
            again, or `broadcast` from rank 0's device to theirs (NCCL; gloo without CUDA), faster and once: a lost
            server then ends the run.
        weights_folder: Where weights are written for the servers: memory that all of them can read.
        address: For `broadcast`, this host as the servers reach it.
        importance_cap: Largest weight of a token whose probability differs between server and trainer; None does not
            correct the gradient.
        stall_seconds: How long a server may neither read nor draw a token, or take for new weights.

    Raises:
        ValueError: If an address is no URL, or an option is out of range.
    """

    def __init__(
        self,
        servers: Sequence[str] = (),
        own: OwnSettings = OwnSettings(),
        dtype: Literal["bfloat16", "float32"] = "bfloat16",
        transfer: Literal["files", "broadcast"] = "files",
        weights_folder: str = "/dev/shm",
        address: str = "127.0.0.1",
        importance_cap: float | None = 2.0,
        stall_seconds: float = 60.0,
    ) -> None:
        if stall_seconds <= 0 or (importance_cap is not None and importance_cap < 1):
            raise ValueError(
                "rollout_engine: expected stall_seconds > 0, and importance_cap >= 1 or None, got "
                f"{stall_seconds} and {importance_cap}"
            )
        own.check()
        self.given = [VLLMServer(url, stall_seconds) for url in servers]
        self.own, self.dtype, self.weights_folder = own, dtype, weights_folder
        self.transfer, self.address = transfer, address
        self._group: Any = None
        self.importance_cap, self.stall_seconds = importance_cap, stall_seconds
        self.fleet: Fleet | None = None
        """The servers, once they have been started."""
        self._loop: Loop | None = None
        self._trainer: Trainer | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._run = self._label = ""
        self._pushes = 0
        self._temperature = 1.0

    # ------------------------------------------------------------------------------------------------ start and stop

    def start(self, trainer: Trainer, policy: QwenVLPolicy, sampling: SamplingSettings) -> None:
        """Start the servers, or refuse those that were given where they will not do.

        Raises:
            EngineError: If there is no vLLM of the tested versions, or a server cannot be used.
        """
        self._trainer, self._temperature, self._loop = trainer, sampling.temperature, Loop()
        atexit.register(self.stop)
        expected = _numbers(policy)

        def first() -> tuple[str, list[str]]:
            if not Path(self.weights_folder).is_dir():
                raise EngineError(
                    f"rollout_engine.weights_folder: {self.weights_folder} is no folder; expected memory that the "
                    "servers can read, or a folder on disk."
                )
            self._folder = tempfile.TemporaryDirectory(prefix="cair-", dir=self.weights_folder)
            self._join(self._members(policy), expected)
            assert self.fleet is not None
            if self.transfer == "broadcast":
                self._open_group()
            return uuid.uuid4().hex[:8], [member.server.url for member in self.fleet.members]

        self._run, urls = self._together(first)
        if not trainer.is_global_zero:
            servers = [VLLMServer(url, self.stall_seconds) for url in urls]
            self._join([Member(server, ours=not self.given) for server in servers], expected)

    def _members(self, policy: QwenVLPolicy) -> list[Member]:
        """The servers as rank 0 has them."""
        if self.given:
            return [Member(server) for server in self.given]
        assert self._trainer is not None
        logs = Path(self._trainer.default_root_dir)
        launches = self.own.launches(str(policy.model.name_or_path), self.dtype, logs)
        owned = [OwnServer(launch) for launch in launches]
        return [Member(VLLMServer(own.url, self.stall_seconds), own, ours=True) for own in owned]

    def _join(self, members: list[Member], expected: dict[str, dict[str, Any]]) -> None:
        assert self._loop is not None
        self.fleet = Fleet(members, self.own.start_seconds)
        self._loop.run(self.fleet.start(expected))

    def _open_group(self) -> None:
        """Meet all servers' workers."""
        assert self._trainer is not None
        assert self._loop is not None
        assert self.fleet is not None
        with socket.socket() as free:
            free.bind((self.address, 0))
            port: int = free.getsockname()[1]
        joined = self._loop.submit(self.fleet.join(self.address, port))
        device, size = self._trainer.strategy.root_device, 1 + self.fleet.workers
        try:
            self._group = open_group(self.address, port, 0, size, device, self.stall_seconds)
            joined.result()
        except (RuntimeError, LostError) as error:
            raise EngineError(
                f"The vLLM servers did not meet rank 0 at {self.address}:{port} ({error}); name an address of this "
                "host that they reach (rollout_engine.address), or set rollout_engine.transfer to files."
            ) from error

    def stop(self) -> None:
        """Stop the servers that were started here."""
        atexit.unregister(self.stop)
        if self._loop is not None:
            if self.fleet is not None:
                self._loop.run(self.fleet.stop())
            self._loop.close()
        if self._folder is not None:
            self._folder.cleanup()
        self._loop = self.fleet = self._folder = self._group = None

    def _together(self, action: Callable[[], T]) -> T:
        """What an action of rank 0 returns, or its failure, on every rank."""
        assert self._trainer is not None
        outcome: tuple[T | None, str | None] = (None, None)
        if self._trainer.is_global_zero:
            try:
                outcome = (action(), None)
            except EngineError as error:
                outcome = (None, str(error))
        value, problem = self._trainer.strategy.broadcast(outcome)
        if problem is not None:
            self.stop()
            raise EngineError(problem)
        return value  # type: ignore[return-value]

    # ------------------------------------------------------------------------------------------------------- a rollout

    def take_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Give the servers new weights; rank 0 does.

        Raises:
            EngineError: If they cannot be written, or a server does not take them.
        """
        assert self._trainer is not None
        self._trainer.strategy.barrier()  # no rank waits for completions of the earlier weights any more
        self._pushes += 1
        self._label = f"{self._run}-step{version}-{self._pushes}"  # never used twice

        def push() -> None:
            assert self.fleet is not None
            assert self._loop is not None
            assert self._folder is not None
            dtype, label, temperature = getattr(torch, self.dtype), self._label, self._temperature
            if self._group is not None:
                self._broadcast(weights, Weights(label=label, paths=None, temperature=temperature), dtype)
                return
            paths = write_weights(weights, Path(self._folder.name), label, dtype)
            previous = self.fleet.weights
            self._loop.run(self.fleet.push(Weights(label=label, paths=paths, temperature=temperature)))
            if previous is not None:
                previous.remove()

        if not self._trainer.is_global_zero:
            for _ in weights:  # which all ranks gather together
                pass
        self._together(push)

    def _broadcast(self, values: Iterable[tuple[str, Tensor]], weights: Weights, dtype: torch.dtype) -> None:
        """Send weights while the servers receive them."""
        assert self._trainer is not None
        assert self._loop is not None
        assert self.fleet is not None
        taken = self._loop.submit(self.fleet.push(weights))
        try:
            send(self._group, values, self._trainer.strategy.root_device, dtype)
        except RuntimeError as error:  # it is the servers who know why
            raise EngineError(f"A vLLM server did not receive the weights: {taken.exception() or error}") from error
        taken.result()

    def begin(
        self,
        policy: QwenVLPolicy,
        prompts: Prompts,
        sampling: SamplingSettings,
        randomness: Randomness | None,
    ) -> Sampled:
        """Ask the servers; they are at it while the trainer runs the prompts.

        Raises:
            ValueError: If a prompt and its completions are longer than what the servers take.
        """
        assert self.fleet is not None
        assert self._loop is not None
        assert self._trainer is not None
        longest = int(prompts.mask_BL.sum(1).max()) + sampling.max_new_tokens
        if longest > self.fleet.max_model_len:
            raise ValueError(
                f"A prompt and its completion have up to {longest} tokens, and the vLLM servers take "
                f"{self.fleet.max_model_len}: start them with --max-model-len={longest} or more."
            )
        requests = requests_of(policy, prompts, sampling, randomness, self._label)
        answers = self._loop.submit(self.fleet.sample(requests, self._trainer.global_rank * len(prompts)))

        def sampled(prefix: Prefix) -> Completions:
            samples = [sample for group in answers.result() for sample in group]
            return completions_of(samples, policy, prefix.own.hidden_CD.device)

        return sampled


def _numbers(policy: QwenVLPolicy) -> dict[str, dict[str, Any]]:
    """What a server's configuration has to say for the policy's weights to fit."""
    config = policy.model.config
    return {
        "text_config": {name: getattr(config.text_config, name) for name in TEXT_NUMBERS},
        "vision_config": {name: getattr(config.vision_config, name) for name in VISION_NUMBERS},
    }
