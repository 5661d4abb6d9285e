"""Loggers that remember, and runs that stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback
from lightning.pytorch.loggers.logger import Logger

from cair_lightning.datamodules.manifest import read_dataset, write_dataset


class Memory(Logger):
    """Remembers what was logged, by optimiser step."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, float]] = {}

    @property
    def name(self) -> str:
        return "memory"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.setdefault(step or 0, {}).update(metrics)

    def column(self, name: str) -> dict[int, float]:
        return {step: row[name] for step, row in self.rows.items() if name in row}


class Interrupted(Exception):
    """What stops a run in a test."""


class StopAt(Callback):
    """Stops a run hard, as a lost machine would, once an optimiser step is done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            raise Interrupted


@pytest.fixture
def memory() -> type[Memory]:
    return Memory


@pytest.fixture
def stop_at() -> type[StopAt]:
    return StopAt


@pytest.fixture
def interrupted() -> type[Exception]:
    return Interrupted


@pytest.fixture(scope="session")
def curated(world, tmp_path_factory) -> Path:
    """Eight prompts for stage 2."""
    manifest = read_dataset(world, "train")
    examples = [replace(example, entropy_bits=2.0) for example in manifest.examples[:8]]
    folder = tmp_path_factory.mktemp("data") / "curated"
    write_dataset(folder, "curated", manifest.clips.resolve(), {"train": examples})
    return folder
