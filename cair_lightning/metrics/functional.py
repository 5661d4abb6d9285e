"""The definitions behind the metrics: pure functions, one value per sample unless they say otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cair_lightning.metrics.beliefs import Beliefs, check_targets, log_probability, stack_beliefs, stack_pair
from cair_lightning.metrics.checks import as_bool, check_finite, check_references, check_same_length
from cair_lightning.metrics.optional import require

WRONG, CORRECT, UNPARSED = range(3)
"""Columns of the counts that `emotion_counts` returns."""


def entropy(p: Beliefs, base: float = 2.0) -> Tensor:
    """Shannon entropy H of each belief, with 0 log 0 = 0.

    Args:
        p: Distributions (N, Y), or N vectors of any lengths. Zero probabilities at the end of a row are padding.
        base: Of the logarithm: 2 gives bits, math.e nats.

    Returns:
        (N,), float64.

    Raises:
        ValueError: Rows are no distributions, or the base is not above 1.

    >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]])).tolist()
    [1.0, 0.0]
    """
    p_NY, _ = stack_beliefs(p, "p")
    return _entropy_nats(p_NY) / _log_base(base)


def information_gain(p_obs: Beliefs, p_int: Beliefs, base: float = 2.0) -> Tensor:
    """Information gain dH = H(Y|X) - H(Y|X, z) of section 4.1, for each sample.

    Args:
        p_obs: P(Y|X), path A; (N, Y), or N vectors of any lengths.
        p_int: P(Y|X, do(z)), path B, over the same candidates.
        base: Of the logarithm: 2 gives bits, as in Tables 2 and 3.

    Returns:
        (N,), float64, positive where the rationale made the belief more certain, rightly or wrongly.

    Raises:
        ValueError: Rows are no distributions, the paths do not match, or the base is not above 1.

    >>> information_gain(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 1.0]])).tolist()
    [1.0]
    """
    p_obs_NY, p_int_NY, _ = stack_pair(p_obs, p_int)
    return (_entropy_nats(p_obs_NY) - _entropy_nats(p_int_NY)) / _log_base(base)


def log_ratio(p_obs: Beliefs, p_int: Beliefs, target: Tensor | Sequence[int]) -> Tensor:
    """Log-ratio log P(y*|X, do(z)) - log P(y*|X), eq. 4 without clipping, for each sample.

    Args:
        p_obs: P(Y|X), path A; (N, Y), or N vectors of any lengths.
        p_int: P(Y|X, do(z)), path B, over the same candidates.
        target: Index of y* among each sample's candidates, (N,).

    Returns:
        (N,), float64, in nats. Probabilities below 1.2e-38 count as 1.2e-38.

    Raises:
        ValueError: Rows are no distributions, the paths do not match, or a target is no candidate.

    >>> log_ratio(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 1.0]]), [1]).exp().tolist()
    [2.0]
    """
    p_obs_NY, p_int_NY, sizes_N = stack_pair(p_obs, p_int)
    target_N = check_targets(target, sizes_N)
    return log_probability(p_int_NY, target_N) - log_probability(p_obs_NY, target_N)


def negative_log_likelihood(p: Beliefs, target: Tensor | Sequence[int]) -> Tensor:
    """-log P(y*) of each sample, (N,), float64, in nats. A probability below 1.2e-38 costs 87.34 nats.

    Raises:
        ValueError: Rows are no distributions, or a target is no candidate.

    >>> negative_log_likelihood(torch.tensor([[0.25, 0.75], [0.0, 1.0]]), [0, 0])
    tensor([ 1.3863, 87.3365], dtype=torch.float64)
    """
    p_NY, sizes_N = stack_beliefs(p, "p")
    return -log_probability(p_NY, check_targets(target, sizes_N))


def calibration_bins(p: Beliefs, target: Tensor | Sequence[int], bins: int = 15) -> Tensor:
    """What the expected calibration error needs, summed over samples.

    Bin b holds the samples whose highest probability lies in (b / bins, (b + 1) / bins]. The belief's answer is its
    most probable candidate, the first of equals.

    Args:
        p: Distributions (N, Y), or N vectors of any lengths.
        target: Index of y* among each sample's candidates, (N,).
        bins: Number of bins of equal width.

    Returns:
        (bins, 3), float64: samples, right answers, sum of confidences.

    Raises:
        ValueError: Rows are no distributions, a target is no candidate, or there is no bin.

    >>> calibration_bins(torch.tensor([[0.25, 0.75], [1.0, 0.0]]), [1, 1], bins=2).tolist()
    [[0.0, 0.0, 0.0], [2.0, 1.0, 1.75]]
    """
    if bins < 1:
        raise ValueError(f"expected at least 1 bin, got {bins}")
    p_NY, sizes_N = stack_beliefs(p, "p")
    target_N = check_targets(target, sizes_N)
    sums = torch.zeros(bins, 3, dtype=torch.float64, device=p_NY.device)
    if not len(p_NY):
        return sums
    confidences_N, answers_N = p_NY.max(dim=1)
    edges = torch.arange(1, bins, dtype=torch.float64, device=p_NY.device) / bins
    rows = torch.stack([torch.ones_like(confidences_N), (answers_N == target_N).double(), confidences_N], dim=1)
    return sums.index_add(0, torch.bucketize(confidences_N, edges), rows)


def expected_calibration_error(bin_sums: Tensor) -> Tensor:
    """Mean over samples of |accuracy - mean confidence| of their bin, a scalar in 0..1; nan without samples.

    Args:
        bin_sums: Sum of what `calibration_bins` returned, (bins, 3).

    >>> expected_calibration_error(torch.tensor([[0.0, 0.0, 0.0], [2.0, 1.0, 1.75]])).item()
    0.375
    """
    count, hits, confidence = bin_sums.unbind(dim=1)
    return (hits - confidence).abs().sum() / count.sum()


def keyword_f1(keywords: Sequence[Sequence[str] | None], references: Sequence[Sequence[str]]) -> Tensor:
    """F1 between the set of keywords of each rationale and the set of keywords of its reference.

    Args:
        keywords: Of each rationale; None where a completion was malformed and has no rationale, which scores 0.
        references: Keywords of each reference rationale, at least one. Case is ignored on both sides.

    Returns:
        (N,), float64, in 0..1.

    Raises:
        ValueError: The lengths differ, or a reference is not a list of at least one keyword.

    >>> keyword_f1([["lie", "friend"], None], [["lie", "betray"], ["lie"]]).tolist()
    [0.5, 0.0]
    """
    check_same_length("keywords", keywords, "references", references)
    check_references(references)
    scores = []
    for found, reference in zip(keywords, references, strict=True):
        found_set, reference_set = {word.casefold() for word in found or ()}, {word.casefold() for word in reference}
        scores.append(2 * len(found_set & reference_set) / (len(found_set) + len(reference_set)))
    return torch.tensor(scores, dtype=torch.float64)


def rouge_l(predictions: Sequence[str | None], references: Sequence[str], use_stemmer: bool = False) -> Tensor:
    """ROUGE-L F-measure of each prediction, by rouge-score.

    Its tokens are runs of the letters a to z and digits, case ignored.

    Args:
        predictions: Rationales; None where a completion was malformed, which scores 0.
        references: One reference text for each.
        use_stemmer: Whether to compare Porter stems rather than words.

    Returns:
        (N,), float64, in 0..1.

    Raises:
        ValueError: The lengths differ.
        ImportError: rouge-score is not installed.

    >>> rouge_l(["he lost his job", None], ["she lost her job", "she left"]).tolist()
    [0.5, 0.0]
    """
    check_same_length("predictions", predictions, "references", references)
    scorer = require("rouge_score.rouge_scorer", "rouge-score").RougeScorer(["rougeL"], use_stemmer=use_stemmer)
    scores = [
        0.0 if prediction is None else scorer.score(reference, prediction)["rougeL"].fmeasure
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    return torch.tensor(scores, dtype=torch.float64)


def emotion_counts(correct: Sequence[bool | None], emotions: Sequence[str], names: Sequence[str]) -> Tensor:
    """Count outcomes per emotion.

    Args:
        correct: Outcome of each sample: right, wrong, or None where the completion was malformed.
        emotions: The category of each sample's true answer, one of `names`.
        names: All categories.

    Returns:
        (len(names), 3), int64, the columns `WRONG`, `CORRECT` and `UNPARSED`.

    Raises:
        ValueError: The lengths differ, or a category is unknown.
        TypeError: An outcome is neither a bool nor None.

    >>> emotion_counts([True, None], ["sad", "sad"], ["happy", "sad"]).tolist()
    [[0, 0, 0], [0, 1, 1]]
    """
    check_same_length("outcomes", correct, "emotions", emotions)
    rows = {name: row for row, name in enumerate(names)}
    counts = torch.zeros(len(names), 3, dtype=torch.long)
    for outcome, emotion in zip(correct, emotions, strict=True):
        if emotion not in rows:
            raise ValueError(f"expected an emotion among {list(names)}, got {emotion!r}; name it to the metric")
        counts[rows[emotion], UNPARSED if outcome is None else int(as_bool(outcome))] += 1
    return counts


def emotion_accuracy(counts: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Turn the sum of `emotion_counts` into shares of all samples, unparsed ones included.

    Returns:
        Scalars in 0..1: `accuracy`, `unparsed`, and `accuracy/<name>` for each emotion, nan for one without samples.

    >>> shares = emotion_accuracy(torch.tensor([[1, 1, 0], [0, 1, 1]]), ["happy", "sad"])
    >>> {name: share.item() for name, share in shares.items()}
    {'accuracy': 0.5, 'unparsed': 0.25, 'accuracy/happy': 0.5, 'accuracy/sad': 0.5}
    """
    totals = counts.sum(dim=0).double()
    per_emotion = counts[:, CORRECT].double() / counts.sum(dim=1)
    shares = {"accuracy": totals[CORRECT] / totals.sum(), "unparsed": totals[UNPARSED] / totals.sum()}
    return shares | {f"accuracy/{name}": share for name, share in zip(names, per_emotion, strict=True)}


def interquartile_range(values: Tensor, scale: float = 1.0) -> Tensor:
    """Third minus first quartile, both by linear interpolation, times `scale`; a scalar, nan without values.

    Raises:
        ValueError: A value is nan or infinite.

    >>> interquartile_range(torch.tensor([1.0, 2.0, 3.0, 4.0]), scale=10).item()
    15.0
    """
    values = values.double().flatten()
    check_finite(values)
    if not len(values):
        return values.new_tensor(math.nan)
    quartiles = values.quantile(values.new_tensor([0.25, 0.75]))
    return (quartiles[1] - quartiles[0]) * scale


def _entropy_nats(p_NY: Tensor) -> Tensor:
    nats_NY: Tensor = torch.special.entr(p_NY)
    return nats_NY.sum(dim=1)


def _log_base(base: float) -> float:
    if not base > 1:
        raise ValueError(f"expected the base of a logarithm, above 1, got {base}; use 2 for bits, math.e for nats")
    return math.log(base)
