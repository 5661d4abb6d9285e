"""Writes what a test run predicted and scored."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning import Callback, LightningModule, Trainer

from cair_lightning.modules.base import PolicyModule
from cair_lightning.modules.evaluation import Prediction, entropy_bits


@runtime_checkable
class ReadsClips(Protocol):
    """A data module that says where its clips lie and which it skipped."""

    clips: Path
    skipped: dict[str, str]


class PredictionWriter(Callback):
    """Write `predictions.jsonl`, one sample a line, and `evaluation.json`, metrics and settings, after `cair test`.

    Both go to the logger's folder under a temporary name first and are moved when complete. `cair report` reads them.

    Args:
        name: Name of the evaluated model in tables: SFT, Naive RL, CAIR...
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._rows: list[tuple[int, dict[str, Any]]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse modules that do not predict, and data modules that do not say what they skipped."""
        if not isinstance(pl_module, PolicyModule):
            raise TypeError(
                f"PredictionWriter needs a PolicyModule, got {type(pl_module).__name__}; "
                "remove it from trainer.callbacks."
            )
        if stage == "test" and not isinstance(self._data(trainer), ReadsClips):
            raise TypeError(
                f"PredictionWriter needs an EmoReasonEvaluationDataModule, got {type(self._data(trainer)).__name__}; "
                "remove it from trainer.callbacks."
            )

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self._rows = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's hook
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch's predictions as plain data."""
        self._rows += [(batch_idx, prediction_row(p)) for p in outputs["predictions"]]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Each rank writes what it has; the first one puts it together, in the data set's order."""
        assert isinstance(pl_module, PolicyModule)
        data = self._data(trainer)
        folder = Path(trainer.log_dir or ".")  # asked of every rank: Lightning broadcasts it
        folder.mkdir(parents=True, exist_ok=True)
        parts = [folder / f".predictions.{rank}.json" for rank in range(trainer.world_size)]
        parts[trainer.global_rank].write_text(json.dumps({"rows": self._rows, "skipped": data.skipped}), "utf-8")
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        contents = [json.loads(part.read_text("utf-8")) for part in parts]
        rows = sorted((row for content in contents for row in content["rows"]), key=lambda row: int(row[0]))
        skipped = {k: v for content in contents for k, v in content["skipped"].items()}
        whole, draft = folder / ".predictions.jsonl", folder / ".evaluation.json"
        whole.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for _, row in rows), "utf-8")
        draft.write_text(json.dumps(self._summary(trainer, pl_module, skipped), indent=1), "utf-8")
        os.replace(whole, folder / "predictions.jsonl")
        os.replace(draft, folder / "evaluation.json")
        for part in parts:
            part.unlink()

    def _summary(self, trainer: Trainer, module: PolicyModule, skipped: dict[str, str]) -> dict[str, Any]:
        return {
            "format": "cair-evaluation",
            "version": 1,
            "name": self.name,
            "policy": str(trainer.ckpt_path or module.policy_path),
            "seed": int(os.environ.get("PL_GLOBAL_SEED", 0)),
            "clips": str(self._data(trainer).clips.resolve()),
            "settings": module.settings(),
            "metrics": {name: value for name, value in module.last_metrics.items() if not math.isnan(value)},
            "skipped": skipped,
        }

    def _data(self, trainer: Trainer) -> ReadsClips:
        data: ReadsClips = trainer.datamodule  # type: ignore[attr-defined] # set by Lightning, missing in its types
        return data


def prediction_row(prediction: Prediction) -> dict[str, Any]:
    """A prediction as a line of `predictions.jsonl`. Entropies and controls are in bits."""
    example, answer = prediction.example, prediction.answer
    bits = {
        name: None if p is None else entropy_bits(prediction.p_obs) - entropy_bits(p)
        for name, p in prediction.controls.items()
    }
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
