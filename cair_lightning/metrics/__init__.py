"""The paper's measures as torchmetrics, usable in any project: importing them imports torch and torchmetrics only.

`functional` holds the same definitions as pure functions. What KeyBERT, HanTa and rouge-score do is imported on first
use. A metric that has seen nothing returns nan.
"""

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
