"""Writes what a test run predicted and scored, and goes on where an interrupted one stopped."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from cair_lightning.callbacks.prediction_journal import Entry, PredictionJournal, entry_key
from cair_lightning.callbacks.prediction_rows import prediction_of, prediction_row
from cair_lightning.datamodules.recalling import Recalled
from cair_lightning.modules.base import PolicyModule
from cair_lightning.modules.loading import identity
from cair_lightning.parsing import parse
from cair_lightning.scoring.records import Reply, Score
from cair_lightning.structures import Example


@runtime_checkable
class Evaluates(Protocol):
    """A data module with a test split, which says what it skipped and takes what is already known."""

    clips: Path
    split: str
    skipped: dict[str, str]
    recalled: Mapping[str, Recalled]

    def published(self, split: str) -> list[Example]:
        """All samples of a split, as the data set has them."""

    def evaluated(self) -> list[Example]:
        """The samples that the test goes through, as they are asked."""

    def settings(self) -> dict[str, Any]:
        """What of the data module decides what a result means."""


@runtime_checkable
class Scores(Protocol):
    """A data module of a benchmark."""

    benchmark: str

    def scores(self, replies: Sequence[Reply]) -> list[Score]:
        """The benchmark's scores."""


class PredictionWriter(Callback):
    """Write `predictions.jsonl`, one sample a line, and `evaluation.json`, what was measured, after `cair test`.

    Both go to the logger's folder under a temporary name first and are moved when complete. `cair report` reads them.
    Every batch is also appended to a journal in the folder's `.predictions` at once: the next test with the same
    weights, settings and samples takes over what it finds there, whether this one was killed or came to its end.

    Args:
        name: Name of the evaluated model in tables: SFT, Naive RL, CAIR...
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._keys: dict[str, str] = {}
        self._folder = Path()
        self._journal = PredictionJournal(self._folder, 0)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse modules that do not predict, and data modules that do not say what they skipped; recall the rest."""
        if not isinstance(pl_module, PolicyModule):
            raise TypeError(
                f"PredictionWriter needs a PolicyModule, got {type(pl_module).__name__}; "
                "remove it from trainer.callbacks."
            )
        if stage == "test":
            if not isinstance(self._data(trainer), Evaluates):
                raise TypeError(
                    "PredictionWriter needs an EmoReasonEvaluationDataModule, got "
                    f"{type(self._data(trainer)).__name__}; remove it from trainer.callbacks."
                )
            self._recall(trainer, pl_module)

    def _recall(self, trainer: Trainer, module: PolicyModule) -> None:
        """Give the data module what the folder's journal knows of its samples."""
        data, settings = self._data(trainer), self._settings(trainer, module)
        self._folder = Path(trainer.log_dir or ".")  # asked of every rank: Lightning broadcasts it
        self._journal = PredictionJournal(self._folder, trainer.global_rank)
        policies = [module.policy_path, *([str(trainer.ckpt_path)] if trainer.ckpt_path else [])]
        trusted = module.loading.trust_checkpoint
        policy = " ".join(identity(path, trusted) for path in policies) if trainer.is_global_zero else ""
        policy = trainer.strategy.broadcast(policy)
        asked = data.evaluated()
        self._keys = {e.id: entry_key(e, data.clips, policy, settings) for e in asked}
        entries = self._journal.read()
        trainer.strategy.barrier()  # nobody writes before all have read
        known = [(e, entries[self._keys[e.id]]) for e in asked if self._keys[e.id] in entries]
        data.recalled = {e.id: _recalled(entry, e) for e, entry in known}
        if known:
            rank_zero_info(f"{len(known)} of {len(asked)} samples are taken over from {self._journal.folder}.")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to write."""
        self._journal.open()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's hook
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Append the batch's predictions to the journal, unless they come from there."""
        if batch.recalled is None:
            rows = [prediction_row(p) for p in outputs["predictions"]]
            failed = [{"key": self._keys[name], "failure": reason} for name, reason in batch.prompts.failures]
            self._journal.append([*({"key": self._keys[row["id"]], "row": row} for row in rows), *failed])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The first rank puts together what all have written, in the data set's order, and scores it."""
        assert isinstance(pl_module, PolicyModule)
        data = self._data(trainer)
        self._journal.close()
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        entries = self._journal.read()
        found = {name: entries[key] for name, key in self._keys.items() if key in entries}
        skipped = {**data.skipped, **{name: e["failure"] for name, e in found.items() if "failure" in e}}
        rows = {name: entry["row"] for name, entry in found.items() if "row" in entry}
        scores = self._score(trainer, rows, skipped)
        whole, draft = self._folder / ".predictions.jsonl", self._folder / ".evaluation.json"
        whole.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values()), "utf-8")
        summary = self._summary(trainer, pl_module, skipped, scores)
        draft.write_text(json.dumps(summary, indent=1, allow_nan=False), "utf-8")
        os.replace(whole, self._folder / "predictions.jsonl")
        os.replace(draft, self._folder / "evaluation.json")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the journal, also after a failure."""
        self._journal.close()

    def _score(self, trainer: Trainer, rows: dict[str, dict[str, Any]], skipped: dict[str, str]) -> list[Score]:
        """The benchmark's scores, once every sample is known; a part of a benchmark has none."""
        data = self._data(trainer)
        if not isinstance(data, Scores):
            return []
        published = data.published(data.split)
        if unknown := [e.id for e in published if e.id not in rows and e.id not in skipped]:
            rank_zero_info(f"No {data.benchmark} score: {len(unknown)} of {len(published)} samples were not asked.")
            return []
        scores = data.scores([_reply(e, rows.get(e.id)) for e in published])
        numbers = {_name(s): s.value for s in scores if not math.isnan(s.value)}
        for logger in trainer.loggers:
            logger.log_metrics(numbers)
        overall = [f"{s.kind} {s.measure} {_shown(s)}" for s in scores if s.part == "overall"]
        rank_zero_info(f"{data.benchmark}: {'; '.join(overall)}")
        return scores

    def _summary(
        self, trainer: Trainer, module: PolicyModule, skipped: dict[str, str], scores: Sequence[Score]
    ) -> dict[str, Any]:
        data = self._data(trainer)
        return {
            "format": "cair-evaluation",
            "version": 1,
            "name": self.name,
            "benchmark": data.benchmark if isinstance(data, Scores) else None,
            "policy": str(trainer.ckpt_path or module.policy_path),
            "seed": int(os.environ.get("PL_GLOBAL_SEED", 0)),
            "clips": str(data.clips.resolve()),
            "settings": self._settings(trainer, module),
            "metrics": {name: value for name, value in module.last_metrics.items() if not math.isnan(value)},
            "scores": [{k: _plain(v) for k, v in asdict(score).items()} for score in scores],
            "skipped": skipped,
        }

    def _settings(self, trainer: Trainer, module: PolicyModule) -> dict[str, Any]:
        return {**module.settings(), **self._data(trainer).settings()}

    def _data(self, trainer: Trainer) -> Evaluates:
        data: Evaluates = trainer.datamodule  # type: ignore[attr-defined] # set by Lightning, missing in its types
        return data


def _recalled(entry: Entry, example: Example) -> Recalled:
    row = entry.get("row")
    return Recalled(prediction=None if row is None else prediction_of(row, example), failure=entry.get("failure"))


def _reply(example: Example, row: dict[str, Any] | None) -> Reply:
    """What a sample of a benchmark came to; without a row its clip could not be read."""
    if row is None:
        return Reply(example=example, completion=None, answer=None, p_obs=None, p_int=None)
    completion = row["completion"]
    return Reply(
        example=example, completion=completion, answer=parse(completion), p_obs=row["p_obs"] or None, p_int=row["p_int"]
    )


def _name(score: Score) -> str:
    """Under what a score is logged: test/official_accuracy, test/strict_accuracy/task/SOER..."""
    part = "" if score.part == "overall" else f"/{score.part}"
    return f"test/{score.kind}_{score.measure}{part}"


def _shown(score: Score) -> str:
    return f"{score.value:.4f} [{score.low:.4f}, {score.high:.4f}] of {score.count}"


def _plain(value: object) -> object:
    """JSON has no nan; what was not counted is null."""
    return None if isinstance(value, float) and math.isnan(value) else value
