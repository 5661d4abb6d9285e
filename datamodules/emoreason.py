"""LightningDataModules for data sets in EmoReason format: SFT, RL, evaluation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning import LightningDataModule

from cair_lightning.datamodules.loading import EpochSampler, Split, WindowLoader, micro_batches, whole_window
from cair_lightning.datamodules.manifest import clip_path, read_dataset
from cair_lightning.policies.collation import Collates
from cair_lightning.structures import Example

log = logging.getLogger(__name__)


class TooManySkippedError(RuntimeError):
    """More clips are missing or broken than the run accepts."""


class EmoReasonDataModule(LightningDataModule):
    """Reads splits of an EmoReason data set (a folder with `emoreason.json`); what all three uses share.

    A clip that is missing or cannot be decoded is skipped and counted in `skipped`, by sample id; the run is refused
    once more than `max_skipped` of a split is, or all of it.

    Args:
        root: Folder of the data set.
        batch_size: Prompts per device, of one optimiser step in training: `accumulate_grad_batches` cuts it into parts.
        num_workers: Loader processes that decode clips.
        kept_clips: Processed clips that each loader process keeps in memory.
        max_skipped: Largest share of a split that may be skipped.
        seed: Seed of the order of samples.
    """

    def __init__(
        self,
        root: Path,
        batch_size: int = 1,
        num_workers: int = 2,
        kept_clips: int = 0,
        max_skipped: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.batch_size, self.num_workers, self.kept_clips = batch_size, num_workers, kept_clips
        self.max_skipped, self.seed = max_skipped, seed
        self.clips = self.root
        self.skipped: dict[str, str] = {}
        self._examples: dict[str, list[Example]] = {}
        self._totals: dict[str, int] = {}
        self._skipped_in: dict[str, set[str]] = {}
        self._training: WindowLoader | None = None
        self._resumed: dict[str, Any] | None = None

    def examples(self, split: str) -> list[Example]:
        """The samples of a split whose clips exist.

        Raises:
            ManifestError: If the manifest is not valid.
            TooManySkippedError: If too many clips are missing.
        """
        if split not in self._examples:
            manifest = read_dataset(self.root, split)
            self.clips, self._totals[split] = manifest.clips, len(manifest.examples)
            present = [e for e in manifest.examples if e.clip is None or clip_path(manifest.clips, e).exists()]
            kept = {e.id for e in present}
            self._skip(split, [(e.id, f"no such file: {e.clip}") for e in manifest.examples if e.id not in kept])
            self._examples[split] = present
        return self._examples[split]

    def _skip(self, split: str, failures: Sequence[tuple[str, str]]) -> None:
        """Count clips of a split that cannot be read, by sample id and reason; refuse too many."""
        seen, total = self._skipped_in.setdefault(split, set()), self._totals[split]
        for identifier, reason in failures:
            if identifier not in seen:
                log.warning("Skipped sample %s: %s", identifier, reason)
            seen.add(identifier)
            self.skipped[identifier] = reason
            if len(seen) > self.max_skipped * total or len(seen) == total:
                raise TooManySkippedError(
                    f"{len(seen)} of {total} samples in split {split!r} of {self.root} cannot be read; the largest "
                    f"share that may be skipped is data.max_skipped = {self.max_skipped:g}, and never all. The last "
                    f"one is {identifier!r}: {reason}. Mend the clips, or raise data.max_skipped if this many are "
                    "expected."
                )

    def _loader(
        self,
        split: str,
        shuffle: bool,
        cut: Split,
        parts: int = 1,
        direct_fraction: float = 0.0,
        teach: bool = False,
    ) -> WindowLoader:
        trainer = self.trainer
        if trainer is None or not isinstance(trainer.lightning_module, Collates):
            raise TypeError(
                f"{type(self).__name__} collates with the module's processor; use it in a Trainer with an SFTModule, "
                "GRPOModule or PolicyModule."
            )
        examples = self.examples(split)
        collator = trainer.lightning_module.collator(self.clips, teach=teach, kept_clips=self.kept_clips)
        order = EpochSampler(
            len(examples),
            self.batch_size,
            shuffle,
            direct_fraction,
            self.seed,
            trainer.global_rank,
            trainer.world_size,
        )
        return WindowLoader(examples, collator, order, cut, parts, self.num_workers, partial(self._skip, split))

    def _resumable(self, loader: WindowLoader) -> WindowLoader:
        """Keep the training loader, whose state a checkpoint holds; put it where a resumed run stood."""
        if self._resumed is not None:
            loader.load_state_dict(self._resumed)
        self._training = loader
        return loader

    def state_dict(self) -> dict[str, Any]:
        """Where the training loader stands.

        Lightning saves the loader's state too, but restores it only into a loader that it has not asked for before;
        and it has where the schedule's length follows from `max_epochs`.
        """
        return {} if self._training is None else self._training.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next training loader go on from there."""
        self._resumed = state or None

    def _parts(self) -> int:
        """Into how many parts the trainer cuts a step."""
        parts = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        if self.batch_size % parts:
            raise ValueError(
                "expected data.batch_size to be a multiple of trainer.accumulate_grad_batches, which cuts it into "
                f"parts; got {self.batch_size} and {parts}."
            )
        return parts


class EmoReasonSFTDataModule(EmoReasonDataModule):
    """EmoReason-SFT (section 4.1): rationales and answers to imitate, some samples in the direct form.

    Args:
        root: Folder of the data set.
        direct_fraction: Share of the samples that are taught to answer directly. Path A conditions on that form, and
            a belief read from a form that was never trained is noise.
        train_split: Split that is trained on.
        val_split: Split of the validation loop; None leaves it out.
        batch_size: Samples per device and optimiser step.
        num_workers: See `EmoReasonDataModule`.
        kept_clips: See `EmoReasonDataModule`.
        max_skipped: See `EmoReasonDataModule`.
        seed: See `EmoReasonDataModule`.
    """

    def __init__(
        self,
        root: Path,
        direct_fraction: float = 0.25,
        train_split: str = "train",
        val_split: str | None = "val",
        batch_size: int = 4,
        num_workers: int = 2,
        kept_clips: int = 0,
        max_skipped: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__(root, batch_size, num_workers, kept_clips, max_skipped, seed)
        self.direct_fraction, self.train_split, self.val_split = direct_fraction, train_split, val_split

    def train_dataloader(self) -> WindowLoader:
        """Samples in random order, each in one of the two forms.

        Raises:
            ValueError: If the reason form is to be taught and a sample has no rationale.
        """
        bare = [e.id for e in self.examples(self.train_split) if e.rationale is None]
        if bare and self.direct_fraction < 1:
            raise ValueError(
                f"{len(bare)} samples in split {self.train_split!r} of {self.root} have no rationale, which the reason "
                f"form needs; the first is {bare[0]!r}. Add them, or set data.direct_fraction to 1."
            )
        parts, direct = self._parts(), self.direct_fraction
        return self._resumable(self._loader(self.train_split, True, micro_batches, parts, direct, teach=True))

    def val_dataloader(self) -> WindowLoader | list[Any]:
        """Every sample of the validation split once, in the reason form."""
        return [] if self.val_split is None else self._loader(self.val_split, False, whole_window)


class EmoReasonRLDataModule(EmoReasonDataModule):
    """EmoReason-RL (A.5): the curated prompts of stage 2, as `cair curate` writes them.

    Args:
        root: Folder of the curated data set.
        train_split: Split that is trained on.
        val_root: Data set of the validation split; None is `root`.
        val_split: Split of the validation loop; None leaves it out.
        batch_size: Prompts per device and optimiser step; each is answered `group_size` times.
        num_workers: See `EmoReasonDataModule`.
        kept_clips: See `EmoReasonDataModule`.
        max_skipped: See `EmoReasonDataModule`.
        seed: See `EmoReasonDataModule`.
    """

    def __init__(
        self,
        root: Path,
        train_split: str = "train",
        val_root: Path | None = None,
        val_split: str | None = None,
        batch_size: int = 1,
        num_workers: int = 2,
        kept_clips: int = 0,
        max_skipped: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__(root, batch_size, num_workers, kept_clips, max_skipped, seed)
        self.train_split, self.val_split = train_split, val_split
        self._validation: EmoReasonDataModule = self
        if val_root is not None:
            self._validation = EmoReasonDataModule(val_root, batch_size, num_workers, kept_clips, max_skipped, seed)
            self._validation.skipped = self.skipped

    def train_dataloader(self) -> WindowLoader:
        """Prompts in random order; each window comes as often as its rollout is used."""
        module = self.trainer.lightning_module if self.trainer is not None else None
        updates: int = getattr(module, "updates_per_rollout", 1)
        return self._resumable(self._loader(self.train_split, True, whole_window, self._parts() * updates))

    def val_dataloader(self) -> WindowLoader | list[Any]:
        """Every sample of the validation split once."""
        self._validation.trainer = self.trainer
        return [] if self.val_split is None else self._validation._loader(self.val_split, False, whole_window)


class EmoReasonEvaluationDataModule(EmoReasonDataModule):
    """A split to evaluate on: every sample once, in order, with `cair validate`, `cair test` or `cair predict`.

    Args:
        root: Folder of the data set.
        split: Split that is evaluated.
        batch_size: Samples per device that are computed together.
        num_workers: See `EmoReasonDataModule`.
        kept_clips: See `EmoReasonDataModule`.
        max_skipped: See `EmoReasonDataModule`.
    """

    def __init__(
        self,
        root: Path,
        split: str = "test",
        batch_size: int = 8,
        num_workers: int = 2,
        kept_clips: int = 0,
        max_skipped: float = 0.01,
    ) -> None:
        super().__init__(root, batch_size, num_workers, kept_clips, max_skipped)
        self.split = split

    def test_dataloader(self) -> WindowLoader:
        """The split."""
        return self._loader(self.split, False, whole_window)

    val_dataloader = test_dataloader
    predict_dataloader = test_dataloader
