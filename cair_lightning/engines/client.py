"""One vLLM server over HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any, NoReturn

import httpx2

from cair_lightning.engines.base import EngineError
from cair_lightning.engines.process import LAUNCHER, refuse_version
from cair_lightning.engines.weights import Weights
from cair_lightning.engines.wire import Request, Sample, StaleReplyError

LOOK_S = 1.0
"""Seconds between two looks at a server."""
CONNECT_S = 5.0
DEFAULT_S = -1.0
HTTP_BROKEN = 500
SHOWN = 300
"""Characters of an answer that a message quotes."""
# Counters that grow with every token that is read or drawn.
_TOKENS = re.compile(r"^vllm:(?:generation|prompt)_tokens_total\{[^}]*\} (\S+)$", re.MULTILINE)


class LostError(Exception):
    """A server is dead or stalled, or does not have the weights that it was given. Says what was seen."""


class VLLMServer:
    """What rollouts need of a server. All of it is used from one event loop.

    Args:
        url: Base URL, as http://127.0.0.1:8000.
        patience: Seconds in which it must draw or read a token, or do what it is told.

    Raises:
        ValueError: If the address is no URL of http or https.
    """

    def __init__(self, url: str, patience: float) -> None:
        self.url, self.patience = url.rstrip("/").removesuffix("/v1"), patience
        if not re.fullmatch(r"https?://[^/\s]+", self.url):
            raise ValueError(f"rollout_engine.servers: expected a base URL, as http://127.0.0.1:8000, got {url!r}.")
        self.workers = 1
        """Processes that hold its weights, as `check` found them."""
        self._client: httpx2.AsyncClient | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    # ----------------------------------------------------------------------------------------------------- what it is

    async def healthy(self) -> bool:
        """Whether it answers, and its engine lives."""
        try:
            await self._call("GET", "/health", seconds=CONNECT_S)
        except LostError:
            return False
        return True

    async def check(self, expected: dict[str, dict[str, Any]]) -> int:
        """Refuse another server than is needed.

        Args:
            expected: Numbers of the model's configuration, by part.

        Returns:
            The longest sequence that it serves.

        Raises:
            EngineError: If it does not answer, is another program, version or model, or was started otherwise.
        """
        try:
            version = (await self._call("GET", "/version", seconds=10.0)).get("version")
        except LostError as lost:
            raise EngineError(
                f"{self.url} {lost}; expected a vLLM server there. Check rollout_engine.servers and that it runs, or "
                "leave the list empty to have one started."
            ) from lost
        refuse_version(str(version), self.url)
        try:
            described = await self._rpc("cair_describe")
        except (EngineError, LostError) as error:
            raise EngineError(
                f"{self.url} was started without what rollouts need of it ({error}); start it with {LAUNCHER.name}: "
                f"PYTHON_WITH_VLLM {LAUNCHER} --model CHECKPOINT --port PORT."
            ) from error
        found, self.workers = described[0], len(described)
        for part, numbers in expected.items():
            for name, value in numbers.items():
                if (other := found[part].get(name)) != value:
                    raise EngineError(
                        f"{self.url} serves another model: {part}.{name} is {other}, expected {value}, as in "
                        "model.policy. Start it with the checkpoint of model.policy."
                    )
        return int(found["served"]["max_model_len"])

    async def label(self) -> str | None:
        """Names the weights that it has; None where it does not answer."""
        try:
            return str((await self._call("GET", "/weight_info", seconds=CONNECT_S)).get("weight_version"))
        except LostError:
            return None

    # ------------------------------------------------------------------------------------------------- what it does

    async def take(self, weights: Weights) -> None:
        """Load weights and forget what was computed with others. Requests that still run are broken off.

        Raises:
            LostError: If it did not; its weights are then neither the old nor the new ones.
        """
        await self._call("POST", "/pause?mode=abort")
        temperature = str(weights.temperature or 1.0)
        if weights.paths is None:
            await self._rpc("cair_receive_weights", temperature)
        else:
            await self._rpc("cair_take_weights", [str(path) for path in weights.paths], temperature)
        # Keys and values of prompts, and features of clips: either would be used without an error.
        reset = await self._call("POST", "/reset_prefix_cache")
        await self._call("POST", "/reset_encoder_cache")
        if not reset.get("success"):
            raise LostError("did not reset its prefix cache")
        await self._call("POST", "/update_weight_version", {"new_version": weights.label})
        await self._call("POST", "/resume")

    async def join(self, address: str, port: int, first: int, size: int) -> None:
        """Join the group in which weights are broadcast; see `CairWorker.cair_join`."""
        await self._rpc("cair_join", address, str(port), str(first), str(size), str(self.patience))

    async def sample(self, request: Request) -> list[Sample]:
        """The completions of one prompt; waits as long as it takes.

        Raises:
            LostError: If the server was lost meanwhile, or other weights sampled.
            EngineError: If it refuses the request, or answers something else.
        """
        body = await asyncio.to_thread(request.body)
        reply = await self._call("POST", "/inference/v1/generate", body, seconds=None)
        try:
            return request.read(reply)
        except StaleReplyError as stale:
            raise LostError(str(stale)) from stale
        except EngineError as error:
            raise EngineError(f"{self.url}: {error}") from error

    async def watch(self) -> NoReturn:
        """Look at it until it is lost.

        Raises:
            LostError: If for `patience` seconds it did not answer, or neither read nor drew a token of a request.
        """
        last: tuple[float, ...] | None = None
        since = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            now = await self._progress()
            if now is not None and (now != last or not now[0]):
                last, since = now, time.monotonic()
            elif (waited := time.monotonic() - since) > self.patience:
                what = "did not answer" if now is None else "neither read nor drew a token"
                raise LostError(f"{what} for {waited:.0f} s")

    async def _progress(self) -> tuple[float, ...] | None:
        """Requests in progress, and tokens that were read and drawn so far; None where it does not answer."""
        try:
            load = await self._call("GET", "/load", seconds=CONNECT_S)
            metrics = await self._text("GET", "/metrics", seconds=CONNECT_S)
        except LostError:
            return None
        return float(load["server_load"]), *map(float, _TOKENS.findall(metrics))

    # -------------------------------------------------------------------------------------------------------- calls

    async def _rpc(self, method: str, *arguments: object) -> list[Any]:
        """Call a method on every worker; returns what each says."""
        answer = await self._call("POST", "/collective_rpc", {"method": method, "args": arguments})
        results: list[Any] = answer["results"]
        return results

    async def _call(
        self, verb: str, path: str, content: object = None, seconds: float | None = DEFAULT_S
    ) -> dict[str, Any]:
        """What a route answers, in JSON; nothing where it answers nothing."""
        text = await self._text(verb, path, content, seconds)
        try:
            answer = json.loads(text or "{}")
        except ValueError as error:
            raise EngineError(f"{self.url}{path}: expected JSON, got {text[:SHOWN]!r}.") from error
        return answer if isinstance(answer, dict) else {"answer": answer}

    async def _text(self, verb: str, path: str, content: object = None, seconds: float | None = DEFAULT_S) -> str:
        """What a route answers.

        Args:
            verb: GET or POST.
            path: The route.
            content: What to send, in JSON or to be put into it.
            seconds: How long it may take; `DEFAULT_S` is `patience`, None as long as it takes.

        Raises:
            LostError: If it does not answer in time, or has failed.
            EngineError: If it refuses.
        """
        if self._client is None:  # made in the loop that it is used from; a server here or near by needs no proxy
            self._client = httpx2.AsyncClient(trust_env=False, limits=httpx2.Limits(max_connections=None))
        timeout = httpx2.Timeout(self.patience if seconds == DEFAULT_S else seconds, connect=CONNECT_S)
        body = content if content is None or isinstance(content, bytes) else json.dumps(content).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            response = await self._client.request(verb, self.url + path, content=body, headers=headers, timeout=timeout)
        except httpx2.TransportError as error:
            raise LostError(f"does not answer {path} ({type(error).__name__}: {error})") from error
        if response.status_code >= HTTP_BROKEN:
            raise LostError(f"failed at {path} with HTTP {response.status_code}: {response.text[:SHOWN]}")
        if not response.is_success:
            raise EngineError(f"{self.url}{path}: HTTP {response.status_code}: {response.text[:SHOWN]}")
        return response.text
