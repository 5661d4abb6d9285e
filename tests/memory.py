"""A logger that remembers."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers.logger import Logger


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
