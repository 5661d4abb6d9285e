"""LightningDataModules for data sets in EmoReason format: SFT, RL, evaluation."""
# ruff: noqa: B008 - settings are defaults that nobody writes to

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from cair_lightning.clip_cache import ClipCache
from cair_lightning.datamodules.base import EmoReasonDataModule, Explain
from cair_lightning.datamodules.loading import WindowLoader, whole_window
from cair_lightning.datamodules.recalling import Recalled, RecallingLoader
from cair_lightning.structures import Example

Modality = Literal["video", "text"]
MODALITIES: tuple[Modality, ...] = ("video", "text")


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
        context_window: See `EmoReasonDataModule`.
        cache: See `EmoReasonDataModule`.
        explain: Which rationales are imitated, and what becomes of samples without one.
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
        context_window: int | None = None,
        cache: ClipCache | None = None,
        explain: Explain = Explain(),
    ) -> None:
        super().__init__(root, batch_size, num_workers, kept_clips, max_skipped, seed, context_window, cache)
        self.direct_fraction, self.explain = direct_fraction, explain
        self.train_split, self.val_split = train_split, val_split

    def train_dataloader(self) -> WindowLoader:
        """Samples in random order, each in one of the two forms.

        Raises:
            ValueError: If the reason form is to be taught and a sample has no rationale.
        """
        return self.teaching_loader(self.train_split, self.direct_fraction, self.explain)

    def evaluated(self) -> list[Example]:
        """The validation split."""
        return [] if self.val_split is None else self.examples(self.val_split)

    def val_dataloader(self) -> WindowLoader | list[Any]:
        """Every sample of the validation split once, in the reason form."""
        return [] if self.val_split is None else self.loader(self.val_split, False, whole_window)


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
        context_window: See `EmoReasonDataModule`.
        cache: See `EmoReasonDataModule`.
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
        context_window: int | None = None,
        cache: ClipCache | None = None,
    ) -> None:
        super().__init__(root, batch_size, num_workers, kept_clips, max_skipped, seed, context_window, cache)
        self.train_split, self.val_split = train_split, val_split
        self._validation: EmoReasonDataModule = self
        if val_root is not None:
            self._validation = EmoReasonDataModule(
                val_root, batch_size, num_workers, kept_clips, max_skipped, seed, context_window, cache
            )
            self._validation.skipped = self.skipped

    def train_dataloader(self) -> WindowLoader:
        """Prompts in random order; each window comes as often as its rollout is used.

        Raises:
            ValueError: If there are open questions, whose answers have no belief that could be rewarded.
        """
        if still_open := [e.id for e in self.examples(self.train_split) if not e.candidates]:
            raise ValueError(
                f"{len(still_open)} samples in split {self.train_split!r} of {self.root} are open questions, without "
                f"candidates that a belief could be normalised over; the first is {still_open[0]!r}. Leave them out."
            )
        module = self.trainer.lightning_module if self.trainer is not None else None
        updates: int = getattr(module, "updates_per_rollout", 1)
        loader = self.loader(self.train_split, True, whole_window, self.parts() * updates)
        loader.ahead = getattr(module, "sample_ahead", False)
        return self.resumable(loader)

    def val_dataloader(self) -> WindowLoader | list[Any]:
        """Every sample of the validation split once."""
        self._validation.trainer = self.trainer
        return [] if self.val_split is None else self._validation.loader(self.val_split, False, whole_window)

    def evaluated(self) -> list[Example]:
        """The validation split."""
        return [] if self.val_split is None else self._validation.examples(self.val_split)


class EmoReasonEvaluationDataModule(EmoReasonDataModule):
    """A split to evaluate on: every sample once, in order, with `cair validate`, `cair test` or `cair predict`.

    Args:
        root: Folder of the data set.
        split: Split that is evaluated.
        batch_size: Samples per device that are computed together.
        num_workers: See `EmoReasonDataModule`.
        kept_clips: See `EmoReasonDataModule`.
        max_skipped: See `EmoReasonDataModule`.
        context_window: See `EmoReasonDataModule`.
        cache: See `EmoReasonDataModule`.
        modalities: What the model gets besides the question: the clip, the dialogue or transcript, or both (Fig. 3).

    Raises:
        ValueError: If `modalities` is empty or names one twice.
    """

    def __init__(
        self,
        root: Path,
        split: str = "test",
        batch_size: int = 8,
        num_workers: int = 2,
        kept_clips: int = 0,
        max_skipped: float = 0.01,
        context_window: int | None = None,
        cache: ClipCache | None = None,
        modalities: list[Modality] = list(MODALITIES),  # noqa: B006
    ) -> None:
        super().__init__(
            root, batch_size, num_workers, kept_clips, max_skipped, context_window=context_window, cache=cache
        )
        if not modalities or len(set(modalities)) < len(modalities):
            raise ValueError(
                f"expected data.modalities to be [video, text], [video] or [text], got {modalities}; without both "
                "nothing is left but the question."
            )
        self.split = split
        self.modalities = [name for name in MODALITIES if name in modalities]
        self.recalled: Mapping[str, Recalled] = {}
        """What an earlier run found out about samples, by id; they are not computed again. Whoever writes predictions
        fills it in `setup`."""

    def asked(self, example: Example) -> Example:
        """A sample as this run asks it: with its window of the context, or what its modalities leave of it."""
        example = super().asked(example)
        if "video" not in self.modalities:
            example = replace(example, clip=None, start=None, end=None, crop=None)
        return example if "text" in self.modalities else replace(example, context=[])

    def examples(self, split: str) -> list[Example]:
        """The samples of a split that can be asked.

        Raises:
            ValueError: If a modality is ablated that no sample has, which would pass an unchanged result off as one.
        """
        published = self.published(split)
        if "text" not in self.modalities and not any(e.context for e in published):
            raise ValueError(
                f"data.modalities is {self.modalities}, and no sample in split {split!r} of {self.root} has a dialogue "
                "or transcript that could be left out."
            )
        if "video" not in self.modalities and all(e.clip is None for e in published):
            raise ValueError(
                f"data.modalities is {self.modalities}, and no sample in split {split!r} of {self.root} has a clip."
            )
        return super().examples(split)

    def evaluated(self) -> list[Example]:
        """The split."""
        return self.examples(self.split)

    def settings(self) -> dict[str, Any]:
        """What of this data module decides what a result means."""
        return {**super().settings(), "split": self.split, "modalities": self.modalities}

    def test_dataloader(self) -> RecallingLoader:
        """The split, with what is already known of it."""
        return RecallingLoader(self.loader(self.split, False, whole_window), self.recalled)

    def predict_dataloader(self) -> WindowLoader:
        """The split."""
        return self.loader(self.split, False, whole_window)

    def val_dataloader(self) -> WindowLoader | list[Any]:
        """The split."""
        return self.predict_dataloader()
