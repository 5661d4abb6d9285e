"""What a run leaves on disk, as records: evaluations with their samples, training curves, entropies of curation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cair_lightning.structures import Load


@dataclass(slots=True, kw_only=True)
class Sample:
    """One line of predictions.jsonl: a question, what a policy said, and its beliefs before and after its rationale."""

    id: str
    clip: str | None
    start: float | None
    end: float | None
    context: list[str]
    question: str
    candidates: list[str]
    answer: str
    """y*, one of `candidates`."""
    emotion: str | None
    load: Load | None
    reference: str | None
    keywords: list[str] | None
    completion: str
    """The raw text of the model."""
    rationale: str | None
    prediction: str | None
    """None where the completion could not be parsed."""
    p_obs: list[float]
    """P(Y|X), over `candidates`."""
    p_int: list[float] | None
    """P(Y|X, do(z)), over `candidates`; None without a z."""
    entropy_obs_bits: float
    entropy_int_bits: float | None
    rewards: dict[str, float]
    controls_bits: dict[str, float]
    """dH with another z than the policy's own, by the name of the control."""

    @property
    def gain_bits(self) -> float | None:
        """Information gain dH = H(Y|X) - H(Y|X, z) (section 4.1), in bits; None without a z."""
        return None if self.entropy_int_bits is None else self.entropy_obs_bits - self.entropy_int_bits

    @property
    def confidence(self) -> float | None:
        """P(y*|X, do(z)), what Fig. 4 shows the distribution of; None without a z."""
        return None if self.p_int is None else self.p_int[self.candidates.index(self.answer)]


@dataclass(slots=True, kw_only=True)
class Evaluation:
    """One evaluation.json with the predictions beside it: one row of the tables."""

    path: Path
    name: str
    label: str
    """The name, made unique among the evaluations of a report."""
    policy: str
    seed: int
    clips: Path | None
    """The folder below which the samples' clips lie."""
    settings: dict[str, object]
    metrics: dict[str, float]
    """What was measured; a metric that was not is missing. Rates are 0..1, dH is in bits, the log-ratio in nats."""
    samples: list[Sample]


@dataclass(slots=True, kw_only=True)
class Curve:
    """One column of metrics.csv where it has a value, in the order of the steps."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(slots=True, kw_only=True)
class Fit:
    """The curves of one training run."""

    path: Path
    kind: Literal["sft", "grpo"]
    curves: dict[str, Curve]
    """By column name."""
    not_finite: int
    """Values that were nan or infinite and are in no curve."""


@dataclass(slots=True, kw_only=True)
class Curation:
    """The entropies by which the samples of stage 2 were chosen (A.5)."""

    path: Path
    entropies_bits: NDArray[np.float64]
    selected: NDArray[np.bool_]


@dataclass(slots=True, kw_only=True)
class Run:
    """Everything that was found below one folder, in the order of the paths."""

    folder: Path
    evaluations: list[Evaluation] = field(default_factory=list)
    fits: list[Fit] = field(default_factory=list)
    curations: list[Curation] = field(default_factory=list)
    passed_over: list[Path] = field(default_factory=list)
    """metrics.csv of something else than a fit."""
