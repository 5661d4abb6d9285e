"""The paper's measures as torchmetrics, usable in any project.

Importing this package imports nothing; the first use of a metric imports torch and torchmetrics (which itself imports
transformers where that is installed). What KeyBERT, HanTa and rouge-score do is imported when it is first needed.
`functional` holds the same definitions as pure functions. A metric that has seen nothing returns nan.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cair_lightning.metrics import functional
    from cair_lightning.metrics.belief_calibration import BeliefCalibration
    from cair_lightning.metrics.emotion_accuracy import EmotionAccuracy
    from cair_lightning.metrics.faith_f1 import FaithF1
    from cair_lightning.metrics.information_gain import InformationGain
    from cair_lightning.metrics.interquartile_range import InterquartileRange
    from cair_lightning.metrics.keywords import Extractor, KeywordExtractor, extract_keywords
    from cair_lightning.metrics.leak_rate import LeakRate
    from cair_lightning.metrics.log_ratio import LogRatio
    from cair_lightning.metrics.rouge_l import RougeL
    from cair_lightning.metrics.sample_mean import SampleMean

__all__ = [
    "BeliefCalibration",
    "EmotionAccuracy",
    "Extractor",
    "FaithF1",
    "InformationGain",
    "InterquartileRange",
    "KeywordExtractor",
    "LeakRate",
    "LogRatio",
    "RougeL",
    "SampleMean",
    "extract_keywords",
    "functional",
]

_HOMES = {
    "BeliefCalibration": "belief_calibration",
    "EmotionAccuracy": "emotion_accuracy",
    "Extractor": "keywords",
    "FaithF1": "faith_f1",
    "InformationGain": "information_gain",
    "InterquartileRange": "interquartile_range",
    "KeywordExtractor": "keywords",
    "LeakRate": "leak_rate",
    "LogRatio": "log_ratio",
    "RougeL": "rouge_l",
    "SampleMean": "sample_mean",
    "extract_keywords": "keywords",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attributes have no common type
    """Import a metric when it is first used (PEP 562)."""
    if name == "functional":
        return import_module(f"{__name__}.functional")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it exports {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
