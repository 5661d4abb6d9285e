"""Several vLLM servers that share the prompts, and what happens when one of them is lost."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cair_lightning.engines.base import EngineError
from cair_lightning.engines.client import LOOK_S, LostError, VLLMServer
from cair_lightning.engines.process import OwnServer
from cair_lightning.engines.weights import Weights
from cair_lightning.engines.wire import Request, Sample

LOSSES = 3
"""How often a server may be lost over the same prompts; then it is their fault, or cannot be helped."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Loop:
    """An event loop in a thread of its own, so that servers are looked after while the trainer computes."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Begin to do something."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do something and wait for it."""
        return self.submit(work).result()

    def close(self) -> None:
        """End the thread; what is still being done is broken off."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@dataclass(slots=True)
class Member:
    """A server of the fleet."""

    server: VLLMServer
    own: OwnServer | None = None
    """Its process, where this rank started it."""
    ours: bool = False
    """Whether some rank of the run started it, and will start it again."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while it is started, or loads weights."""
    keeper: asyncio.Task[None] | None = None
    broken: str | None = None
    """Why it could not be started again."""


class Fleet:
    """Servers that have the same weights. All coroutines run in one loop.

    Args:
        members: The servers.
        start_seconds: How long a server may take to start.
    """

    def __init__(self, members: Sequence[Member], start_seconds: float) -> None:
        self.members, self.start_seconds = list(members), start_seconds
        self.weights: Weights | None = None
        """What every server has, or is to have."""
        self._delivered = False
        self.max_model_len = 0
        self.restarts = 0

    async def start(self, expected: dict[str, dict[str, Any]]) -> None:
        """Start the servers that are ours, refuse servers that will not do, and look after ours from now on.

        Args:
            expected: Numbers of the model's configuration, by part.

        Raises:
            EngineError: If a server cannot be used.
        """
        await _all(self._launch(member) for member in self.members if member.own is not None)
        lengths = await _all(member.server.check(expected) for member in self.members)
        self.max_model_len = min(lengths)
        for member in self.members:
            if member.own is not None:
                member.keeper = asyncio.create_task(self._keep(member))

    async def stop(self) -> None:
        """Stop the servers that this rank started, and close all connections."""
        keepers = [member.keeper for member in self.members if member.keeper is not None]
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        for member in self.members:
            await member.server.close()
            if member.own is not None:
                member.own.stop()  # in this thread: when Python ends there are no others any more

    async def push(self, weights: Weights) -> None:
        """Give all servers new weights.

        Raises:
            EngineError: If one of them does not take them.
        """
        self.weights, self._delivered = weights, False
        await _all(self._push(member, weights) for member in self.members)
        self._delivered = True

    @property
    def workers(self) -> int:
        """Processes that hold the servers' weights."""
        return sum(member.server.workers for member in self.members)

    async def join(self, address: str, port: int) -> None:
        """Have all workers join the group in which rank 0, at an address, broadcasts weights."""
        firsts = itertools.accumulate((member.server.workers for member in self.members), initial=1)
        size = 1 + self.workers
        await _all(m.server.join(address, port, first, size) for m, first in zip(self.members, firsts, strict=False))

    async def _push(self, member: Member, weights: Weights) -> None:
        try:
            await self._give(member)
        except LostError as lost:
            if member.own is not None:  # what it holds now is anybody's guess
                await asyncio.to_thread(member.own.kill)
            await self._regain(member, weights.label, str(lost))

    async def sample(self, requests: Sequence[Request], first: int = 0) -> list[list[Sample]]:
        """The completions of each prompt, in order; each is taken from one answer.

        Args:
            requests: The prompts.
            first: The place of the first one among those of all ranks, by which they are spread over the servers.

        Raises:
            EngineError: If a server is lost that is not ours, or ours too often.
        """
        done: dict[int, list[Sample]] = {}
        shares: dict[int, list[int]] = {}
        for place in range(len(requests)):
            shares.setdefault((first + place) % len(self.members), []).append(place)
        await _all(self._share(self.members[m], requests, places, done) for m, places in shares.items())
        return [done[place] for place in range(len(requests))]

    async def _share(
        self, member: Member, requests: Sequence[Request], places: Sequence[int], done: dict[int, list[Sample]]
    ) -> None:
        """Have one server answer some requests; what it has not answered when it is lost is asked again."""
        reason = ""
        for _ in range(LOSSES):
            missing = [place for place in places if place not in done]
            try:
                await self._ask(member, requests, missing, done)
            except LostError as lost:
                reason = str(lost)
                await self._regain(member, requests[0].label, reason)
            else:
                return
        url = member.server.url
        raise EngineError(f"{url} was lost {LOSSES} times over the same prompts; the last time it {reason}.")

    async def _ask(
        self, member: Member, requests: Sequence[Request], places: Sequence[int], done: dict[int, list[Sample]]
    ) -> None:
        """Ask everything at once, and look at the server meanwhile."""

        async def one(place: int) -> None:
            done[place] = await member.server.sample(requests[place])

        watch = asyncio.create_task(member.server.watch())
        asked = asyncio.ensure_future(_all(one(place) for place in places))
        try:
            await asyncio.wait({watch, asked}, return_when=asyncio.FIRST_COMPLETED)
            (asked if asked.done() else watch).result()
        finally:
            for task in (watch, asked):
                task.cancel()
            await asyncio.gather(watch, asked, return_exceptions=True)

    # ---------------------------------------------------------------------------------------------------- recovery

    async def _regain(self, member: Member, label: str, reason: str) -> None:
        """Wait until a lost server has its weights again.

        Raises:
            EngineError: If nobody will start it again, or that fails.
        """
        url = member.server.url
        if not member.ours:
            raise EngineError(
                f"The vLLM server at {url} {reason}. It is not ours to start again: start it, and resume the run from "
                "its last checkpoint."
            )
        _log.warning("The vLLM server at %s %s; it is started again and asked again.", url, reason)
        deadline = time.monotonic() + self.start_seconds + member.server.patience
        while await member.server.label() != label:
            if member.broken is not None:
                raise EngineError(member.broken)
            if time.monotonic() > deadline:
                waited = self.start_seconds + member.server.patience
                raise EngineError(f"The vLLM server at {url} {reason}, and is not back after {waited:.0f} s.")
            await asyncio.sleep(LOOK_S)
            if member.own is not None and member.own.ended is None and await member.server.healthy():
                with suppress(LostError):  # it lives, but another run gave it weights
                    await self._give(member)

    async def _give(self, member: Member) -> None:
        """Give a server the newest weights, where it has others."""
        async with member.lock:
            if self.weights is not None and await member.server.label() != self.weights.label:
                await self._load(member, self.weights)

    async def _load(self, member: Member, weights: Weights) -> None:
        if weights.paths is None and self._delivered:
            raise EngineError(
                f"The vLLM server at {member.server.url} was lost, and its weights with it: what is broadcast is gone "
                "when it has been sent. Resume from the last checkpoint; with rollout_engine.transfer files it would "
                "have been given them again."
            )
        await member.server.take(weights)

    async def _keep(self, member: Member) -> None:
        """Start a server of ours again whenever it is lost."""
        assert member.own is not None
        while True:
            try:
                await self._until_lost(member)
            except LostError as lost:
                _log.warning("The vLLM server at %s %s.", member.server.url, lost)
            try:
                async with member.lock:
                    await asyncio.to_thread(member.own.kill)
                    await self._launch(member)
                    self.restarts += 1
                    if self.weights is not None:
                        await self._load(member, self.weights)
            except (EngineError, LostError) as error:
                member.broken = f"The vLLM server at {member.server.url} could not be started again: {error}"
                return

    async def _until_lost(self, member: Member) -> None:
        """Wait until a server of ours ends or stalls."""
        assert member.own is not None
        watch = asyncio.create_task(member.server.watch())
        try:
            while member.own.ended is None:
                await asyncio.wait({watch}, timeout=LOOK_S)
                if watch.done():
                    watch.result()
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        raise LostError(member.own.ended)

    async def _launch(self, member: Member) -> None:
        """Start a server of ours and wait until it answers."""
        own = member.own
        assert own is not None
        own.start()
        deadline = time.monotonic() + self.start_seconds
        while not await member.server.healthy():
            if own.ended is None and time.monotonic() < deadline:
                await asyncio.sleep(LOOK_S)
                continue
            why = own.ended or f"did not answer within {self.start_seconds:.0f} s (rollout_engine.own.start_seconds)"
            await asyncio.to_thread(own.kill)
            raise EngineError(f"The vLLM server at {own.url} {why}. The end of {own.launch.log}:\n{own.tail()}")


async def _all(work: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Do several things at once; the first error breaks the others off."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
