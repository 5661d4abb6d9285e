"""Writes what a test run predicted and scored."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from cair_lightning.modules.base import PolicyModule
from cair_lightning.modules.evaluation import Prediction, entropy_bits


class PredictionWriter(Callback):
    """Write `predictions.jsonl`, one sample a line, and `evaluation.json`, metrics and settings, after `cair test`.

    Both go to the logger's folder under a temporary name first and are moved when complete. `cair report` reads them.

    Args:
        name: Name of the evaluated model in tables: SFT, Naive RL, CAIR...
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._rows: list[dict[str, Any]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse modules that do not predict, and runs that have no folder."""
        if not isinstance(pl_module, PolicyModule):
            raise TypeError(f"PredictionWriter needs a PolicyModule, got {type(pl_module).__name__}; remove it from trainer.callbacks.")
        if stage == "test" and trainer.log_dir is None:
            raise ValueError("PredictionWriter writes to the logger's folder; set trainer.logger (CSVLogger, for instance).")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self._rows = []

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0  # noqa: ANN401
    ) -> None:
        """Keep the batch's predictions as plain data."""
        self._rows += [prediction_row(p) for p in outputs]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Each rank writes its rows; the first one puts them together."""
        assert isinstance(pl_module, PolicyModule) and trainer.log_dir is not None
        folder = Path(trainer.log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        parts = [folder / f".predictions.{rank}.jsonl" for rank in range(trainer.world_size)]
        parts[trainer.global_rank].write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self._rows), "utf-8")
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        whole = folder / ".predictions.jsonl"
        whole.write_text("".join(part.read_text("utf-8") for part in parts), "utf-8")
        draft = folder / ".evaluation.json"
        draft.write_text(json.dumps(self._summary(trainer, pl_module), indent=1), "utf-8")
        os.replace(whole, folder / "predictions.jsonl")
        os.replace(draft, folder / "evaluation.json")
        for part in parts:
            part.unlink()

    def _summary(self, trainer: Trainer, module: PolicyModule) -> dict[str, Any]:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        known = {k: (None if v != v else v) for k, v in module.last_metrics.items()}
        return {
            "format": "cair-evaluation",
            "version": 1,
            "name": self.name,
            "policy": trainer.ckpt_path or module.policy_path,
            "seed": int(os.environ.get("PL_GLOBAL_SEED", 0)),
            "clips": str(Path(data.clips).resolve()),
            "settings": module.settings(),
            "metrics": {k: v for k, v in known.items() if v is not None},
            "skipped": data.skipped,
        }


def prediction_row(prediction: Prediction) -> dict[str, Any]:
    """A prediction as a line of `predictions.jsonl`. Entropies and controls are in bits."""
    example, answer = prediction.example, prediction.answer
    bits = {name: None if p is None else entropy_bits(prediction.p_obs) - entropy_bits(p) for name, p in prediction.controls.items()}
    return {
        "id": example.id,
        "clip": example.clip,
        "start": example.start,
        "end": example.end,
        "context": example.context,
        "question": example.question,
        "candidates": example.candidates,
        "answer": example.answer,
        "emotion": example.emotion,
        "load": example.load,
        "reference": example.rationale,
        "keywords": example.keywords,
        "completion": prediction.completion,
        "rationale": answer and answer.rationale,
        "prediction": answer and answer.answer,
        "p_obs": prediction.p_obs,
        "p_int": prediction.p_int,
        "entropy_obs_bits": entropy_bits(prediction.p_obs),
        "entropy_int_bits": None if prediction.p_int is None else entropy_bits(prediction.p_int),
        "leaked": prediction.leaked,
        "rewards": prediction.rewards(),
        "controls_bits": bits,
    }
