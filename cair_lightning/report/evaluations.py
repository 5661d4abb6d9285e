"""evaluation.json and the predictions.jsonl beside it -> Evaluation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

from cair_lightning.report.fields import Fields, read_lines, read_object
from cair_lightning.report.records import Evaluation, Sample
from cair_lightning.structures import Load

EVALUATION, PREDICTIONS = "evaluation.json", "predictions.jsonl"
UNIT_TOLERANCE_BITS = 0.05
"""How far a stored entropy may lie from that of its distribution: room for rounding, not for another unit."""


def read_evaluation(path: Path) -> Evaluation:
    """Read an evaluation.json and the predictions.jsonl beside it.

    Raises:
        ValueError: Either is not as it should be, or the predictions are missing or empty.
    """
    fields = read_object(path)
    if fields.text("format") != "cair-evaluation":
        raise fields.fault("format", "'cair-evaluation'")
    if fields.integer("version") != 1:
        raise fields.fault("version", "1, the only one that this release reads (update cair-lightning, or test again)")
    clips = fields.text_or_none("clips")
    return Evaluation(
        path=path,
        name=fields.text("name"),
        label=fields.text("name"),
        policy=fields.text("policy"),
        seed=fields.integer("seed"),
        clips=None if clips is None else path.parent / clips,
        settings=fields.values_by_name("settings"),
        metrics=fields.numbers_by_name("metrics"),
        samples=_read_samples(path.with_name(PREDICTIONS)),
    )


def _read_samples(path: Path) -> list[Sample]:
    if not path.is_file():
        raise ValueError(f"expected {path} beside its {EVALUATION}, got none; `cair test` writes both, copy both.")
    lines: dict[str, str] = {}
    samples: list[Sample] = []
    for fields in read_lines(path):
        sample = read_sample(fields)
        if sample.id in lines:
            raise fields.fault("id", f"unique, but {lines[sample.id]} has it too")
        lines[sample.id] = fields.where
        samples.append(sample)
    if not samples:
        raise ValueError(f"{path}: expected at least one sample, got an empty file; run `cair test` again.")
    return samples


def read_sample(fields: Fields) -> Sample:
    """Read one line of predictions.jsonl.

    Raises:
        ValueError: A key is missing or has another type, the answer is no candidate, or beliefs and entropies disagree.
    """
    candidates, answer, load = fields.texts("candidates"), fields.text("answer"), fields.text_or_none("load")
    if answer not in candidates:
        raise fields.fault("answer", f"one of the candidates {candidates}")
    if len(set(candidates)) != len(candidates):
        raise fields.fault("candidates", "a list without repetitions")
    if load is not None and load not in get_args(Load):
        raise fields.fault("load", "'low', 'high' or null")
    p_obs, p_int = (
        fields.probabilities("p_obs", len(candidates)),
        fields.probabilities_or_none("p_int", len(candidates)),
    )
    return Sample(
        id=fields.text("id"),
        clip=fields.text_or_none("clip"),
        start=fields.number_or_none("start"),
        end=fields.number_or_none("end"),
        context=fields.texts("context"),
        question=fields.text("question"),
        candidates=candidates,
        answer=answer,
        emotion=fields.text_or_none("emotion"),
        load="low" if load == "low" else "high" if load == "high" else None,
        reference=fields.text_or_none("reference"),
        keywords=fields.texts_or_none("keywords"),
        completion=fields.text("completion"),
        rationale=fields.text_or_none("rationale"),
        prediction=fields.text_or_none("prediction"),
        p_obs=p_obs,
        p_int=p_int,
        entropy_obs_bits=_entropy(fields, "entropy_obs_bits", p_obs),
        entropy_int_bits=None
        if _no_entropy(fields, p_int) or p_int is None
        else _entropy(fields, "entropy_int_bits", p_int),
        rewards=fields.numbers_by_name("rewards"),
        controls_bits=fields.numbers_by_name("controls_bits"),
    )


def _no_entropy(fields: Fields, p_int: list[float] | None) -> bool:
    absent = fields.take("entropy_int_bits") is None
    if absent != (p_int is None):
        raise fields.fault("entropy_int_bits", "null exactly where 'p_int' is null")
    return absent


def _entropy(fields: Fields, key: str, probabilities: list[float]) -> float:
    """The stored number; one that is not the distribution's in bits (but in nats, say) would falsify every figure."""
    stored = fields.number(key)
    bits = -sum(p * math.log2(p) for p in probabilities if p > 0)
    if abs(stored - bits) > UNIT_TOLERANCE_BITS:
        raise fields.fault(key, f"the entropy of its distribution in bits, {bits:.3f}")
    return stored
