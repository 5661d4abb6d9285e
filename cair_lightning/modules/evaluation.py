"""What evaluation yields: a prediction per sample, and the metrics of the paper over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from cair_lightning.metrics import (
    BeliefCalibration,
    EmotionAccuracy,
    FaithF1,
    InformationGain,
    InterquartileRange,
    KeywordExtractor,
    LeakRate,
    LogRatio,
    RougeL,
)
from cair_lightning.modules.settings import EvaluationSettings
from cair_lightning.policies.collation import Prompts
from cair_lightning.policies.qwen import QwenVLPolicy
from cair_lightning.rewards import LeakageLexicon, accuracy_reward, same_answer
from cair_lightning.structures import Answer, Example
from cair_lightning.verifier import Rewrite, Verdict, verify

OTHER = "other"
"""Emotion category of samples that have none."""


@dataclass(slots=True, kw_only=True)
class Prediction:
    """One evaluated sample. Beliefs are probabilities over the example's candidates."""

    example: Example
    completion: str
    answer: Answer | None
    """None where the completion is malformed."""
    p_obs: list[float]
    p_int: list[float] | None
    """None where there is no z."""
    controls: dict[str, list[float] | None]
    """P(Y | X, do(z')) for the rewritten rationales `shuffled` and `other`, and `masked` (leaks blanked)."""
    leaked: bool

    @property
    def correct(self) -> bool | None:
        """Whether the answer is y*; None where there is none."""
        return None if self.answer is None else same_answer(self.answer.answer, self.example.answer)

    @property
    def truth(self) -> int:
        """Index of y* among the candidates."""
        return self.example.candidates.index(self.example.answer)

    @property
    def log_ratio(self) -> float | None:
        """Eq. 4 unclipped, in nats."""
        if self.p_int is None:
            return None
        tiny = float(np.finfo(np.float32).tiny)
        return float(np.log(max(self.p_int[self.truth], tiny)) - np.log(max(self.p_obs[self.truth], tiny)))

    def rewards(self) -> dict[str, float | None]:
        """The unweighted parts of eq. 5; mediation unclipped and None without z."""
        answer = None if self.answer is None else self.answer.answer
        return {
            "accuracy": accuracy_reward(answer, self.example),
            "format": float(self.answer is not None),
            "mediation": self.log_ratio,
        }


def entropy_bits(p: Sequence[float]) -> float:
    """Shannon entropy in bits.

    >>> entropy_bits([0.5, 0.5])
    1.0
    """
    return float(sum(-x * np.log2(x) for x in p if x > 0))


def predict(policy: QwenVLPolicy, prompts: Prompts, settings: EvaluationSettings, stranger: str | None = None) -> list[Prediction]:
    """Answer each prompt once and read both paths; samples whose clip could not be read are left out.

    Args:
        policy: The model.
        prompts: A batch in the reason form.
        settings: How to sample.
        stranger: A rationale from an earlier batch, the control of a batch that has no other one.
    """
    lexicon = LeakageLexicon()
    with policy.scoring():
        prefix = policy.prefill(prompts)
        completions = policy.sample(prefix, 1, settings.max_new_tokens, settings.temperature)
        rewrites: dict[str, Rewrite] = {"masked": lambda z, n: lexicon.mask(z, prompts.examples[n].candidates)}
        if settings.controls:
            rewrites |= {"shuffled": lambda z, n: shuffled(z, prompts.examples[n].id)}
        verdict = verify(policy, prefix, completions, 1, rewrites)
        if settings.controls:
            others = _others(verdict.answers, stranger)
            verdict.rewritten["other"] = verify(
                policy, prefix, completions, 1, {"other": lambda _, n: others[n]}
            ).rewritten["other"]
    return [_prediction(prompts, verdict, n, lexicon) for n in range(len(prompts)) if prompts.valid_B[n]]


def shuffled(rationale: str, seed: str) -> str:
    """The words of a rationale in random order, the same for the same seed."""
    rng = np.random.default_rng(list(seed.encode()))
    return " ".join(rng.permutation(rationale.split()))


def _others(answers: Sequence[Answer | None], stranger: str | None) -> list[str | None]:
    """For each sample the rationale of the next well-formed one, round the batch; `stranger` where that is its own."""
    formed = [n for n, a in enumerate(answers) if a is not None]
    following = dict(zip(formed, [*formed[1:], *formed[:1]], strict=True))
    chosen = [answers[m] if (m := following.get(n, n)) != n else None for n in range(len(answers))]
    return [stranger if a is None else a.rationale for a in chosen]


def _prediction(prompts: Prompts, verdict: Verdict, n: int, lexicon: LeakageLexicon) -> Prediction:
    example, answer = prompts.examples[n], verdict.answers[n]
    size = len(example.candidates)
    return Prediction(
        example=example,
        completion=verdict.texts[n],
        answer=answer,
        p_obs=_belief(verdict.log_p_obs_BY[n], size) or [],
        p_int=_belief(verdict.log_p_int_NY[n], size),
        controls={name: _belief(log_p_NY[n], size) for name, log_p_NY in verdict.rewritten.items()},
        leaked=answer is not None and lexicon.leaks(answer.rationale, example.candidates),
    )


def _belief(log_p_Y: Tensor, size: int) -> list[float] | None:
    """Probabilities over a sample's own candidates; None where there is no z."""
    return None if log_p_Y[0].isnan() else log_p_Y[:size].double().softmax(0).tolist()


class EvaluationMetrics(nn.Module):
    """Every measure of Tables 2 to 4 over a stream of predictions, and what keeps them honest.

    Args:
        emotions: Categories of the accuracy per emotion.
        keyword_model: See `EvaluationSettings`.
    """

    def __init__(self, emotions: Sequence[str], keyword_model: str | None) -> None:
        super().__init__()
        self.accuracy = EmotionAccuracy([*emotions, OTHER])
        self.by_load = nn.ModuleDict({load: EmotionAccuracy([*emotions, OTHER]) for load in ("low", "high")})
        self.gain = nn.ModuleDict({name: InformationGain() for name in ("all", "low", "high", "masked", "shuffled", "other")})
        self.faith_f1 = None if keyword_model is None else FaithF1(KeywordExtractor(keyword_model))
        self.rouge_l = RougeL()
        self.leak_rate = LeakRate()
        self.log_ratio = LogRatio()
        self.log_ratio_masked = LogRatio()
        self.calibration = nn.ModuleDict({"obs": BeliefCalibration(), "int": BeliefCalibration()})
        self.stability = InterquartileRange(scale=100.0)
        self.rewards = nn.ModuleDict({name: MeanMetric() for name in ("accuracy", "format")})

    def update(self, predictions: Sequence[Prediction]) -> None:
        """Take in predictions. Samples without z count as misses; measures of z pass them over."""
        correct = [p.correct for p in predictions]
        emotions = [p.example.emotion or OTHER for p in predictions]
        self.accuracy.update(correct, emotions)
        for load, metric in self.by_load.items():
            chosen = [i for i, p in enumerate(predictions) if p.example.load == load]
            metric.update([correct[i] for i in chosen], [emotions[i] for i in chosen])
        self._update_text(predictions)
        self._update_beliefs(predictions)

    def _update_text(self, predictions: Sequence[Prediction]) -> None:
        keyed = [p for p in predictions if p.example.keywords]
        if self.faith_f1 is not None and keyed:
            self.faith_f1.update([p.answer and p.answer.rationale for p in keyed], [p.example.keywords or [] for p in keyed])
        explained = [p for p in predictions if p.example.rationale]
        self.rouge_l.update([p.answer and p.answer.rationale for p in explained], [p.example.rationale or "" for p in explained])
        self.leak_rate.update([p.leaked for p in predictions if p.answer is not None])
        for name, metric in self.rewards.items():
            metric.update(torch.tensor([p.rewards()[name] or 0.0 for p in predictions]))

    def _update_beliefs(self, predictions: Sequence[Prediction]) -> None:
        formed = [p for p in predictions if p.p_int is not None]
        obs, posterior = [torch.tensor(p.p_obs) for p in formed], [torch.tensor(p.p_int) for p in formed]
        truths = [p.truth for p in formed]
        self.gain["all"].update(obs, posterior)
        for load in ("low", "high"):
            chosen = [i for i, p in enumerate(formed) if p.example.load == load]
            self.gain[load].update([obs[i] for i in chosen], [posterior[i] for i in chosen])
        for name in ("masked", "shuffled", "other"):
            known = [i for i, p in enumerate(formed) if p.controls.get(name) is not None]
            changed = [torch.tensor(formed[i].controls[name]) for i in known]
            self.gain[name].update([obs[i] for i in known], changed)
            if name == "masked":
                self.log_ratio_masked.update([obs[i] for i in known], changed, [truths[i] for i in known])
        self.log_ratio.update(obs, posterior, truths)
        self.stability.update(torch.tensor([p.p_int[p.truth] for p in formed if p.p_int is not None]))
        self.calibration["obs"].update([torch.tensor(p.p_obs) for p in predictions], [p.truth for p in predictions])
        self.calibration["int"].update(posterior, truths)

    def compute(self) -> dict[str, float]:
        """All measures by name: rates between 0 and 1, information gains in bits, log-ratios and NLL in nats, IQR in points."""
        accuracy = self.accuracy.compute()
        result = {"accuracy": accuracy.pop("accuracy"), "unparsed_rate": accuracy.pop("unparsed")}
        result |= {f"accuracy_{load}": metric.compute()["accuracy"] for load, metric in self.by_load.items()}
        result |= {name: value for name, value in accuracy.items() if not value.isnan()}
        result |= {f"information_gain_{name}".removesuffix("_all"): metric.compute() for name, metric in self.gain.items()}
        if self.faith_f1 is not None:
            result["faith_f1"] = self.faith_f1.compute()
        result |= {"rouge_l": self.rouge_l.compute(), "leak_rate": self.leak_rate.compute()}
        result |= {"log_ratio": self.log_ratio.compute(), "log_ratio_masked": self.log_ratio_masked.compute()}
        for path, metric in self.calibration.items():
            result |= {f"{name}_{path}": value for name, value in metric.compute().items()}
        result |= {"iqr": self.stability.compute()}
        result |= {f"{name}_rate" if name == "format" else f"{name}_reward": m.compute() for name, m in self.rewards.items()}
        return {name: float(value) for name, value in result.items()}

    def reset(self) -> None:
        """Forget what was seen."""
        for module in self.modules():
            if module is not self and hasattr(module, "reset"):
                module.reset()
