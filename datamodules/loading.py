"""Loaders whose order depends on seed and epoch alone, that resume where they stopped and feed whole steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from cair_lightning.policies.batch import Prompts
from cair_lightning.policies.collation import Collator
from cair_lightning.structures import Example, Form

Key = tuple[int, Form, bool]
"""Index of an example, the form in which it is asked, and whether it counts (False: it only fills up a batch)."""


@dataclass(slots=True, kw_only=True)
class Window:
    """One part of the window of samples that one optimiser step (or several updates of one rollout) works on."""

    prompts: Prompts | None
    """The part's prompts; in RL the whole window's with its first part and None afterwards."""
    part: int = 0
    parts: int = 1
    n_targets: int = 0
    """SFT's target tokens in the whole window on this rank."""
    upcoming: Prompts | None = None
    """The next window's prompts, for who begins with them early; None at the end of an epoch."""
    recalled: list[Any] | None = None
    """Predictions of an earlier run for all of the window, which then has no prompts; None where it has to be computed.
    """

    def to(self, device: torch.device) -> Window:
        """Copy with all tensors on a device."""
        if self.prompts is None:
            return self
        upcoming = None if self.upcoming is None else self.upcoming.to(device)
        return replace(self, prompts=self.prompts.to(device), upcoming=upcoming)


Split = Callable[[Prompts, int], Iterator[Window]]


def micro_batches(prompts: Prompts, parts: int) -> Iterator[Window]:
    """SFT: a different slice of the window with every part."""
    counted = [len(c) for c, ok in zip(prompts.completions or [], prompts.valid_B.tolist(), strict=True) if ok]
    for part, rows in enumerate(np.array_split(np.arange(len(prompts)), parts)):
        yield Window(prompts=prompts.select(rows.tolist()), part=part, parts=parts, n_targets=sum(counted))


def whole_window(prompts: Prompts, parts: int) -> Iterator[Window]:
    """RL: the whole window with the first part; the module keeps the rollout for the others."""
    for part in range(parts):
        yield Window(prompts=None if part else prompts, part=part, parts=parts)


class EpochSampler(Sampler[list[Key]]):
    """Batches of one rank in an order that depends on seed and epoch alone.

    Every rank yields as many batches of the same size. Where the examples do not fill the last one, training goes
    round to the epoch's first ones again, and evaluation repeats some with the mark that they do not count.

    Args:
        size: Number of examples.
        batch_size: Examples of a batch on this rank.
        shuffle: Draw a new order each epoch (training); else keep the order and mark fillers (evaluation).
        direct_fraction: Share of the examples that is asked in the direct form, drawn anew each epoch.
        seed: Seed of order and forms.
        rank: This rank.
        world_size: Number of ranks.
        direct_only: Indices of examples that are always asked in the direct form.

    Raises:
        ValueError: If `batch_size` is below 1 or `direct_fraction` is no share.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        shuffle: bool,
        direct_fraction: float = 0.0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        direct_only: Collection[int] = (),
    ) -> None:
        if batch_size < 1 or not 0 <= direct_fraction <= 1:
            raise ValueError(
                f"expected data.batch_size >= 1 and 0 <= data.direct_fraction <= 1, got {batch_size}, {direct_fraction}"
            )
        self.size, self.batch_size, self.shuffle, self.direct_fraction = size, batch_size, shuffle, direct_fraction
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.direct_only = frozenset(direct_only)
        self.epoch = 0
        self.skip = 0
        """Batches that are left out at the beginning of the next pass, after a resume."""
        self.left_out: frozenset[int] = frozenset()
        """Batches that no pass yields, because somebody else knows what they come to."""

    @property
    def step(self) -> int:
        """Examples that all ranks take together with each batch."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        return -(-self.size // self.step)

    def __iter__(self) -> Iterator[list[Key]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.size) if self.shuffle else np.arange(self.size)
        forms: list[Form] = ["direct" if draw < self.direct_fraction else "reason" for draw in rng.random(self.size)]
        for index in self.direct_only:
            forms[index] = "direct"
        for batch in (batch for batch in range(self.skip, len(self)) if batch not in self.left_out):
            first = batch * self.step + self.rank * self.batch_size
            places = range(first, first + self.batch_size)
            indices = [int(order[place % self.size]) for place in places]
            counts = [self.shuffle or place < self.size for place in places]
            yield [(i, forms[i], ok) for i, ok in zip(indices, counts, strict=True)]


class _Examples(Dataset[tuple[Example, Form, bool]]):
    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __getitem__(self, key: Key) -> tuple[Example, Form, bool]:
        return self.examples[key[0]], key[1], key[2]


class _Collate:
    """Runs the collator in the worker and marks fillers as not valid."""

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __call__(self, items: Sequence[tuple[Example, Form, bool]]) -> Prompts:
        prompts = self.collator([(example, form) for example, form, _ in items])
        prompts.valid_B &= torch.tensor([counts for _, _, counts in items])
        return prompts


class WindowLoader:
    """Windows of collated prompts, cut into the parts that one optimiser step accumulates.

    Its state belongs into a checkpoint: a run that was stopped within an epoch then goes on with the sample it would
    have come to.

    Args:
        examples: The examples of one split.
        collator: Turns them into prompts, in worker processes.
        order: Their order. (Lightning would probe an attribute `sampler` as that of a DataLoader.)
        split: How a window is cut into parts.
        parts: Number of parts.
        num_workers: Loader processes; 0 decodes in the main process.
        refuse: Called with the failures (id, reason) of each window in the main process; it raises if there are
            too many.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        collator: Collator,
        order: EpochSampler,
        split: Split,
        parts: int = 1,
        num_workers: int = 0,
        refuse: Callable[[Sequence[tuple[str, str]]], None] = lambda failures: None,
    ) -> None:
        self.examples = examples
        self.ahead = False
        """Give the first part of each window the prompts of the next one as well."""
        self.order, self.split, self.parts, self.refuse = order, split, parts, refuse
        self.done = self._resumed_at = 0
        self.loader: DataLoader[Prompts] = DataLoader(
            _Examples(examples),  # type: ignore[arg-type]
            batch_sampler=order,
            collate_fn=_Collate(collator),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def __len__(self) -> int:
        return len(self.order) * self.parts

    def __iter__(self) -> Iterator[Window]:
        if self.done == len(self):  # not at the end of a pass: whoever knows the length never asks for what follows it
            self.order.epoch += 1
        self.done, self._resumed_at = self._resumed_at, 0
        self.order.skip, first_part = divmod(self.done, self.parts)
        for prompts, upcoming in self._pairs():
            self.refuse(prompts.failures)
            for window in self.split(prompts, self.parts):
                if window.part == 0:
                    window.upcoming = upcoming
                if window.part >= first_part:
                    self.done += 1
                    yield window
            first_part = 0

    def _pairs(self) -> Iterator[tuple[Prompts, Prompts | None]]:
        """The prompts of each window, and where asked for those of the next one."""
        if not self.ahead:
            yield from ((prompts, None) for prompts in self.loader)
            return
        iterator = iter(self.loader)
        prompts = next(iterator, None)
        while prompts is not None:
            upcoming = next(iterator, None)
            yield prompts, upcoming
            prompts = upcoming

    @property
    def _iterator(self) -> object | None:
        """The DataLoader's iterator, under the name by which Lightning stops loader processes when a run is over.

        Left to the garbage collector, which clears their queues first, each of them would take five seconds to go.
        """
        return self.loader._iterator

    @_iterator.setter
    def _iterator(self, value: None) -> None:
        self.loader._iterator = value

    def state_dict(self) -> dict[str, Any]:
        """Epoch, parts that have been handed out in it, and the shape of a step, for which alone they mean anything."""
        complete = self.done == len(self)
        done = 0 if complete else self.done
        return {"epoch": self.order.epoch + complete, "done": done, "parts": self.parts, "step": self.order.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a saved loader stopped.

        Raises:
            ValueError: If it stopped within an epoch and its steps were cut another way.
        """
        ours = (self.parts, self.order.step)
        theirs = (state["parts"], state["step"])
        if state["done"] and ours != theirs:
            raise ValueError(
                f"The checkpoint lies within an epoch whose steps had {theirs[1]} samples over all ranks in "
                f"{theirs[0]} parts, and this run's have {ours[1]} in {ours[0]}. Resume with the same data.batch_size, "
                "devices, trainer.accumulate_grad_batches and model.updates_per_rollout."
            )
        self.order.epoch, self._resumed_at, self.done = state["epoch"], state["done"], 0
