"""Runs that stop."""

from __future__ import annotations

import pytest
from lightning import Callback


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
def stop_at() -> type[StopAt]:
    return StopAt


@pytest.fixture
def interrupted() -> type[Exception]:
    return Interrupted
